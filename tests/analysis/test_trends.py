import math

import numpy as np
import pytest
from msgspec.structs import replace

from bi_experiments.analysis.pairs import complete_pairs
from bi_experiments.analysis.trends import Level, launch_levels, over_launches, slope_of_launches, slope_within, trend
from bi_experiments.records import Arm, PhaseResult
from tests import factories


def slowing_down(per_minute_pct: float) -> list[PhaseResult]:
    """Six launches, a minute apart, of a machine that gets slower by that much."""
    phases = factories.phases([7.0, 7.0, 7.0])
    return [
        replace(
            phase,
            trials=tuple(
                replace(trial, time_s=trial.time_s * math.exp(math.log1p(per_minute_pct / 100) * phase.index))
                for trial in phase.trials
            ),
        )
        for phase in phases
    ]


def test_a_steady_slope_is_found_whole_with_no_doubt() -> None:
    found = trend([0, 1, 2, 3, 4], [0.0, 0.01, 0.02, 0.03, 0.04], span=4)
    assert found is not None
    assert found == pytest.approx((100 * math.expm1(0.04),) * 3)


def test_too_few_values_or_positions_have_no_trend() -> None:
    assert trend([0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3], span=3) is None
    assert trend([0, 1, 0, 1, 0, 1], [0.0, 0.1, 0.0, 0.1, 0.0, 0.1], span=1) is None
    assert trend([0, 1, 2, 3, 4], [0.1] * 5, span=4) is None


def test_launches_stand_to_the_mean_of_their_own_arm() -> None:
    levels = launch_levels(complete_pairs(factories.phases([0.0, 20.0, 40.0])))
    assert [level.arm for level in levels] == [Arm.BASELINE] * 3 + [Arm.BATCH_INVARIANT] * 3
    assert [level.log_ratio for level in levels[:3]] == pytest.approx([0.0] * 3)
    assert levels[3].log_ratio < 0 < levels[5].log_ratio
    for arm in (levels[:3], levels[3:]):
        assert sum(level.log_ratio for level in arm) == pytest.approx(0)
        assert sum(level.from_mean_s for level in arm) == pytest.approx(0)


def test_the_trend_over_launches_spans_the_first_to_the_last() -> None:
    found = over_launches(launch_levels(complete_pairs(slowing_down(1.0))), paired=False)
    assert found is not None
    assert found.total_pct == pytest.approx(100 * (1.01**5 - 1), rel=1e-6)
    assert over_launches((), paired=False) is None


def by_turns(rng: np.random.Generator, pairs: int) -> tuple[Level, ...]:
    """Launches of an evenly fast machine whose noise is shared by both launches of a pair."""
    shared = rng.normal(0, 0.03, pairs)
    arms = (Arm.BASELINE, Arm.BATCH_INVARIANT)
    logs = [shared + rng.normal(0, 0.005, pairs) for _ in arms]
    return tuple(
        Level(arm, 100.0 * pair, 100.0 * pair - 50.0 * (pairs - 1), float(log - own.mean()))
        for arm, own in zip(arms, logs, strict=True)
        for pair, log in enumerate(own)
    )


@pytest.mark.parametrize("pairs", [3, 4, 5, 8])
def test_noise_that_the_launches_of_a_pair_share_is_no_trend(pairs: int) -> None:
    rng = np.random.default_rng([20261130, pairs])
    found = [over_launches(by_turns(rng, pairs), paired=True) for _ in range(2000)]
    assert all(found)
    assert sum(one.low_pct * one.high_pct > 0 for one in found if one) / 2000 < 0.065


def test_two_pairs_by_turns_have_no_trend_and_three_have_one() -> None:
    levels = [launch_levels(complete_pairs(slowing_down(1.0)[:phases])) for phases in (4, 6)]
    assert over_launches(levels[0], paired=True) is None
    found = over_launches(levels[1], paired=True)
    assert found is not None
    assert found == pytest.approx((100 * (1.01**5 - 1),) * 3)


def test_pairs_by_turns_that_are_identical_have_no_trend() -> None:
    assert over_launches(launch_levels(complete_pairs(factories.phases([7.0] * 4))), paired=True) is None


PLACES = [[0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0]]
"""Where three launches ran four trials."""


def test_what_a_place_does_is_found_beside_launches_and_trials_that_differ() -> None:
    launches, trials = [0.0, 0.3, -0.2], [0.05, 0.4, 0.1, 0.2]
    values = [
        [launch + trial + 0.02 * place for trial, place in zip(trials, places, strict=True)]
        for launch, places in zip(launches, PLACES, strict=True)
    ]
    found = slope_within(PLACES, values)
    assert found is not None
    assert found == pytest.approx((0.02, 0.0), abs=1e-9)


def test_the_interval_of_what_a_place_does_has_the_truth_in_it_in_95_of_100_experiments() -> None:
    rng = np.random.default_rng(3)
    noisy = (0.02 * np.array(PLACES) + rng.normal(0, 0.01, (3, 4)) for _ in range(1000))
    found = [slope_within(PLACES, values.tolist()) for values in noisy]
    inside = sum(abs(one.rise - 0.02) <= one.margin for one in found if one)
    assert 930 <= inside <= 970  # 950, with a standard deviation of 7


def test_one_order_or_too_few_values_say_nothing_of_a_place() -> None:
    assert slope_within([[0, 1, 2]] * 3, [[0.1, 0.2, 0.3], [0.2, 0.1, 0.3], [0.1, 0.1, 0.4]]) is None
    assert slope_within([[0, 1], [1, 0]], [[0.1, 0.2], [0.2, 0.1]]) is None
    assert slope_within([[0, 1, 2]], [[0.1, 0.2, 0.3]]) is None
    assert slope_within([[0]], [[0.1]]) is None


def slopes_found(rng: np.random.Generator, launches: int, trials: int, own: float, common: float) -> float:
    """In how many per cent of 400 experiments a slope common to the launches is found."""
    found = 0
    for _ in range(400):
        places = np.array([rng.permutation(trials) for _ in range(launches)], dtype=float)
        slopes = common + own * rng.standard_normal((launches, 1))
        values = slopes * places + 0.01 * rng.standard_normal(places.shape) + 0.05 * rng.standard_normal(trials)
        slope = slope_of_launches(places.tolist(), values.tolist())
        found += slope is not None and abs(slope.rise) > slope.margin
    return found / 4


@pytest.mark.parametrize(("launches", "trials"), [(2, 3), (2, 5), (3, 3), (4, 5), (8, 3)])
@pytest.mark.parametrize("own", [0.0, 0.05])
def test_launches_that_drift_of_their_own_accord_show_no_common_slope(launches: int, trials: int, own: float) -> None:
    assert slopes_found(np.random.default_rng(5), launches, trials, own, 0.0) <= 8  # 5, with a deviation of 1.1


def test_a_slope_that_launches_have_in_common_is_found() -> None:
    assert slopes_found(np.random.default_rng(6), 4, 5, 0.002, 0.02) > 90


def test_one_order_or_one_launch_has_no_common_slope() -> None:
    assert slope_of_launches([[0, 1, 2]] * 3, [[0.1, 0.2, 0.3], [0.2, 0.1, 0.3], [0.1, 0.1, 0.4]]) is None
    assert slope_of_launches([[0, 1, 2, 3]], [[0.1, 0.2, 0.3, 0.1]]) is None
    without = slope_of_launches([[0, 1, 2]] * 3, [[0.1, 0.2, 0.3], [0.2, 0.1, 0.3], [0.1, 0.1, 0.4]], same_trials=False)
    assert without is not None
    assert without.rise == pytest.approx(0.1)
