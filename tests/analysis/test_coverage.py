"""What the interval promises, simulated: it holds the true cost 95 % of the time, and drift does not move it."""

import math
from functools import cache
from statistics import fmean

import numpy as np
import pytest
from numpy.typing import NDArray

from bi_experiments.analysis.estimates import Estimate, paired_estimate
from bi_experiments.analysis.pairs import mean_log
from bi_experiments.config.schema import Order
from bi_experiments.launch.schedule import plan
from bi_experiments.records import Arm

COST_PCT = 7.4
LAUNCH_SIGMA = 0.008
"""Standard deviation of ln t that all trials of a launch share."""
TRIAL_SIGMA = 0.01
"""Standard deviation of ln t of a single trial."""
TRIALS = 5
EXPERIMENTS = 10000
"""Experiments simulated; the standard error of a coverage of 95 % is then 0.22 %."""


@cache
def simulated(pairs: int) -> NDArray[np.float64]:
    """Trial times, indexed [experiment, pair, arm, trial]; every launch and every trial has noise of its own."""
    rng = np.random.default_rng(20240919 + pairs)
    sizes = np.log(rng.uniform(1.0, 2.0, (EXPERIMENTS, 1, 1, TRIALS)))
    cost = np.array([0.0, math.log1p(COST_PCT / 100)]).reshape(1, 1, 2, 1)
    launches = LAUNCH_SIGMA * rng.standard_normal((EXPERIMENTS, pairs, 2, 1))
    trials = TRIAL_SIGMA * rng.standard_normal((EXPERIMENTS, pairs, 2, TRIALS))
    times: NDArray[np.float64] = np.exp(sizes + cost + launches + trials)
    return times


def covers(estimate: Estimate) -> bool:
    assert estimate.low_pct is not None
    assert estimate.high_pct is not None
    return estimate.low_pct <= COST_PCT <= estimate.high_pct


@pytest.mark.parametrize("pairs", [3, 5, 8])
def test_the_interval_covers_the_true_cost_95_per_cent_of_the_time(pairs: int) -> None:
    hits = [
        covers(paired_estimate([mean_log(other) - mean_log(baseline) for baseline, other in experiment.tolist()]))
        for experiment in simulated(pairs)
    ]
    assert 0.93 <= fmean(hits) <= 0.97


def test_trials_counted_as_if_they_were_independent_would_cover_far_less() -> None:
    """The reason why the pair is the unit, and the proof that this simulation can tell."""
    hits = [
        covers(paired_estimate(np.log(experiment[:, 1] / experiment[:, 0]).ravel().tolist()))
        for experiment in simulated(3)
    ]
    assert fmean(hits) < 0.85


def estimate_under_drift(pairs: int, order: Order, seed: int, drift: float) -> float:
    """The cost that is found when there is none, and ln t rises by `drift` from each launch to the next."""
    baseline, other = (
        [drift * slot.index for pair in plan(pairs, order, seed, control=False) for slot in pair if slot.arm is arm]
        for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT)
    )
    return paired_estimate([late - early for early, late in zip(baseline, other, strict=True)]).change_pct


@pytest.mark.parametrize("pairs", [3, 5, 8])
def test_balanced_order_removes_the_bias_of_linear_drift(pairs: int) -> None:
    drift = 0.02
    baseline_first = estimate_under_drift(pairs, Order.baseline_first, seed=0, drift=drift)
    balanced = fmean(estimate_under_drift(pairs, Order.balanced, seed, drift) for seed in range(600))
    assert baseline_first == pytest.approx(100 * math.expm1(drift))
    assert abs(balanced) < baseline_first / 10


@pytest.mark.parametrize("pairs", [2, 8])
def test_with_an_even_number_of_pairs_that_holds_in_every_single_experiment(pairs: int) -> None:
    found = [estimate_under_drift(pairs, Order.balanced, seed, drift=0.02) for seed in range(20)]
    assert found == pytest.approx([0.0] * 20, abs=1e-9)
