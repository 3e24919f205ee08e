"""Variances by level come back from simulated experiments, and launches that share caches are one value."""

import math
import re
from statistics import fmean

import numpy as np
import pytest
from msgspec.structs import replace

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.levels import levels
from bi_experiments.analysis.pairs import Pair, complete_pairs, total_time_logs
from bi_experiments.records import Arm, PhaseResult
from bi_experiments.report.planning import planning
from tests import factories

CACHE, LAUNCH, TRIAL = 0.02, 0.01, 0.015
"""Standard deviations of the log time, by level."""
DESIGN = Design(equivalence_pct=1.0, paired=False, launches_per_cache=2)


def experiment(rng: np.random.Generator, caches: int, each: int = 2, trials: int = 4) -> tuple[Pair, ...]:
    """Pairs one after the other, in which every cache, launch and trial of an arm has noise of its own."""
    sizes = np.log(np.linspace(1.0, 3.0, trials))
    phases: list[PhaseResult] = []
    for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT):
        noise = CACHE * rng.standard_normal((caches, 1, 1)) + LAUNCH * rng.standard_normal((caches, each, 1))
        times = np.exp(sizes + noise + TRIAL * rng.standard_normal((caches, each, trials)))
        rows = times.reshape(-1, trials).tolist()
        phases += [factories.phase(arm, pair, times_s=row) for pair, row in enumerate(rows)]
    return complete_pairs(phases)


def test_the_variances_are_found_again() -> None:
    rng = np.random.default_rng(11)
    found = [levels(experiment(rng, caches=8), DESIGN, fresh_prompts=False) for _ in range(60)]
    assert fmean(one.cache or 0.0 for one in found if one) == pytest.approx(CACHE**2, rel=0.15)
    assert fmean(one.launch for one in found if one) == pytest.approx(LAUNCH**2, rel=0.2)
    assert fmean(one.trial for one in found if one) == pytest.approx(TRIAL**2, rel=0.05)


@pytest.mark.parametrize(
    ("caches", "each", "true"),
    [
        (4, 1, (CACHE**2 + LAUNCH**2) / (CACHE**2 + LAUNCH**2 + TRIAL**2 / 4)),
        (4, 2, CACHE**2 / (CACHE**2 + (LAUNCH**2 + TRIAL**2 / 4) / 2)),
    ],
)
def test_the_interval_of_the_highest_levels_share_holds_the_true_one(caches: int, each: int, true: float) -> None:
    rng = np.random.default_rng(12)
    design = DESIGN._replace(launches_per_cache=each)
    held = 0
    for _ in range(400):
        found = levels(experiment(rng, caches, each), design, fresh_prompts=False)
        assert found is not None
        assert found.highest.low <= found.highest.value <= found.highest.high
        held += found.highest.low <= true <= found.highest.high
    assert 0.92 <= held / 400 <= 0.98


def test_what_four_launches_say_of_the_level_is_little() -> None:
    """Without any spread of launches the interval reaches from none of it to most of it."""
    rng = np.random.default_rng(8)
    phases = [
        factories.phase(arm, pair, times_s=(2 * np.exp(0.02 * rng.standard_normal(5))).tolist())
        for pair in range(4)
        for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT)
    ]
    found = levels(complete_pairs(phases), Design(equivalence_pct=1.0), fresh_prompts=False)
    assert found is not None
    assert found.highest.low == 0
    assert found.highest.high > 0.5


def test_more_of_a_level_helps_against_its_own_variance_and_those_below_alone() -> None:
    found = levels(experiment(np.random.default_rng(3), caches=6), DESIGN, fresh_prompts=False)
    assert found is not None
    assert (found.caches, found.launches, found.trials) == (6, 12, 4)
    assert found.error(caches=2) == pytest.approx(found.error() / math.sqrt(2))
    assert found.error() > found.error(trials=2) > found.error(launches=2) > found.error(caches=2)
    least = math.sqrt((found.cache or 0.0) / 6)
    assert found.error(launches=1000, trials=1000) == pytest.approx(least, rel=0.01)
    assert found.narrower(caches=2) < 1 / math.sqrt(2)  # degrees of freedom come with it


def test_what_the_trials_prompts_explain_is_no_spread() -> None:
    still = complete_pairs(factories.phases([7.0] * 4, times_s=(1.0, 5.0, 20.0)))
    found = levels(still, Design(equivalence_pct=1.0, paired=False), fresh_prompts=False)
    assert found is not None
    assert found.error() < 1e-12
    assert found.cache is None


def test_by_turns_what_a_pair_shares_is_no_spread() -> None:
    phases = [
        replace(one, trials=tuple(replace(trial, time_s=trial.time_s * (1 + 0.1 * one.pair)) for trial in one.trials))
        for one in factories.phases([7.0, 7.2, 6.9, 7.1])
    ]
    pairs = complete_pairs(phases)
    by_turns, apart = (
        levels(pairs, Design(equivalence_pct=1.0, paired=paired), fresh_prompts=False) for paired in (True, False)
    )
    assert by_turns is not None
    assert apart is not None
    assert math.sqrt(by_turns.launch) < 0.002
    assert math.sqrt(apart.launch) > 0.1


def test_too_few_launches_and_one_trial_say_nothing() -> None:
    design = Design(equivalence_pct=1.0, paired=False)
    assert levels(complete_pairs(factories.phases([7.0, 8.0])), design, fresh_prompts=False) is None
    one_trial = complete_pairs(factories.phases([7.0, 8.0, 9.0], times_s=(2.0,)))
    assert levels(one_trial, design, fresh_prompts=False) is None


def test_launches_that_share_caches_are_one_value_of_the_interval() -> None:
    """Taken for independent launches they make an interval that is too narrow."""
    rng = np.random.default_rng(7)
    held = dict.fromkeys((1, 4), 0)
    for _ in range(400):
        pairs = experiment(rng, caches=4, each=4, trials=2)
        for size in held:
            design = DESIGN._replace(launches_per_cache=size)
            estimate = design.estimate(*total_time_logs(pairs), pairs)
            assert estimate.low_pct is not None
            assert estimate.high_pct is not None
            held[size] += estimate.low_pct <= 0.0 <= estimate.high_pct
    assert held[4] / 400 >= 0.92
    assert held[1] / 400 < 0.85


def test_the_report_says_which_level_and_what_more_of_it_buys() -> None:
    pairs = experiment(np.random.default_rng(3), caches=4)
    phases = [phase for pair in pairs for phase in pair]
    fresh = ("protocol.caches=fresh", "protocol.pairs=8", "protocol.launches_per_cache=2")
    said = planning(factories.whole_result(phases, *fresh))[-1]
    assert said.startswith("Where the spread comes from: of the variance of a launch's log time, ")
    assert re.search(r"\d+ % \[\d+ %, \d+ %\] is between compile caches and the rest between launches", said)
    assert "Twice the caches would narrow the interval to " in said
    assert "Estimated from 4 caches an arm." in said
    said = planning(factories.whole_result(phases, *fresh[:2]))[-1]
    assert "each with compile caches of its own" in said
    assert "protocol.launches_per_cache=2" in said
    said = planning(factories.whole_result(phases))[-1]
    assert re.search(r"\d+ % \[\d+ %, \d+ %\] is between launches and the rest between the trials of one", said)
    assert re.search(r"twice the trials to \d+ % \[\d+ %, \d+ %\]", said)
