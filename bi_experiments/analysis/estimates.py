"""From log ratios to a change with its interval, and what the interval says."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from bi_experiments.records import Difference

CONFIDENCE = 0.95
"""Of every interval."""


class Estimate(NamedTuple):
    """A change in per cent with its 95 % interval; the ends are None where the data have no spread to judge by."""

    change_pct: float
    low_pct: float | None
    high_pct: float | None

    @property
    def half_width_pct(self) -> float | None:
        """Half the width of the interval, in percentage points."""
        return None if self.low_pct is None or self.high_pct is None else (self.high_pct - self.low_pct) / 2


def paired_estimate(differences: Sequence[float]) -> Estimate:
    """exp(mean D) - 1 with its t interval over the pairs, in per cent.

    Args:
        differences: D_b, one log ratio a pair; a single one gives an estimate without an interval.

    Raises:
        statistics.StatisticsError: There is no pair at all.
    """
    mean, pairs = fmean(differences), len(differences)
    if pairs < 2:
        return Estimate(per_cent(mean), None, None)
    return _with_interval(mean, stdev(differences) / math.sqrt(pairs), pairs - 1)


def welch_estimate(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """exp(mean second - mean first) - 1 in per cent, with Welch's t interval for two independent samples.

    B. L. Welch, "The generalization of Student's problem when several different population variances are involved",
    Biometrika 34 (1947). Without an interval when either sample has a single value.
    """
    mean = fmean(second) - fmean(first)
    if min(len(first), len(second)) < 2:
        return Estimate(per_cent(mean), None, None)
    squares = [stdev(sample) ** 2 / len(sample) for sample in (first, second)]
    error_squared = sum(squares)
    if error_squared == 0:
        return Estimate(per_cent(mean), per_cent(mean), per_cent(mean))
    spread = sum(square**2 / (len(sample) - 1) for square, sample in zip(squares, (first, second), strict=True))
    return _with_interval(mean, math.sqrt(error_squared), error_squared**2 / spread)


def _with_interval(mean: float, standard_error: float, degrees_of_freedom: float) -> Estimate:
    from scipy.stats import t  # slow to import: only when something is estimated

    margin = float(t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom)) * standard_error
    return Estimate(per_cent(mean), per_cent(mean - margin), per_cent(mean + margin))


def per_cent(log_ratio: float) -> float:
    """A log ratio as a change in per cent."""
    return 100 * math.expm1(log_ratio)


class Direction(NamedTuple):
    """What a change is called."""

    rise: Difference
    fall: Difference


LOWER_IS_QUICKER = Direction(Difference.SLOWER, Difference.FASTER)


HIGHER_IS_QUICKER = Direction(Difference.FASTER, Difference.SLOWER)


AMOUNT = Direction(Difference.MORE, Difference.LESS)


def verdict(
    low_pct: float | None, high_pct: float | None, equivalence_pct: float, direction: Direction = LOWER_IS_QUICKER
) -> Difference:
    """What an interval says about a change.

    In this order: no interval is `inconclusive`; an interval within ± `equivalence_pct` is `equivalent`, even where it
    excludes zero, because a change that small counts as none; one that excludes zero is `direction.rise` or
    `direction.fall`; the rest is `inconclusive`. The 95 % interval makes `equivalent` stricter than two one-sided tests
    at 5 %, which need the 90 % interval only.
    """
    if low_pct is None or high_pct is None:
        return Difference.INCONCLUSIVE
    if -equivalence_pct <= low_pct and high_pct <= equivalence_pct:
        return Difference.EQUIVALENT
    if low_pct > 0:
        return direction.rise
    if high_pct < 0:
        return direction.fall
    return Difference.INCONCLUSIVE
