"""What the interval rests on."""

from collections.abc import Iterator, Sequence

from bi_experiments.analysis.metrics import half_width_pct
from bi_experiments.analysis.pairs import Pair
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.records import Finding, PhaseResult, PhaseStatus
from bi_experiments.wording import count, unsigned


def incomplete(phases: Sequence[PhaseResult], pairs: Sequence[Pair], planned_pairs: int) -> Iterator[Finding]:
    """Fewer complete pairs than planned."""
    if len(pairs) < planned_pairs:
        lost = next((phase for phase in phases if phase.status is not PhaseStatus.OK), None)
        why = "the experiment ended early"
        if lost is not None:
            why = f"phase {lost.index} ({lost.arm}) {lost.status.replace('_', ' ')}"
        yield Finding(
            kind="incomplete",
            message=f"The result rests on {count(len(pairs), 'complete pair')} of the {planned_pairs} planned: {why}.",
            remedy="Run the same command again for the whole interval.",
        )


def single_launch(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """One launch an arm."""
    if len(pairs) == 1:
        yield Finding(
            kind="single_launch",
            message="One launch an arm: no interval. Launches of the same arm differ too, by an amount that a "
            "single launch cannot show.",
            remedy="Run with protocol=standard (3 pairs) or protocol=rigorous.",
        )


def sequential(phases: Sequence[PhaseResult], protocol: ProtocolConfig, pairs: int) -> Iterator[Finding]:
    """Simulated with a target of 1 %: such intervals cover 92 to 96 % starting from 8 pairs, 89 to 93 % from 3."""
    target, reached = protocol.target_half_width_pct, half_width_pct(phases)
    if target is None or reached is None:
        return
    end = (
        f"the half-width of {unsigned(reached)} met the target of {target:g} %"
        if reached <= target
        else f"the half-width is still {unsigned(reached)}, over the target of {target:g} %"
    )
    yield Finding(
        kind="sequential",
        message=f"The number of pairs was decided along the way: after {count(pairs, 'pair')} {end}. An interval "
        "that decides when to stop holds the true value a little less often than 95 % of the time.",
        remedy=f"For a final number fix the pairs: protocol.pairs={pairs} protocol.target_half_width_pct=null.",
    )
