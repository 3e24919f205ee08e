"""The three changes between two sides of experiments: what their unit is, and which pairs they are from."""

import math
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.changes import changes_between
from bi_experiments.analysis.estimates import contrast_estimate, welch_estimate
from bi_experiments.errors import ConfigurationError
from bi_experiments.records import ExperimentResult
from tests import factories

BEFORE = (7.0, 7.5, 8.0)
SLOWER = (12.0, 12.5, 13.0)


def experiment(costs_pct: Sequence[float], **changes: object) -> ExperimentResult:
    return factories.experiment_result(factories.phases(costs_pct), **changes)


def with_fresh_prompts(costs_pct: Sequence[float], factor: float = 1.0, tokens: int = 100) -> ExperimentResult:
    """An experiment whose pairs have prompts of their own: pair n is n + 1 times the work of the first."""
    phases = tuple(
        replace(
            one,
            trials=tuple(
                replace(
                    trial,
                    batch_size=8 * (one.pair + 1),
                    output_tokens=tokens * (one.pair + 1),
                    time_s=factor * trial.time_s * (one.pair + 1),
                )
                for trial in one.trials
            ),
        )
        for one in factories.phases(costs_pct)
    )
    result = factories.experiment_result(phases)
    workload = {**result.configuration["workload"], "fresh_prompts": True}
    return replace(result, configuration={**result.configuration, "workload": workload})


def test_the_three_changes_and_their_intervals() -> None:
    changes = changes_between([experiment(BEFORE)], [experiment(SLOWER)])
    logs = [[math.log1p(cost / 100) for cost in costs] for costs in (BEFORE, SLOWER)]
    assert changes.ratio == pytest.approx(tuple(welch_estimate(*logs)))
    assert changes.ratio.change_pct == pytest.approx(100 * (1.125 / 1.075 - 1), abs=0.01)
    assert changes.mode == pytest.approx(tuple(changes.ratio))
    assert changes.baseline.change_pct == 0.0


def test_with_several_experiments_a_side_the_experiment_is_the_unit() -> None:
    before = [experiment([7.0 + n, 7.5 + n, 8.0 + n]) for n in range(3)]
    after = [experiment([8.0 + n, 8.5 + n, 9.0 + n]) for n in range(3)]
    changes = changes_between(before, after)
    single = changes_between([experiment(BEFORE)], [experiment([8.0, 8.5, 9.0])])
    assert changes.ratio.half_width_pct is not None
    assert single.ratio.half_width_pct is not None
    assert changes.ratio.half_width_pct > single.ratio.half_width_pct  # experiments differ more than their launches


def in_two_stages(costs_pct: Sequence[float], first_stage: int) -> ExperimentResult:
    protocol = {"pairs": first_stage, "target_half_width_pct": 1.0, "max_pairs": 9}
    return experiment(costs_pct, configuration={"protocol": protocol})


def test_of_two_stages_the_spread_is_that_of_the_first() -> None:
    costs = (7.0, 7.5, 8.0, 20.0), (12.0, 12.1, 30.0)
    changes = changes_between([in_two_stages(costs[0], 3)], [in_two_stages(costs[1], 2)])
    one, other = ([math.log1p(cost / 100) for cost in side] for side in costs)
    assert changes.ratio == pytest.approx(tuple(contrast_estimate([other], [one], [other[:2], one[:3]])))
    assert changes.mode == pytest.approx(tuple(changes.ratio))
    all_of_them = welch_estimate(one, other)
    assert changes.ratio.change_pct == pytest.approx(all_of_them.change_pct)
    assert changes.ratio.half_width_pct != pytest.approx(all_of_them.half_width_pct)


def test_of_several_experiments_in_two_stages_on_one_side_all_first_stages_count() -> None:
    costs = (7.0, 7.5, 20.0), (6.0, 6.1, 6.2), (12.0, 12.1, 30.0)
    *before, after = (in_two_stages(side, 2) for side in costs)
    changes = changes_between(before, [after])
    *two, other = ([math.log1p(cost / 100) for cost in side] for side in costs)
    one, first = two[0] + two[1], two[0][:2] + two[1][:2]
    assert changes.ratio == pytest.approx(tuple(contrast_estimate([other], [one], [other[:2], first])))


def test_a_first_stage_that_lost_all_but_one_of_its_pairs_says_nothing_of_the_spread() -> None:
    before, after = in_two_stages((7.0, 7.5, 8.0, 8.5), 2), in_two_stages((12.0, 12.5, 13.0, 13.5), 2)
    lost = replace(before, phases=tuple(phase for phase in before.phases if phase.pair != 1))
    assert changes_between([lost], [after]).ratio.half_width_pct is not None


def test_without_a_pair_of_the_same_prompts_nothing_is_compared() -> None:
    before, after = with_fresh_prompts((7.0, 7.5, 8.0)), with_fresh_prompts((7.0, 7.5, 8.0, 8.0, 8.0))
    later = replace(after, phases=tuple(phase for phase in after.phases if phase.pair > 2))
    with pytest.raises(ConfigurationError, match="no complete pair with the same prompts"):
        changes_between([before], [later])
