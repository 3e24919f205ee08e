"""What keeps a profile from saying where the time goes."""

from collections.abc import Iterator, Sequence

from bi_experiments.analysis.operation_classes import OperationClass, classify
from bi_experiments.analysis.pairs import Pair
from bi_experiments.analysis.profiles import KNOWN_PCT, of_phase
from bi_experiments.records import Finding, PhaseResult
from bi_experiments.wording import before_noun

NAMED = 3
"""Names without a class that are shown."""


def profiling(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """A profile that could not be read, or that has too much in it that no class knows."""
    for phase in (phase for pair in pairs for phase in pair):
        if phase.profile is None:
            continue
        if phase.profile.stopped is not None:
            yield Finding(
                kind="no_profile",
                message=f"The {before_noun(phase.arm)} arm has no profile: {phase.profile.stopped}.",
                remedy="Its trials and probes ran before it and are whole; run again for the profile alone.",
            )
        else:
            yield from _unknown(phase)


def _unknown(phase: PhaseResult) -> Iterator[Finding]:
    arm = of_phase(phase)
    if arm.known_pct >= KNOWN_PCT:
        return
    names = [one.name for one in arm.profile.operations if classify(one.name, one.within) is OperationClass.UNKNOWN]
    shown = ", ".join(dict.fromkeys(name[:60] for name in names[:NAMED]))
    yield Finding(
        kind="unknown_operations",
        message=f"{100 - arm.known_pct:.0f} % of the {before_noun(phase.arm)} arm's profiled trial is in operations "
        f"that no class knows: {shown}.",
        remedy="Add them to the table in bi_experiments/analysis/operation_classes.py; "
        "python -m bi_experiments.operations FOLDER lists them.",
    )
