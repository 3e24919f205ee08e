"""Trends: slopes of log times, with their intervals.

`trend` is the Theil-Sen slope: P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", J. Am.
Stat. Assoc. 63 (1968). `slope_within` is that of least squares, for values that launches and trials shift too.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from bi_experiments.analysis.estimates import CONFIDENCE, per_cent
from bi_experiments.analysis.pairs import Pair
from bi_experiments.records import Arm

FEWEST_POINTS = 5
"""For a trend: five values in random order rise or fall throughout in 1 of 60 cases, four in 1 of 12."""

FEWEST_POSITIONS = 3
"""For a trend: with two, values that were measured from their mean mirror each other."""


class Trend(NamedTuple):
    """The change over the whole span in per cent, and the ends of its 95 % interval."""

    total_pct: float
    low_pct: float
    high_pct: float


class Slope(NamedTuple):
    """By how much a log value rises for each unit of its position, and half the width of the 95 % interval."""

    rise: float
    margin: float

    def over(self, span: float) -> Trend:
        """The trend over so many units of the position."""
        return Trend(*(per_cent(end * span) for end in (self.rise, self.rise - self.margin, self.rise + self.margin)))


class Level(NamedTuple):
    """One launch among those of its arm."""

    arm: Arm
    at_s: float
    """Mean start of its trials, Unix time in seconds."""
    from_mean_s: float
    """The same, from the mean of the arm's launches."""
    log_ratio: float
    """Mean ln of its trial times, from the mean of the arm's launches."""


def launch_levels(pairs: Sequence[Pair]) -> tuple[Level, ...]:
    """How every launch of the complete pairs compares with the mean of its arm, the baseline's launches first."""
    levels: list[Level] = []
    for launches in ([pair.baseline for pair in pairs], [pair.second for pair in pairs]):
        starts = [fmean(trial.started_at for trial in phase.trials) for phase in launches]
        logs = [fmean(math.log(trial.time_s) for trial in phase.trials) for phase in launches]
        levels += [
            Level(phase.arm, start, start - fmean(starts), log - fmean(logs))
            for phase, start, log in zip(launches, starts, logs, strict=True)
        ]
    return tuple(levels)


def over_launches(levels: Sequence[Level], *, paired: bool) -> Trend | None:
    """The trend of both arms over the machine's time, from the first launch to the last.

    Args:
        levels: Of both arms, the baseline's first, pair by pair.
        paired: Whether the launches of a pair share what the machine did meanwhile. Then their mean is one value: as
            two they count every disturbance twice, and noise alone shows a trend in 15 % of experiments (5 % as one;
            simulated, 3 to 12 pairs with a correlation of 0.95). The slope is then that of least squares, which four
            pairs can show, while Theil and Sen's needs five, and with those finds half as many.

    Returns:
        None with too few values.
    """
    if not levels:
        return None
    starts = [level.at_s for level in levels]
    span = max(starts) - min(starts)
    if not paired:
        return trend([level.from_mean_s for level in levels], [level.log_ratio for level in levels], span)
    half = len(levels) // 2
    pairs = list(zip(levels[:half], levels[half:], strict=True))
    positions = [fmean(level.from_mean_s for level in pair) for pair in pairs]
    means = [fmean(level.log_ratio for level in pair) for pair in pairs]
    slope = None if _identical(means) else slope_within([positions], [means], same_trials=False)
    return None if slope is None else slope.over(span)


def trend(positions: Sequence[float], values: Sequence[float], span: float) -> Trend | None:
    """Theil-Sen slope times the span.

    Args:
        positions: Where each value was measured, in any unit.
        values: Log times or log ratios, one a position.
        span: Length of what the trend is reported for, in the unit of the positions.

    Returns:
        None with fewer than `FEWEST_POINTS` values or `FEWEST_POSITIONS` positions, or when all values are the same.
    """
    if len(values) < FEWEST_POINTS or len(set(positions)) < FEWEST_POSITIONS:
        return None
    if _identical(values):
        return None
    from scipy.stats import theilslopes

    fit = theilslopes(values, positions, alpha=CONFIDENCE)
    return Trend(*(per_cent(float(slope) * span) for slope in (fit.slope, fit.low_slope, fit.high_slope)))


def _identical(values: Sequence[float]) -> bool:
    """Whether they differ by nothing but rounding."""
    return math.isclose(min(values), max(values), rel_tol=0, abs_tol=1e-12)


