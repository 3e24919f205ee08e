"""From log ratios to a change with its interval, and what the interval says."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from bi_experiments.records import Difference

CONFIDENCE = 0.95
"""Of every interval and bound."""


class Estimate(NamedTuple):
    """A change in per cent with its 95 % interval; the ends are None where there are too few values for one."""

    change_pct: float
    low_pct: float | None
    high_pct: float | None
    p_value: float | None = None
    """Of the t test that there is no change; None without an interval, or where the interval is of another kind."""

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
    return contrast_estimate([second], [first])


def contrast_estimate(
    plus: Sequence[Sequence[float]],
    minus: Sequence[Sequence[float]],
    spread_of: Sequence[Sequence[float]] | None = None,
) -> Estimate:
    """exp(sum of means plus - sum of means minus) - 1 in per cent, of independent samples.

    With Welch's degrees of freedom, which F. E. Satterthwaite gave for any number of samples: "An approximate
    distribution of estimates of variance components", Biometrics Bulletin 2 (1946).

    Args:
        plus: Samples whose means are added.
        minus: Samples whose means are taken off.
        spread_of: The values of each sample, those of `plus` first, that its spread is estimated from: of two stages
            the first, as in `two_stage_estimate`. None: all. Where a sample's size followed from its spread, errors of
            the spreads do not make up for each other, and the degrees of freedom are those of the smallest.
    """
    mean = sum(map(fmean, plus)) - sum(map(fmean, minus))
    samples = [*plus, *minus]
    judged = samples if spread_of is None else spread_of
    if min(map(len, judged)) < 2:
        return Estimate(per_cent(mean), None, None)
    squares = [stdev(values) ** 2 / len(sample) for values, sample in zip(judged, samples, strict=True)]
    error_squared = sum(squares)
    if error_squared == 0:
        return _with_interval(mean, 0.0, sum(map(len, judged)) - len(judged))
    spread = sum(square**2 / (len(values) - 1) for square, values in zip(squares, judged, strict=True))
    freedom = error_squared**2 / spread
    if any(len(values) < len(sample) for values, sample in zip(judged, samples, strict=True)):
        freedom = min(map(len, judged)) - 1
    return _with_interval(mean, math.sqrt(error_squared), freedom)


def two_stage_estimate(differences: Sequence[float], first_stage: int) -> Estimate:
    """exp(mean D) - 1 over all pairs, with an interval whose spread is that of the first stage alone.

    C. Stein, "A two-sample test for a linear hypothesis whose power is independent of the variance", Ann. Math. Stat.
    16 (1945): where the number of pairs follows from the spread of the first ones, this interval holds the true value
    95 % of the time, and the usual one less often.

    Args:
        differences: D_b, one log ratio a pair, those of the first stage first.
        first_stage: Pairs of the first stage.
    """
    first = differences[:first_stage]
    if len(first) < 2:
        return paired_estimate(differences)
    return _with_interval(fmean(differences), stdev(first) / math.sqrt(len(differences)), len(first) - 1)


def two_stage_pairs(first: Sequence[float], half_width_pct: float) -> int:
    """Pairs, those of the first stage included, that bring the half-width of `two_stage_estimate` down to a target.

    With fewer the interval is wider, and as often right.

    Args:
        first: D_b of the first stage, two or more.
        half_width_pct: The target, in percentage points.
    """
    # The ends are exp(mean ± m) - 1, half of whose distance is exp(mean) sinh(m).
    margin = math.asinh(half_width_pct / 100 / math.exp(fmean(first)))
    return max(len(first), math.ceil((_quantile(len(first) - 1) * stdev(first) / margin) ** 2))


def two_stage_half_width_pct(first: Sequence[float], pairs: int) -> float:
    """Half-width of `two_stage_estimate` over so many pairs, if their mean is that of the first stage.

    Args:
        first: D_b of the first stage, two or more.
        pairs: All pairs, those of the first stage included.
    """
    margin = _quantile(len(first) - 1) * stdev(first) / math.sqrt(pairs)
    return 100 * math.exp(fmean(first)) * math.sinh(margin)


def _quantile(degrees_of_freedom: float) -> float:
    from scipy.stats import t  # slow to import: only when something is estimated

    return float(t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))


def _with_interval(mean: float, standard_error: float, degrees_of_freedom: float) -> Estimate:
    from scipy.stats import t

    margin = _quantile(degrees_of_freedom) * standard_error
    p_value = 2 * float(t.sf(abs(mean) / standard_error, degrees_of_freedom)) if standard_error else float(mean == 0)
    return Estimate(per_cent(mean), per_cent(mean - margin), per_cent(mean + margin), p_value)


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
