"""What more pairs would buy, from the spread of those that were run."""

import math
from collections.abc import Callable
from statistics import stdev
from typing import NamedTuple

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.estimates import CONFIDENCE
from bi_experiments.analysis.pairs import complete_pairs, equal_tokens, log_ratios, pair_time_s, total_time_logs
from bi_experiments.records import ExperimentResult

POWER = 0.8
"""How often an experiment of the stated size finds what it is meant to find."""
MOST_PAIRS = 1000
"""Beyond this the machine is to be made quieter, not the experiment longer."""


class Plan(NamedTuple):
    """What one target takes."""

    target_pct: float
    """A change or a bound in per cent, or a half-width in percentage points."""
    pairs: int | None
    """None: more than `MOST_PAIRS`."""
    time_s: float
    """Of all of them, in seconds."""


class Spread(NamedTuple):
    """What the plans rest on."""

    deviation: float
    """Standard deviation of a pair's log ratio, or of the mean of those whose launches shared caches."""
    pairs: int
    """Pairs that it was estimated from."""
    pair_s: float
    """Mean time of a pair, in seconds."""
    freedom: float
    """Degrees of freedom that it was estimated with."""
    freedom_per_pair: float = 1.0
    """Those that each pair after the first adds: 1 where pairs are compared, Welch's 1 to 2 of independent launches."""
    launches_per_cache: int = 1
    """Pairs that make one value, the launches of each of which shared caches."""


def spread(result: ExperimentResult) -> Spread | None:
    """The spread of an experiment's pairs; None with fewer than two, of unequal work, or where there is no spread."""
    pairs = complete_pairs(result.phases)
    if len(pairs) < 2 or not equal_tokens(pairs):
        return None
    design = Design.recorded(result)
    baseline, second = (design.units(logs, pairs) for logs in total_time_logs(pairs))
    if len(baseline) < 2:
        return None
    samples = [log_ratios(baseline, second)] if design.paired else [baseline, second]
    squares = [stdev(sample) ** 2 for sample in samples]
    variance = sum(squares)
    if variance == 0:
        return None
    freedom_per_pair = variance**2 / sum(square**2 for square in squares)  # Welch's, as in `estimates`
    return Spread(
        deviation=math.sqrt(variance),
        pairs=len(pairs),
        pair_s=pair_time_s(pairs),
        freedom=(len(baseline) - 1) * freedom_per_pair,
        freedom_per_pair=freedom_per_pair,
        launches_per_cache=design.launches_per_cache or 1,
    )


def deviation_interval(found: Spread) -> tuple[float, float]:
    """The 95 % interval of the deviation, from the chi-squared distribution."""
    from scipy.stats import chi2

    ends = (float(chi2.ppf(share, found.freedom)) for share in ((1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2))
    low, high = (found.deviation * math.sqrt(found.freedom / end) for end in ends)
    return low, high


Power = Callable[[int, float, float, float], float]


def difference_power(pairs: int, deviation: float, change_pct: float, freedom_per_pair: float) -> float:
    """How often the 95 % interval excludes zero when the change is this large.

    Args:
        pairs: Pairs.
        deviation: Standard deviation of a pair's log ratio.
        change_pct: The true change in per cent.
        freedom_per_pair: As in `Spread`.
    """
    from scipy.stats import nct, t

    freedom = (pairs - 1) * freedom_per_pair
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, freedom))
    shift = math.log1p(change_pct / 100) / (deviation / math.sqrt(pairs))
    return float(nct.sf(quantile, freedom, shift))


def equivalence_power(pairs: int, deviation: float, within_pct: float, freedom_per_pair: float) -> float:
    """How often the 95 % interval lies within plus or minus so many per cent when there is no change at all.

    With the spread taken as known, as it is when a number of pairs is planned.
    """
    from scipy.stats import norm, t

    error = deviation / math.sqrt(pairs)
    room = math.log1p(within_pct / 100) - float(t.ppf((1 + CONFIDENCE) / 2, (pairs - 1) * freedom_per_pair)) * error
    return max(0.0, 2 * float(norm.cdf(room / error)) - 1) if room > 0 else 0.0


def width_power(pairs: int, deviation: float, margin_pct: float, freedom_per_pair: float) -> float:
    """How often the ends of the 95 % interval are within so many per cent of its middle, of which they are factors."""
    from scipy.stats import chi2, t

    freedom = (pairs - 1) * freedom_per_pair
    error = deviation / math.sqrt(pairs)
    times = math.log1p(margin_pct / 100) / (float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error)
    return float(chi2.cdf(freedom * times**2, freedom))


def pairs_needed(power: Power, deviation: float, target_pct: float, freedom_per_pair: float) -> int | None:
    """The fewest pairs with which the power is at least `POWER`; None with more than `MOST_PAIRS`."""
    low, high = 1, 2
    while power(high, deviation, target_pct, freedom_per_pair) < POWER:
        low, high = high, 2 * high
        if low > MOST_PAIRS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(middle, deviation, target_pct, freedom_per_pair) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high if high <= MOST_PAIRS else None


def to_tell(found: Spread, change_pct: float) -> Plan:
    """What it takes to tell a change of so many per cent from none."""
    return _plan(found, change_pct, difference_power)


def to_show_less_than(found: Spread, within_pct: float) -> Plan:
    """What it takes to show that the absence of a change is below so many per cent."""
    return _plan(found, within_pct, equivalence_power)


def to_narrow(found: Spread, half_width_pct: float, change_pct: float) -> Plan:
    """What it takes to bring the half-width of the interval down to so many percentage points, of such a change."""
    # The ends are (1 + change) exp(±margin) - 1, half of whose distance is (1 + change) sinh(margin).
    margin = math.asinh(half_width_pct / (100 + change_pct))
    return _plan(found, 100 * math.expm1(margin), width_power)._replace(target_pct=half_width_pct)


def _plan(found: Spread, target_pct: float, power: Power) -> Plan:
    needed = pairs_needed(power, found.deviation, target_pct, found.freedom_per_pair)
    pairs = (needed or 0) * found.launches_per_cache
    if needed is None or pairs > MOST_PAIRS:
        return Plan(target_pct, None, 0.0)
    return Plan(target_pct, pairs, pairs * found.pair_s)
