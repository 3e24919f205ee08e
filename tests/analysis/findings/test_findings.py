"""Each finding appears when its cause is there and not otherwise, and pure noise rarely looks like a cause."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from bi_experiments.analysis.findings import all_findings
from bi_experiments.config.schema import Caches, Interleave, Order, ProtocolConfig
from bi_experiments.records import Arm, Finding, NeedleCheck, PhaseResult, PhaseStatus
from bi_experiments.wording import before_noun
from tests import factories

Phases = tuple[PhaseResult, ...]

BY_TURNS = factories.protocol(interleave=Interleave.trial)


def findings(phases: Phases, protocol: ProtocolConfig | None = None, cpu_count: int = 2) -> tuple[Finding, ...]:
    pairs = len({phase.pair for phase in phases})
    return all_findings(phases, protocol or factories.protocol(), planned_pairs=pairs, cpu_count=cpu_count)


def only(phases: Phases, protocol: ProtocolConfig | None = None) -> Finding:
    """The finding, if it is the only one."""
    (finding,) = findings(phases, protocol)
    return finding


def kinds(phases: Phases, protocol: ProtocolConfig | None = None, cpu_count: int = 2) -> set[str]:
    return {finding.kind for finding in findings(phases, protocol, cpu_count)}


def with_times(phases: Phases, factor: dict[Arm, list[float]]) -> Phases:
    """The phases with the trial times of an arm multiplied, trial by trial."""
    result = []
    for phase in phases:
        factors = factor.get(phase.arm, [1.0] * len(phase.trials))
        trials = (replace(t, time_s=t.time_s * by) for t, by in zip(phase.trials, factors, strict=True))
        result.append(replace(phase, trials=tuple(trials)))
    return tuple(result)


@pytest.mark.filterwarnings("error")
def test_a_clean_experiment_has_no_finding() -> None:
    assert findings(factories.phases()) == ()


def test_nothing_is_said_without_a_complete_pair() -> None:
    assert findings((factories.phase(Arm.BASELINE),)) == ()


# --- Work and invariance --------------------------------------------------------------------------------------------


def test_needle_that_differs_in_the_batch_invariant_arm() -> None:
    *others, last = factories.phases()
    phases = (*others, factories.with_trial(last, 1, needle=NeedleCheck(equal=False, first_difference=3)))
    assert last.arm is Arm.BATCH_INVARIANT
    finding = only(phases)
    assert finding.kind == "needle"
    assert "in 1 of 12 trials of the batch-invariant arm" in finding.message


@pytest.mark.parametrize("second", [Arm.BATCH_INVARIANT, Arm.CONTROL])
def test_a_baseline_may_differ(second: Arm) -> None:
    differing = NeedleCheck(equal=False, first_difference=3)
    phases = tuple(
        phase if phase.arm is Arm.BATCH_INVARIANT else factories.with_trial(phase, 1, needle=differing)
        for phase in factories.phases(second=second)
    )
    assert findings(phases) == ()


def test_different_token_counts() -> None:
    *others, last = factories.phases()
    finding = only((*others, factories.with_trial(last, 2, output_tokens=127)))
    assert finding.kind == "token_counts"
    assert "trial 3 of pair 3 generated 128 tokens in the baseline and 127 in the second arm" in finding.message
    assert "workload.ignore_eos=true" in finding.remedy


# --- What the interval rests on -------------------------------------------------------------------------------------


def test_a_pair_that_was_lost() -> None:
    *others, last = factories.phases((7.0, 7.5, 8.0))
    finding = only((*others, replace(last, status=PhaseStatus.TIMED_OUT)))
    assert finding.kind == "incomplete"
    assert finding.message == (
        "The result rests on 2 complete pairs of the 3 planned: phase 6 (batch invariant) timed out."
    )


def test_a_budget_that_may_have_ended_it_is_not_to_be_run_again_as_it_was() -> None:
    protocol = factories.protocol(time_budget_min=7.8)
    (finding,) = all_findings(factories.phases((7.0, 7.5)), protocol, planned_pairs=3, cpu_count=2)
    assert "protocol.time_budget_min above 7.8 or none" in finding.remedy


def test_what_a_signal_ended_is_to_be_resumed_whatever_its_budget() -> None:
    *others, last = factories.phases((7.0, 7.5, 8.0))
    phases = (*others, replace(last, status=PhaseStatus.INTERRUPTED))
    protocol = factories.protocol(time_budget_min=60)
    (finding,) = all_findings(phases, protocol, planned_pairs=3, cpu_count=2)
    assert "sweep.resume=true" in finding.remedy
    assert "time_budget_min" not in finding.remedy


def test_an_experiment_that_ended_early_is_not_told_to_plan_what_it_had_planned() -> None:
    found = all_findings(factories.phases((7.0,)), factories.protocol(), planned_pairs=4, cpu_count=2)
    assert [one.kind for one in found] == ["incomplete", "single_launch"]
    assert "protocol" not in found[1].remedy
    wide = factories.protocol(target_half_width_pct=0.1, pairs=3, max_pairs=9)
    (finding,) = all_findings(factories.phases((7.0, 7.5)), wide, planned_pairs=3, cpu_count=2)
    assert finding.kind == "incomplete"


def test_pairs_that_were_never_started() -> None:
    (finding,) = all_findings(factories.phases((7.0, 7.5)), factories.protocol(), planned_pairs=3, cpu_count=2)
    assert finding.message.endswith("the experiment ended early.")


def test_one_launch_an_arm() -> None:
    assert only(factories.phases((7.0,))).kind == "single_launch"


def test_a_half_width_that_was_not_reached() -> None:
    assert findings(factories.phases(), factories.protocol(target_half_width_pct=2.0, max_pairs=3)) == ()
    finding = only(factories.phases(), factories.protocol(target_half_width_pct=0.5, max_pairs=3))
    assert finding.kind == "half_width"
    assert "After 3 pairs the half-width of the interval is 1.2 %, over the target of 0.5 %" in finding.message


# --- What falls on one arm ------------------------------------------------------------------------------------------


def test_baseline_first() -> None:
    phases = tuple(factories.phase(arm, pair) for pair in range(3) for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT))
    finding = only(phases, factories.protocol(order=Order.baseline_first))
    assert finding.kind == "order"
    assert finding.message.startswith("The baseline ran first in every pair")
    assert findings(phases, BY_TURNS) == ()


def test_which_arm_ran_first_is_told_by_the_clock_and_not_by_the_plan() -> None:
    """After a failure the second phase of a pair can run before the first one is made up for."""
    *others, first, second = factories.phases((7.0, 7.5))
    late = replace(first, started_at=second.started_at + factories.PHASE_S)
    assert "order" not in kinds((*others, first, second))
    assert "order" in kinds((*others, late, second))


def test_one_pair_has_some_order_and_only_a_fixed_rule_is_a_finding() -> None:
    phases = factories.phases((7.0,))
    assert kinds(phases, factories.protocol(order=Order.balanced)) == {"single_launch"}
    assert kinds(phases, factories.protocol(order=Order.baseline_first)) == {"single_launch", "order"}


def test_the_users_caches_with_a_cold_first_launch() -> None:
    protocol = factories.protocol(caches=Caches.user)
    finding = only(factories.phases(), protocol)
    assert finding.kind == "caches"
    assert "took 12.0 s against 8.0 s in its later launches" in finding.message
    warm = tuple(replace(phase, init_time_s=8.0) for phase in factories.phases())
    assert findings(warm, protocol) == ()


# --- What moves -----------------------------------------------------------------------------------------------------


def sized(phases: Phases) -> Phases:
    """The phases with trials whose time is as their number of tokens, to within half a per cent."""
    tokens = (900, 1500, 1100, 1300, 1000, 1400)
    deviations = (1.0, 1.002, 0.996, 1.004, 0.999, 1.001)
    return tuple(
        replace(
            phase,
            trials=tuple(
                replace(trial, prompt_tokens=count - 128, time_s=trial.time_s * count / 500 * deviation)
                for trial, count, deviation in zip(phase.trials, tokens, deviations, strict=True)
            ),
        )
        for phase in phases
    )


SIX = (1.0,) * 6


@pytest.mark.parametrize("arm", [Arm.BASELINE, Arm.BATCH_INVARIANT])
def test_a_first_trial_that_is_slower_than_its_size_explains(arm: Arm) -> None:
    phases = with_times(sized(factories.phases((7.0, 7.0), SIX)), {arm: [1.2, 1.0, 1.0, 1.0, 1.0, 1.0]})
    messages = [finding.message for finding in findings(phases) if finding.kind == "warm_up"]
    assert len(messages) == 1
    assert f"the {before_noun(arm)} arm: its first trial took 20." in messages[0]


def test_a_first_trial_that_is_larger_is_no_finding() -> None:
    tokens = (1800, 900, 1500, 1100, 1300, 1000)
    phases = tuple(
        replace(
            phase,
            trials=tuple(
                replace(trial, prompt_tokens=count - 128, time_s=trial.time_s * count / 500)
                for trial, count in zip(phase.trials, tokens, strict=True)
            ),
        )
        for phase in factories.phases((7.0, 7.0), SIX)
    )
    assert findings(phases) == ()


def in_random_order(
    rng: np.random.Generator, noise: float, cold: float = 1.0, drift: float = 0.0, costs: Sequence[float] = (1.0,) * 5
) -> Phases:
    """Four pairs by turns, whose five trials run in another order in each; those that run first take `cold` as long.

    The second arm's trials cost their own factor, and `drift` more from the first to the last place.
    """
    phases = []
    for pair in range(4):
        places = rng.permutation(5)
        for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT):
            times_s = np.array([2.0, 3.0, 2.5, 3.5, 2.2]) * np.exp(noise * rng.standard_normal(5))
            times_s[places == 0] *= cold
            if arm is Arm.BATCH_INVARIANT:
                times_s *= np.array(costs) * (1 + drift) ** (places / 4)
            one = factories.phase(arm, pair, times_s=times_s.tolist())
            trials = (
                replace(trial, started_at=one.started_at + 20.0 + 5.0 * int(place))
                for trial, place in zip(one.trials, places, strict=True)
            )
            phases.append(replace(one, trials=tuple(trials)))
    return tuple(phases)


def test_first_trials_in_random_order_that_are_slower_than_the_same_ones_later() -> None:
    rng = np.random.default_rng(5)
    found = [
        finding for finding in findings(in_random_order(rng, 0.005, cold=1.1), BY_TURNS) if finding.kind == "warm_up"
    ]
    assert ["the baseline arm" in finding.message for finding in found] == [True, False]
    assert ["the batch-invariant arm" in finding.message for finding in found] == [False, True]
    assert all("took 10." in finding.message or "took 9." in finding.message for finding in found)


def test_noise_in_random_order_is_rarely_taken_for_a_cold_start() -> None:
    rng = np.random.default_rng(6)
    found = sum("warm_up" in kinds(in_random_order(rng, 0.02), BY_TURNS) for _ in range(200))
    assert found / 200 < 0.10  # the upper side of two 95 % intervals


UNEQUAL = (1.2, 1.3, 1.25, 1.4, 1.22)
"""What trials cost whose batches are of different sizes."""


@pytest.mark.parametrize("costs", [(1.0,) * 5, UNEQUAL])
def test_drift_within_the_launches_of_one_arm(costs: Sequence[float]) -> None:
    rng = np.random.default_rng(7)
    (finding,) = drifts(in_random_order(rng, 0.0, drift=0.05, costs=costs), BY_TURNS)
    assert "from the first trial to the last, the second arm gets 5.0 % slower against the baseline" in finding.message
    found = [drifts(in_random_order(rng, 0.005, drift=0.05, costs=costs), BY_TURNS) for _ in range(20)]
    assert sum(map(bool, found)) == 20


def test_trials_that_cost_differently_are_rarely_taken_for_a_drift() -> None:
    rng = np.random.default_rng(8)
    found = [drifts(in_random_order(rng, 0.005, costs=UNEQUAL), BY_TURNS) for _ in range(200)]
    assert sum(map(bool, found)) / 200 < 0.05


def test_where_every_launch_has_one_order_a_trial_that_costs_more_is_no_drift() -> None:
    rising = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05]
    assert "drift" not in kinds(with_times(factories.phases((7.0, 2.0, 12.0), SIX), {Arm.BATCH_INVARIANT: rising}))


def test_in_one_order_an_a_a_can_drift_and_so_can_pairs_with_prompts_of_their_own() -> None:
    rising = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05]
    control = with_times(factories.phases((0.0, 2.0, -2.0), SIX, Arm.CONTROL), {Arm.CONTROL: rising})
    (drift,) = drifts(control, factories.protocol(control=True))
    assert "gets 5.0 % slower against the baseline" in drift.message
    phases = with_times(factories.phases((7.0, 2.0, 12.0), SIX), {Arm.BATCH_INVARIANT: rising})
    own = (replace(p, trials=tuple(replace(t, prompt_tokens=900 + p.pair) for t in p.trials)) for p in phases)
    assert "gets 5.0 % slower against the baseline" in only(tuple(own)).message


def with_prompts_of_their_own(rng: np.random.Generator, noise: float) -> Phases:
    """Four pairs of three trials whose cost is noise alone."""
    return tuple(
        replace(
            phase,
            trials=tuple(
                replace(t, time_s=t.time_s * float(np.exp(noise * rng.normal())), prompt_tokens=900 + phase.pair)
                for t in phase.trials
            ),
        )
        for phase in factories.phases((0.0,) * 4, (1.0,) * 3)
    )


def test_noise_of_trials_with_prompts_of_their_own_is_rarely_taken_for_a_drift() -> None:
    """Among values from the means of their own pairs a slope that takes all for independent is there in 9 %."""
    rng = np.random.default_rng(9)
    said = [drifts(with_prompts_of_their_own(rng, 0.03), BY_TURNS) for _ in range(1000)]
    found = sum(any("within a launch" in finding.message for finding in each) for each in said)
    assert found / 1000 < 0.065


def test_two_trials_cannot_show_a_drift_within_launches() -> None:
    phases = factories.phases((7.0, 7.1, 7.0), (1.0, 1.0))
    assert findings(with_times(phases, {Arm.BATCH_INVARIANT: [1.0, 1.05]})) == ()


def test_four_trials_of_one_pair_rise_by_chance_too_often_to_show_a_drift() -> None:
    phases = with_times(factories.phases((7.0,), SIX[:4]), {Arm.BATCH_INVARIANT: [1.0, 1.02, 1.04, 1.06]})
    assert kinds(phases) == {"single_launch"}


def test_drift_that_both_arms_share_cancels() -> None:
    rising = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05]
    both = {Arm.BASELINE: rising, Arm.BATCH_INVARIANT: rising}
    assert "drift" not in kinds(with_times(factories.phases((7.0, 7.5), SIX), both))


def drifting(per_launch: float, pairs: int = 4) -> Phases:
    """Phases whose trials take that share longer from each launch to the next; the baseline is always first."""
    return tuple(
        factories.phase(arm, pair, times_s=[(1 + per_launch) ** (2 * pair + position)] * 4)
        for pair in range(pairs)
        for position, arm in enumerate((Arm.BASELINE, Arm.BATCH_INVARIANT))
    )


def drifts(phases: Phases, protocol: ProtocolConfig | None = None) -> list[Finding]:
    return [finding for finding in findings(phases, protocol) if finding.kind == "drift"]


def test_drift_over_the_launches() -> None:
    (finding,) = drifts(drifting(-0.01))
    # Seven steps of 1 %, without a spread: the arms' own levels and places in the schedule are taken out exactly.
    assert finding.message.endswith("trials of both arms got 6.8 % faster [-6.8 %, -6.8 %].")


def test_taking_turns_is_the_remedy_only_while_it_is_not_in_use() -> None:
    (one,) = drifts(drifting(-0.01))
    (other,) = drifts(drifting(-0.01), BY_TURNS)
    assert "protocol.interleave=trial" in one.remedy
    assert "interleave" not in other.remedy


def test_small_drift_is_not_reported_even_when_the_last_launches_jump() -> None:
    assert drifts(drifting(0.001)) == []
    *others, baseline, last = drifting(0.001, pairs=5)
    jump = with_times((baseline, last), {Arm.BASELINE: [1.03] * 4, Arm.BATCH_INVARIANT: [1.03] * 4})
    assert drifts((*others, *jump)) == []


def test_two_pairs_cannot_show_a_drift_over_launches() -> None:
    assert drifts(drifting(0.01, pairs=2)) == []


# --- Neighbours -----------------------------------------------------------------------------------------------------


def with_load(*loads: float) -> Phases:
    return tuple(replace(phase, load_average=load) for phase, load in zip(factories.phases(), loads, strict=True))


def test_load_before_the_first_phase_is_somebody_elses() -> None:
    finding = only(with_load(1.8, 0.2, 0.2, 0.2, 0.2, 0.2))
    assert finding.kind == "neighbour"
    assert "before phase 1 (baseline): on average 1.8 of its threads ran or waited for one of 2 CPUs" in finding.message


def test_the_load_that_the_last_phase_left_is_not() -> None:
    assert findings(with_load(0.5, 2.1, 2.3, 2.2, 2.0, 2.4)) == ()
    assert kinds(with_load(0.5, 2.1, 2.3, 3.6, 2.0, 2.4)) == {"neighbour"}


def test_the_load_that_the_uncounted_launch_left_is_not_somebody_elses() -> None:
    first, *others = with_load(1.8, 2.1, 2.3, 2.2, 2.0, 2.4)
    uncounted = factories.phase(index=-1, started_at=first.started_at - first.wall_time_s, load_average=0.2)

    def found(before: PhaseResult | None) -> list[str]:
        said = all_findings((first, *others), factories.protocol(), 3, cpu_count=2, discarded=before)
        return [finding.message for finding in said if finding.kind == "neighbour"]

    assert "before phase 1 (baseline)" in found(None)[0]
    assert found(uncounted) == []
    (message,) = found(replace(uncounted, load_average=1.9))
    assert "uncounted launch (baseline): on average 1.9 of its threads ran or waited for one of 2 CPUs" in message


def test_what_a_phase_left_is_forgotten_after_minutes() -> None:
    first, *others = with_load(0.2, 0.2, 0.2, 0.2, 0.2, 1.9)
    late = replace(others[-1], started_at=others[-1].started_at + 300.0)
    assert kinds((first, *others[:-1], late)) == {"neighbour"}


def test_many_cpus_carry_more_load() -> None:
    assert kinds(with_load(6.0, 6.0, 6.0, 6.0, 6.0, 6.0), cpu_count=128) == set()
    assert kinds(with_load(6.0, 6.0, 6.0, 6.0, 6.0, 6.0), cpu_count=16) == {"neighbour"}


# --- Noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_tokens", [12_000, 60_000])
def test_noise_alone_is_rarely_taken_for_a_cause(first_tokens: int) -> None:
    """Also not when the first trial is of a size that the others tell little about."""
    rng = np.random.default_rng(7)
    experiments = 300
    found: Counter[str] = Counter()
    for _ in range(experiments):
        tokens = np.array([first_tokens, *rng.integers(8000, 16000, 4)])
        phases = tuple(
            replace(
                phase,
                trials=tuple(
                    replace(trial, prompt_tokens=int(count) - 128, time_s=float(count / 8000 * noise))
                    for trial, count, noise in zip(
                        phase.trials, tokens, np.exp(0.008 * rng.normal() + 0.01 * rng.normal(size=5)), strict=True
                    )
                ),
            )
            for phase in factories.phases((0.0, 0.0, 0.0), (1.0,) * 5)
        )
        found.update(kinds(phases))
    # Two trends at 5 %, and the upper side of two 95 % intervals.
    assert found["drift"] < 0.15 * experiments
    assert found["warm_up"] < 0.10 * experiments
    assert found.keys() <= {"drift", "warm_up"}


def test_concurrent_experiments_are_named_and_their_load_is_not_a_second_finding() -> None:
    busy = [factories.phase(load_average=2.0), factories.phase(Arm.BATCH_INVARIANT)]
    found = all_findings(busy, factories.protocol(), 1, 2, beside=["sweep/1 demo", "sweep/2 demo"])
    (shared,) = [finding for finding in found if finding.kind == "shared"]
    assert "sweep/1 demo, sweep/2 demo" in shared.message
    assert "neighbour" not in {finding.kind for finding in found}


def test_launches_of_a_pair_that_lie_apart_are_reported() -> None:
    def found(gap_s: float) -> set[str]:
        first = factories.phase()
        second = factories.phase(Arm.BATCH_INVARIANT, started_at=first.started_at + first.wall_time_s + gap_s)
        return {finding.kind for finding in all_findings([first, second], factories.protocol(), 1, 2)}

    assert "interrupted" in found(3600)
    assert "interrupted" not in found(5)
