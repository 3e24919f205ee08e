"""Verdicts from output bits: whether batch invariance holds in an arm, and whether the probes would have seen it.

The baseline is the positive control: equal outputs of the batch-invariant arm prove something only where the same
probes differ without the mode.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from bi_experiments.records import (
    Arm,
    ArmVerdict,
    CompositionCount,
    Invariance,
    InvarianceReport,
    PhaseResult,
    ProbeResult,
)
from bi_experiments.wording import count


@dataclass(frozen=True)
class _Evidence:
    """All that the phases of one arm found, finished or not."""

    arm: Arm
    launches: tuple[tuple[ProbeResult, ...], ...]
    """Probe results of every launch that has some."""
    needle_differing: int
    needle_total: int

    @property
    def results(self) -> list[ProbeResult]:
        return [result for launch in self.launches for result in launch]

    @property
    def differing(self) -> list[ProbeResult]:
        return [result for result in self.results if not result.equal]

    @property
    def changed(self) -> bool:
        """Whether an output changed with the batch."""
        return bool(self.differing) or self.needle_differing > 0

    @property
    def launches_differing(self) -> int:
        """Probe outputs whose digest is not the same in all launches."""
        digests: dict[tuple[str, int, int, int, int], set[str]] = defaultdict(set)
        for result in self.results:
            key = (result.composition, result.batch, result.position, result.probe, result.sample)
            digests[key].add(result.digest)
        return sum(len(found) > 1 for found in digests.values())


def judge(phases: Sequence[PhaseResult], level: str, compositions: Sequence[str] = ()) -> InvarianceReport | None:
    """Judge every arm by the probes and needles of its phases, finished or not.

    Args:
        phases: All phases of an experiment, in any order.
        level: `verify.level`.
        compositions: Those that were asked for.

    Returns:
        None when the level is `off`, or when the phases have neither probe nor trial.
    """
    if level == "off":
        return None
    ordered = sorted(phases, key=lambda phase: phase.index)
    evidence = {arm: _gather(ordered, arm) for arm in Arm}
    evidence = {arm: one for arm, one in evidence.items() if one.launches or one.needle_total}
    if not evidence:
        return None
    baseline = evidence.get(Arm.BASELINE)
    counts = tuple(entry for one in evidence.values() for entry in _counts(one))
    ran = {entry.composition for entry in counts}
    return InvarianceReport(
        level=level,
        arms=tuple(_verdict(one, baseline) for one in evidence.values()),
        compositions=counts,
        needle_differing={arm: one.needle_differing for arm, one in evidence.items()},
        needle_total={arm: one.needle_total for arm, one in evidence.items()},
        not_run=tuple(name for name in compositions if name not in ran),
        sentence=_sentence(evidence, level),
    )


def _gather(phases: Sequence[PhaseResult], arm: Arm) -> _Evidence:
    own = [phase for phase in phases if phase.arm is arm]
    needles = [trial.needle for phase in own for trial in phase.trials]
    return _Evidence(
        arm=arm,
        launches=tuple(phase.probes for phase in own if phase.probes),
        needle_differing=sum(not needle.equal for needle in needles),
        needle_total=len(needles),
    )


def _counts(evidence: _Evidence) -> list[CompositionCount]:
    by_composition: dict[str, list[ProbeResult]] = defaultdict(list)
    for result in evidence.results:
        by_composition[result.composition].append(result)
    return [
        CompositionCount(
            composition=composition,
            arm=evidence.arm,
            differing=sum(not result.equal for result in results),
            total=len(results),
            tokens_differing=sum(not result.tokens_equal for result in results),
            largest_logprob_difference=max(result.largest_logprob_difference for result in results),
        )
        for composition, results in by_composition.items()
    ]


def _verdict(evidence: _Evidence, baseline: _Evidence | None) -> ArmVerdict:
    return ArmVerdict(
        arm=evidence.arm,
        verdict=_decide(evidence, baseline),
        differing=len(evidence.differing),
        total=len(evidence.results),
        first=next(iter(evidence.differing), None),
        launches_compared=len(evidence.launches),
        launches_differing=evidence.launches_differing,
    )


def _decide(evidence: _Evidence, baseline: _Evidence | None) -> Invariance:
    if evidence.changed:
        return Invariance.VIOLATED
    if not evidence.arm.batch_invariant:
        return Invariance.NOT_SHOWN
    if evidence.results and baseline is not None and baseline.changed:
        return Invariance.HOLDS
    return Invariance.NOT_SHOWN


def _sentence(evidence: dict[Arm, _Evidence], level: str) -> str:
    baseline, other = evidence.get(Arm.BASELINE), evidence.get(Arm.BATCH_INVARIANT)
    if other is None:
        return _without_the_mode([one for one in evidence.values() if one.results or one.changed], level)
    verdict = _decide(other, baseline)
    if verdict is Invariance.VIOLATED:
        return _violated(other)
    if not other.results:
        return "Not shown: no probe of the batch-invariant arm was run."
    unchanged = f"none of {count(len(other.results), 'probe output')} changed with the batch"
    if len(other.launches) > 1 and not other.launches_differing:
        unchanged += f" or between {len(other.launches)} launches"
    if verdict is Invariance.HOLDS:
        assert baseline is not None
        holds = f"Batch invariance holds: {unchanged}, while {_changed(baseline)} did without the mode."
        return f"{holds} {_between_launches(other)}" if other.launches_differing else holds
    if baseline is None or not baseline.results:
        return f"Not shown: {unchanged}, but no baseline was probed that shows whether these probes see a difference."
    return f"Not shown: {unchanged}, but without the mode none did either: {_insensitive(level)}."


def _violated(evidence: _Evidence) -> str:
    clauses = []
    if evidence.differing:
        first = evidence.differing[0]
        largest = max(result.largest_logprob_difference for result in evidence.differing)
        clauses.append(
            f"probe {first.probe} changed at output token {first.first_difference} (the first is 0) in composition "
            f"{first.composition}, as did {len(evidence.differing)} of {len(evidence.results)} probe outputs in all, "
            f"largest |delta logprob| {largest:.2g}"
        )
    if evidence.needle_differing:
        clauses.append(f"the needle's tokens changed in {evidence.needle_differing} of {evidence.needle_total} trials")
    violated = f"VIOLATED: {'; '.join(clauses)}."
    return f"{violated} {_between_launches(evidence)}" if evidence.launches_differing else violated


def _between_launches(evidence: _Evidence) -> str:
    outputs = count(evidence.launches_differing, "probe output")
    return f"But not from launch to launch: {outputs} not the same in all {len(evidence.launches)} launches."


def _without_the_mode(arms: Sequence[_Evidence], level: str) -> str:
    if not any(one.changed for one in arms):
        return f"Not shown: without the mode no probe output changed with the batch: {_insensitive(level)}."
    changed = " and ".join(_changed(one) for one in arms)
    return f"Without the mode {changed} changed with the batch, as expected: the probes see a difference."


def _changed(evidence: _Evidence) -> str:
    """What changed, as the subject of a sentence."""
    if evidence.differing or not evidence.changed:
        return f"{len(evidence.differing)} of {count(len(evidence.results), 'probe output')}"
    return f"the needle's tokens in {evidence.needle_differing} of {evidence.needle_total} trials"


def _insensitive(level: str) -> str:
    remedy = "use a wider model" if level == "full" else "use a wider model or verify=full"
    return f"these probes are too insensitive to tell, {remedy}"
