"""What the interval rests on."""

from collections.abc import Iterator, Sequence

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.pairs import Pair, total_time_logs
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.records import Finding, PhaseResult, PhaseStatus
from bi_experiments.wording import LABELS, count, unsigned


def incomplete(
    phases: Sequence[PhaseResult], pairs: Sequence[Pair], planned_pairs: int, protocol: ProtocolConfig
) -> Iterator[Finding]:
    """Fewer complete pairs than planned."""
    if len(pairs) < planned_pairs:
        budget_min = protocol.time_budget_min
        lost = next((phase for phase in phases if phase.status is not PhaseStatus.OK), None)
        why = "the experiment ended early"
        longer = ""
        if lost is not None:
            why = f"phase {lost.index + 1} ({LABELS[lost.arm]}) {lost.status.replace('_', ' ')}"
        elif budget_min is not None:
            longer = f" with a protocol.time_budget_min above {budget_min:g} or none"
        yield Finding(
            kind="incomplete",
            message=f"The result rests on {count(len(pairs), 'complete pair')} of the {planned_pairs} planned: {why}.",
            remedy=f"Resume it{longer} for the whole interval: the same command with sweep.resume=true, and "
            "hydra.run.dir=FOLDER where it was a single run.",
        )


def single_launch(pairs: Sequence[Pair], planned_pairs: int) -> Iterator[Finding]:
    """One launch an arm."""
    if len(pairs) == 1:
        yield Finding(
            kind="single_launch",
            message="One launch an arm: no interval. Launches of the same arm differ too, by an amount that a "
            "single launch cannot show.",
            remedy="Run with protocol=standard (4 pairs) or protocol=rigorous."
            if planned_pairs == 1
            else "Run the pairs that were planned.",
        )


def stages(pairs: Sequence[Pair], planned_pairs: int, protocol: ProtocolConfig) -> Iterator[Finding]:
    """A target of the interval's half-width that was not reached: `protocol.max_pairs` came first."""
    target = protocol.target_half_width_pct if len(pairs) >= planned_pairs else None
    baseline, second = total_time_logs(pairs)
    reached = Design.of(protocol, pairs).estimate(baseline, second, pairs).half_width_pct
    if target is not None and reached is not None and reached > 1.05 * target:
        yield Finding(
            kind="half_width",
            message=f"After {count(len(pairs), 'pair')} the half-width of the interval is {unsigned(reached)}, over "
            f"the target of {target:g} %.",
            remedy="Raise protocol.max_pairs, or make the machine quieter.",
        )
