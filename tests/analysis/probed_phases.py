"""Phases with probe results, and the verdicts on them."""

from collections.abc import Sequence

from msgspec.structs import replace

from bi_experiments.analysis.invariance import judge
from bi_experiments.records import Arm, Invariance, InvarianceReport, PhaseResult, ProbeResult, StepCount, StepKind
from tests import factories


def probe(number: int, composition: str = "batch_8", differs_at: int | None = None, **changes: object) -> ProbeResult:
    equal = differs_at is None
    record = ProbeResult(
        probe=number,
        composition=composition,
        batch=0,
        position=number,
        equal=equal,
        first_difference=differs_at,
        tokens_equal=True,
        largest_logprob_difference=0.0 if equal else 0.016,
        digest=f"{composition} {number} {differs_at}",
    )
    return replace(record, **changes)


def probes(*differs_at: int | None, composition: str = "batch_8", **changes: object) -> tuple[ProbeResult, ...]:
    return tuple(probe(number, composition, token, **changes) for number, token in enumerate(differs_at))


def step(composition: str | None, tokens: int = 100, context: int = 1, **changes: object) -> StepCount:
    record = StepCount(composition=composition, kind=StepKind.DECODE, context=context, sequences=9, tokens=tokens)
    return replace(record, **changes)


def counted(composition: str | None, changed: int | None, context: int = 1, **more: object) -> StepCount:
    return step(composition, 10, context, changed=changed, **more)


STEPS = (step(None), *(step(name, 10) for name in ("batch_8", "ragged", "trial")))
"""A workload with one class of steps, which three compositions probe."""


def launches(arm: Arm, *results: Sequence[ProbeResult], steps: Sequence[StepCount] = STEPS) -> list[PhaseResult]:
    return [
        factories.phase(arm, pair, probes=tuple(found), steps=tuple(steps) if found else ())
        for pair, found in enumerate(results)
    ]


CHANGED = (probes(None, 0, None, 3), probes(None, 0, None, 3))
UNCHANGED = (probes(None, None, None, None), probes(None, None, None, None))


def both(
    baseline: Sequence[Sequence[ProbeResult]],
    other: Sequence[Sequence[ProbeResult]],
    steps: Sequence[StepCount] = STEPS,
) -> list[PhaseResult]:
    return [
        *launches(Arm.BASELINE, *baseline, steps=steps),
        *launches(Arm.BATCH_INVARIANT, *other, steps=steps),
    ]


def report(
    phases: Sequence[PhaseResult], level: str = "standard", compositions: Sequence[str] = ()
) -> InvarianceReport:
    judged = judge(phases, level, compositions)
    assert judged is not None
    return judged


def verdicts(judged: InvarianceReport) -> dict[str, Invariance | None]:
    return {one.composition: one.verdict for one in judged.compositions if one.arm is Arm.BATCH_INVARIANT}
