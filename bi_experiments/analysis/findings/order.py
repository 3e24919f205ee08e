"""What falls on one arm alone."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from bi_experiments.analysis.pairs import Pair
from bi_experiments.config.schema import Caches, Interleave, Order, ProtocolConfig
from bi_experiments.records import Finding
from bi_experiments.wording import LABELS

NEXT_TO_EACH_OTHER_S = 600.0
"""Longest time between two phases that still stand next to each other, in seconds."""


def order(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """One arm ran first in every pair."""
    if protocol.interleave is Interleave.trial:
        return
    baseline_first = {pair.baseline.started_at < pair.second.started_at for pair in pairs}
    by_rule = protocol.order is Order.baseline_first
    if len(baseline_first) == 1 and (by_rule or len(pairs) > 1):
        first = "baseline" if baseline_first == {True} else "second arm"
        yield Finding(
            kind="order",
            message=f"The {first} ran first in every pair: whatever changes on the machine with time looks like a "
            "difference between the arms.",
            remedy="Run with protocol.order=balanced and an even number of pairs.",
        )


def caches(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """The first launch filled compile caches that the other arm then found."""
    if protocol.caches is not Caches.user:
        return
    first = min((phase for pair in pairs for phase in pair), key=lambda phase: phase.started_at)
    later = [
        phase.init_time_s
        for pair in pairs
        for phase in pair
        if phase.arm is first.arm and phase.launch > first.launch and phase.init_time_s is not None
    ]
    # A tenth: initialisation varies by a few per cent anyway, while compiling takes many seconds.
    if first.init_time_s is None or (later and first.init_time_s <= 1.1 * max(later)):
        return
    seen = f", and took {first.init_time_s:.1f} s against {fmean(later):.1f} s in its later launches" if later else ""
    yield Finding(
        kind="caches",
        message=f"With protocol.caches=user the first launch ({LABELS[first.arm]}) may have filled compile caches that "
        f"the other arm then found{seen}: the first launches' initialisation does not compare like with like.",
        remedy="Run with protocol.caches=private: then every arm's first launch is cold.",
    )


def interrupted(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """Phases of one pair that do not stand next to each other: the experiment was resumed in between."""
    if protocol.interleave is Interleave.trial:
        return
    for pair in pairs:
        first, second = sorted(pair, key=lambda phase: phase.started_at)
        gap_s = second.started_at - first.started_at - first.wall_time_s
        if gap_s > NEXT_TO_EACH_OTHER_S:
            yield Finding(
                kind="interrupted",
                message=f"The experiment was interrupted: {gap_s / 60:.0f} min lie between the two launches of pair "
                f"{first.pair + 1}, and whatever changed in between looks like a difference between the arms.",
                remedy="Run it again without interruption if its interval is wide.",
            )
            return
