"""What moves while it is measured."""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.estimates import per_cent
from bi_experiments.analysis.findings.busy_machine import or_take_turns
from bi_experiments.analysis.pairs import Pair
from bi_experiments.analysis.trends import Trend, launch_levels, over_launches, trend
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.records import Finding
from bi_experiments.wording import band, unsigned


def drift_within_launches(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """The slope of d over the trials. What both arms share cancels in d, and is part of no result."""
    positions: list[float] = []
    values: list[float] = []
    for pair in pairs:
        ran = sorted(zip(pair.baseline.trials, pair.second.trials, strict=True), key=lambda both: both[0].started_at)
        ratios = [math.log(other.time_s / baseline.time_s) for baseline, other in ran]
        positions += range(len(ratios))
        values += [ratio - fmean(ratios) for ratio in ratios]
    drift = trend(positions, values, max(positions))
    if drift is not None and _matters(drift, values, protocol.equivalence_pct):
        yield Finding(
            kind="drift",
            message="The cost changes within a launch: from the first trial to the last, the second arm gets "
            f"{_how_much(drift.total_pct)} against the baseline {band(drift.low_pct, drift.high_pct)}. The number "
            "depends on how many trials there are.",
            remedy=f"Run with more trials (workload.num_trials) and protocol.warmup={protocol.warmup + 1} or more.",
        )


def drift_over_launches(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """The slope of ln t over the machine's time, each arm measured from its own mean; by turns one value a pair."""
    levels = launch_levels(pairs)
    drift = over_launches(levels, paired=Design.of(protocol, pairs).paired)
    if drift is not None and _matters(drift, [level.log_ratio for level in levels], protocol.equivalence_pct):
        yield Finding(
            kind="drift",
            message="The machine changed while it was measured: from the first launch to the last, trials of both arms "
            f"got {_how_much(drift.total_pct)} {band(drift.low_pct, drift.high_pct)}.",
            remedy=f"Wait until the machine is evenly warm and otherwise idle{or_take_turns(protocol)}.",
        )


def _matters(drift: Trend, values: Sequence[float], equivalence_pct: float) -> bool:
    """Whether a trend is distinguishable from noise, and larger than what counts as no change."""
    if per_cent(max(values) - min(values)) <= equivalence_pct:
        return False
    return drift.low_pct * drift.high_pct > 0 and abs(drift.total_pct) > equivalence_pct


def _how_much(change_pct: float) -> str:
    return f"{unsigned(change_pct)} {'slower' if change_pct > 0 else 'faster'}"