def slope_within(
    positions: Sequence[Sequence[float]], values: Sequence[Sequence[float]], *, same_trials: bool = True
) -> Slope | None:
    """The slope within the launches, apart from what a trial shifts in all of them: least squares.

    Every trial is compared with itself in the launches that have it at another position. Without that, trials that
    differ look like a trend where they came in a similar order: where their costs deviate by 3 to 5 %, 4 to 10 % of
    experiments show one that is not there, and most miss a true one of 3 %. With it up to 5 % show one (simulated, 2 to
    8 launches of 3 to 5 trials, normal noise and Student's t with 3 degrees of freedom).

    Args:
        positions: One row a launch, one column a trial, in any unit: its place in the order, its size.
        values: Log times or log ratios, likewise.
        same_trials: Whether a column is one trial in all launches. Otherwise what a trial shifts is noise.

    Returns:
        None with too few values, or where no position differs from those that it is compared with.
    """
    import numpy as np
    from scipy.stats import t

    residuals, centred = (
        table - table.mean(axis=1, keepdims=True) for table in (np.array(values), np.array(positions, dtype=float))
    )
    if same_trials:
        residuals, centred = (table - table.mean(axis=0) for table in (residuals, centred))
    weight = float((centred**2).sum())
    launches, trials = centred.shape
    degrees_of_freedom = (launches - 1 if same_trials else launches) * (trials - 1) - 1
    if degrees_of_freedom < 1 or math.isclose(weight, 0, abs_tol=1e-9):
        return None
    rise = float((residuals * centred).sum()) / weight
    variance = max(0.0, float((residuals**2).sum()) - rise**2 * weight) / degrees_of_freedom
    return Slope(rise, float(t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom)) * math.sqrt(variance / weight))


def slope_of_launches(
    positions: Sequence[Sequence[float]], values: Sequence[Sequence[float]], *, same_trials: bool = True
) -> Slope | None:
    """The mean slope of launches that each have one of their own, with the interval of Student's t over the launches.

    Least squares of a level and a slope for each launch, apart from what a trial shifts in all of them. The trials of a
    launch are not independent: where launches drift of their own accord, some up and some down, the one slope of
    `slope_within` shows a common drift in 10 to 37 % of experiments, the mean of theirs in 3 to 6 %, as where they do
    not drift (simulated, 2 to 8 launches of 3 to 5 trials, slopes five times the noise).

    Args:
        positions: As in `slope_within`.
        values: Likewise.
        same_trials: Likewise.

    Returns:
        None with a single launch, or where the launches' slopes cannot be told from what the trials shift: with two
        trials each, or where the orders are one and its reverse.
    """
    import numpy as np
    from scipy.stats import t

    table, places = np.array(values), np.array(positions, dtype=float)
    launches, trials = table.shape
    if launches < 2:
        return None
    level = np.kron(np.eye(launches), np.ones((trials, 1)))
    slope = level * (places - places.mean(axis=1, keepdims=True)).reshape(-1, 1)
    shift = np.tile(np.eye(trials)[:, 1:], (launches, 1)) if same_trials else np.empty((launches * trials, 0))
    design = np.hstack([level, shift, slope])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    slopes = np.linalg.lstsq(design, table.ravel())[0][-launches:]
    error = float(slopes.std(ddof=1)) / math.sqrt(launches)
    return Slope(float(slopes.mean()), float(t.ppf((1 + CONFIDENCE) / 2, launches - 1)) * error)


def common_slope(
    positions: Sequence[Sequence[float]], values: Sequence[Sequence[float]], *, same_trials: bool = True
) -> Slope | None:
    """The slope that launches have in common, by the wider of two intervals.

    That of `slope_within`, which takes the trials of a launch for independent, and that of `slope_of_launches`, which
    does not, but is too narrow where few launches agree by chance. With two trials each a launch has one difference,
    and the first one is over launches too. Arguments and result are as there.
    """
    if len(positions[0]) == 2 and same_trials:
        return slope_within(positions, values)
    slopes = [find(positions, values, same_trials=same_trials) for find in (slope_within, slope_of_launches)]
    known = [slope for slope in slopes if slope is not None]
    return max(known, key=lambda slope: slope.margin) if len(known) == len(slopes) else None
