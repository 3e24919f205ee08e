"""Whether one number can stand for all trials."""

from collections.abc import Iterator, Sequence

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.pairs import Pair, equal_tokens
from bi_experiments.analysis.trial_costs import goes_with_size, size_effect
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.records import Finding
from bi_experiments.wording import band, count, one_decimal, unsigned


def batch_size(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """A cost that is not the same for the largest and the smallest batch."""
    if not equal_tokens(pairs):
        return
    effect = size_effect(pairs, Design.of(protocol, pairs))
    if effect is None or effect.difference.low_pct is None or effect.difference.high_pct is None:
        return
    low, high = effect.difference.low_pct, effect.difference.high_pct
    if low * high > 0 and abs(effect.difference.change_pct) > protocol.equivalence_pct and goes_with_size(pairs):
        yield Finding(
            kind="batch_size",
            message=f"The cost depends on the batch: {_said(effect.small_pct)} at {count(effect.small, 'prompt')}, "
            f"{_said(effect.large_pct)} at {one_decimal(effect.large)}, a difference of {band(low, high)}. One number "
            "for all trials is about this mix of batches alone.",
            remedy="Read the cost by trial, set workload.max_batch_size to what you serve, or sweep it: "
            "experiment=batch_scaling.",
        )


def _said(cost_pct: float) -> str:
    return unsigned(cost_pct) if cost_pct >= 0 else f"-{unsigned(cost_pct)}"
