"""What moves while it is measured."""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from bi_experiments.analysis.design import Design, prompts_differ
from bi_experiments.analysis.estimates import per_cent
from bi_experiments.analysis.findings.busy_machine import or_take_turns
from bi_experiments.analysis.pairs import Pair
from bi_experiments.analysis.trends import Trend, common_slope, launch_levels, over_launches, trend
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.records import Finding
from bi_experiments.wording import band, unsigned


def drift_within_launches(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """The slope of d over the trials. What both arms share cancels in d, and is part of no result."""
    values = [
        [
            math.log(other.time_s / baseline.time_s)
            for baseline, other in zip(pair.baseline.trials, pair.second.trials, strict=True)
        ]
        for pair in pairs
    ]
    # In an A/A no trial costs more than another, and new prompts in every pair are new trials.
    trials_differ = not protocol.control and not prompts_differ(pairs)
    drift = _over_trials([_places(pair) for pair in pairs], values, trials_differ=trials_differ)
    spread = [ratio - fmean(row) for row in values for ratio in row]
    if drift is not None and _matters(drift, spread, protocol.equivalence_pct):
        yield Finding(
            kind="drift",
            message="The cost changes within a launch: from the first trial to the last, the second arm gets "
            f"{_how_much(drift.total_pct)} against the baseline {band(drift.low_pct, drift.high_pct)}. The number "
            "depends on how many trials there are.",
            remedy=f"Run with more trials (workload.num_trials) and protocol.warmup={protocol.warmup + 1} or more.",
        )


def _places(pair: Pair) -> list[int]:
    """At which place each trial of a pair ran, from 0."""
    trials = pair.baseline.trials
    order = sorted(range(len(trials)), key=lambda number: trials[number].started_at)
    return [order.index(number) for number in range(len(trials))]


def _over_trials(
    places: Sequence[Sequence[int]], values: Sequence[Sequence[float]], *, trials_differ: bool
) -> Trend | None:
    """From the first place to the last; of several pairs what they have in common, in which each is one launch."""
    span = len(places[0]) - 1
    if len(places) > 1:
        slope = common_slope(places, values, same_trials=trials_differ)
        return None if slope is None else slope.over(span)
    return trend(places[0], values[0], span)


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
