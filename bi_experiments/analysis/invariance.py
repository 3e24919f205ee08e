"""Verdicts from output bits: whether batch invariance holds for this workload, and whether the probes would see it.

A composition *holds* where the batch-invariant arm does not differ in it and the baseline does (the positive control).
What the probes alone already differ by (`batch_1`, the negative control) is noise: no composition counts it as its
positive control, and in the batch-invariant arm it is a verdict of its own. What a probe alone differs by when its
output is part of a prompt (`prefill`) is no effect of the batch: it is said beside the verdict. The arm's verdict is
the worst of the classes of steps that the workload needs, by the ledger.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from bi_experiments.analysis.agreement import compare_arms
from bi_experiments.analysis.estimates import CONFIDENCE
from bi_experiments.analysis.ledger import (
    in_words,
    make_ledger,
    needed,
    not_comparable,
    ruled_pct,
    share_in_words,
    uncontrolled_prefill,
)
from bi_experiments.config.plain import setting
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.phase.proof.compositions import OWN_PROMPTS
from bi_experiments.phase.proof.material import FULL
from bi_experiments.records import (
    DECODE_AGAINST_PREFILL,
    NEGATIVE_CONTROL,
    RECORD_VERSION,
    Arm,
    ArmVerdict,
    CompositionCount,
    ExperimentResult,
    Fault,
    Invariance,
    InvarianceReport,
    LedgerRow,
    Location,
    PhaseResult,
    ProbeResult,
    Reproducibility,
    StepCount,
    StepKind,
)
from bi_experiments.wording import count

TOKENS_ALONE = "without_logprobs"
"""The composition whose digests are of tokens alone: few tokens may be equal for two prompts."""
BATCHES_OF_THE_WORKLOAD = ("trial", "workload")
"""Compositions whose batches are the workload's own."""
ALONE = (NEGATIVE_CONTROL, DECODE_AGAINST_PREFILL)
"""Compositions that compare the probe alone with itself alone."""


@dataclass(frozen=True)
class _Output:
    """One probe output in all launches of an arm that have it."""

    results: tuple[ProbeResult, ...]

    @property
    def differs(self) -> bool:
        return any(not result.equal for result in self.results)

    @property
    def launches_differ(self) -> bool:
        return len({result.digest for result in self.results}) > 1


@dataclass(frozen=True)
class _Evidence:
    """All that the phases of one arm found, finished or not."""

    arm: Arm
    launches: tuple[tuple[ProbeResult, ...], ...]
    """Probe results of every launch that has some."""
    needle_differing: int
    needle_total: int
    first_tokens: tuple[StepCount, ...] = ()
    """Of the probes: steps that end a prompt, from which first output tokens come."""

    @cached_property
    def outputs(self) -> dict[str, list[_Output]]:
        """Distinct outputs by composition."""
        by_key: dict[tuple[str, int, int, int, int], list[ProbeResult]] = defaultdict(list)
        for result in (result for launch in self.launches for result in launch):
            by_key[result.composition, result.batch, result.position, result.probe, result.sample].append(result)
        found: dict[str, list[_Output]] = defaultdict(list)
        for (composition, *_), results in by_key.items():
            found[composition].append(_Output(tuple(results)))
        return dict(found)

    def results(self, composition: str) -> list[ProbeResult]:
        """Those of one composition, in all launches."""
        return [result for output in self.outputs.get(composition, ()) for result in output.results]

    @property
    def all_outputs(self) -> list[_Output]:
        return [output for outputs in self.outputs.values() for output in outputs]

    @property
    def compared(self) -> list[_Output]:
        """Outputs that were compared with those of another batch."""
        return [one for name, outputs in self.outputs.items() if name not in ALONE for one in outputs]

    @property
    def differing(self) -> list[_Output]:
        return [output for output in self.compared if output.differs]

    @property
    def noise(self) -> tuple[int, int]:
        """Outputs alone that differ from themselves, of how many."""
        outputs = self.outputs.get(NEGATIVE_CONTROL, [])
        return sum(output.differs for output in outputs), len(outputs)

    @property
    def begins_in_split_prompts(self) -> bool:
        """Whether every change begins at the first output token of a prompt that was computed in several steps."""
        changed = [one for output in self.differing for one in output.results if not one.equal]
        whole = [step for step in self.first_tokens if not step.split]
        split = [step for step in self.first_tokens if step.split]
        return (
            not self.needle_differing
            and all(one.first_difference == one.prompt_positions for one in changed)
            and all(step.changed == 0 for step in whole)
            and any(step.changed for step in split)
        )

    def unrepeatable(self, composition: str) -> bool:
        """Whether the same batch of it gave other bits when it ran again."""
        return any(result.repeatable is False for result in self.results(composition))

    def fault(self, composition: str) -> Fault | None:
        """What is wrong with its outputs, whatever they are compared with."""
        results = self.results(composition)
        if fault := next((result.fault for result in results if result.fault is not None), None):
            return fault
        probes = {result.probe for result in results}
        alike = len({result.digest for result in results}) == 1
        return Fault.CONSTANT if alike and len(probes) > 1 and composition != TOKENS_ALONE else None

    @property
    def launches_differing(self) -> int:
        """Probe outputs whose digest is not the same in all launches."""
        return sum(output.launches_differ for output in self.all_outputs)

    @property
    def reproducible(self) -> Reproducibility:
        if not any(len(output.results) > 1 for output in self.all_outputs):
            return Reproducibility.ONE_LAUNCH
        return Reproducibility.NOT_REPRODUCIBLE if self.launches_differing else Reproducibility.REPRODUCIBLE


def judge(
    phases: Sequence[PhaseResult], level: str, compositions: Sequence[str] = (), greedy_tokens: int | None = None
) -> InvarianceReport | None:
    """Judge every arm by the probes and needles of its phases, finished or not.

    Args:
        phases: All phases of an experiment, in any order.
        level: `verify.level`.
        compositions: Those that were asked for.
        greedy_tokens: What `greedy_tokens` says of the workload.

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
    counts = tuple(entry for one in evidence.values() for entry in _counts(one, evidence.get(Arm.BASELINE)))
    ran = {entry.composition for entry in counts}
    # A needle licenses nothing but the needle, also where the workload has steps like its own.
    licenses = {one.composition: one for one in counts if one.verdict and one.composition != "needle"}
    ledger = make_ledger(ordered, licenses)
    verdicts = tuple(_verdict(one, counts, ledger) for one in evidence.values())
    sampled, sampled_differing = _sampled(evidence.get(Arm.BATCH_INVARIANT))
    report = InvarianceReport(
        level=level,
        arms=verdicts,
        compositions=counts,
        needle_differing={arm: one.needle_differing for arm, one in evidence.items()},
        needle_total={arm: one.needle_total for arm, one in evidence.items()},
        not_run=tuple(name for name in compositions if name not in ran),
        sentence="",
        ledger=ledger,
        greedy_tokens=greedy_tokens,
        ruled_pct=ruled_pct(ordered),
        sampled=sampled,
        sampled_differing=sampled_differing,
        left_out=max((phase.left_out for phase in ordered if phase.arm is Arm.BATCH_INVARIANT), default=0),
        bound_pct=upper_bound_pct(sampled_differing, sampled),
        agreement=compare_arms(ordered),
    )
    return replace(report, sentence=_sentence(evidence, report))


def judged_anew(result: ExperimentResult) -> ExperimentResult:
    """The result with a verdict by the rules of this release, where an older one wrote it."""
    if result.version >= RECORD_VERSION or result.invariance is None:
        return result
    asked = setting(result.configuration, "verify.compositions") or ()
    greedy = greedy_tokens(result.configuration)
    return replace(result, invariance=judge(result.phases, result.invariance.level, asked, greedy))


def greedy_tokens(configuration: Mapping[str, Any] | ExperimentConfig) -> int | None:
    """Output tokens of the greedy continuations that the proof compares of a workload whose outputs are others.

    Args:
        configuration: An experiment's.

    Returns:
        None where the workload's own outputs are greedy and have their whole length.
    """
    sampled = (setting(configuration, "workload.temperature") or 0) > 0
    may_end = setting(configuration, "workload.ignore_eos") is False
    tokens: int | None = setting(configuration, "workload.max_tokens") if sampled or may_end else None
    return tokens


def upper_bound_pct(differing: int, sampled: int) -> float | None:
    """Upper end of the one-sided 95 % interval of a share, in per cent (Clopper and Pearson 1934); None: no sample."""
    if not sampled:
        return None
    if differing == sampled:
        return 100.0
    from scipy.stats import beta  # slow to import: only when something is estimated

    return 100 * float(beta.ppf(CONFIDENCE, differing + 1, sampled - differing))


def _gather(phases: Sequence[PhaseResult], arm: Arm) -> _Evidence:
    own = [phase for phase in phases if phase.arm is arm]
    needles = [trial.needle for phase in own for trial in phase.trials]
    return _Evidence(
        arm=arm,
        launches=tuple(phase.probes for phase in own if phase.probes),
        needle_differing=sum(not needle.equal for needle in needles),
        needle_total=len(needles),
        first_tokens=tuple(
            step for phase in own for step in phase.steps if step.kind is StepKind.PREFILL and step.composition
        ),
    )


def _sampled(evidence: _Evidence | None) -> tuple[int, int]:
    """Prompts drawn from the workload and how many of them differ, each once, whichever compositions and launches."""
    differs: dict[int, bool] = defaultdict(bool)
    for output in evidence.compared if evidence else ():
        result = output.results[0]
        if result.sampled:
            differs[result.probe] |= output.differs
    return len(differs), sum(differs.values())


# --- Each composition -----------------------------------------------------------------------------------------------


def _counts(evidence: _Evidence, baseline: _Evidence | None) -> list[CompositionCount]:
    return [
        CompositionCount(
            composition=composition,
            arm=evidence.arm,
            differing=sum(output.differs for output in outputs),
            total=len(outputs),
            tokens_differing=sum(any(not one.tokens_equal for one in output.results) for output in outputs),
            largest_logprob_difference=max(
                one.largest_logprob_difference for output in outputs for one in output.results
            ),
            verdict=_decide(composition, evidence, baseline) if evidence.arm.batch_invariant else None,
            fault=evidence.fault(composition),
        )
        for composition, outputs in evidence.outputs.items()
    ]


def _decide(composition: str, evidence: _Evidence, baseline: _Evidence | None) -> Invariance | None:
    """The verdict on one composition that the batch-invariant arm ran; None where it says nothing of the batch."""
    if evidence.fault(composition) is not None:
        return Invariance.VIOLATED
    differs = any(output.differs for output in evidence.outputs[composition])
    noisy = evidence.noise[0] > 0 or evidence.unrepeatable(composition)
    if differs and (noisy or composition == NEGATIVE_CONTROL):
        return Invariance.NOT_DETERMINISTIC
    if composition in ALONE:
        return None
    if differs:
        return Invariance.VIOLATED
    controlled = baseline is not None and _is_control(composition, baseline)
    return Invariance.HOLDS if controlled else Invariance.NO_CONTROL


def _is_control(composition: str, baseline: _Evidence) -> bool:
    """Whether the baseline differs in the composition because of the batch.

    Where the baseline differs from itself alone, only a difference counts that came back bit by bit when the batch and
    the probe alone ran again, and of no probe that differs from itself.
    """
    differing = [one for one in baseline.results(composition) if not one.equal]
    if not differing or baseline.unrepeatable(composition) or baseline.fault(composition) is not None:
        return False
    if not baseline.noise[0]:
        return True
    noisy = (
        () if composition in OWN_PROMPTS else {one.probe for one in baseline.results(NEGATIVE_CONTROL) if not one.equal}
    )
    return any(one.repeatable and one.probe not in noisy for one in differing)


# --- Each arm -------------------------------------------------------------------------------------------------------


_WORST_FIRST = (
    Invariance.VIOLATED,
    Invariance.NOT_DETERMINISTIC,
    Invariance.NOT_PROBED,
    Invariance.NO_CONTROL,
    Invariance.HOLDS,
)


def worst(verdicts: Iterable[Invariance]) -> Invariance:
    """The most severe of some verdicts; `not_probed` of none."""
    return min(verdicts, key=_WORST_FIRST.index, default=Invariance.NOT_PROBED)


def _verdict(evidence: _Evidence, counts: Sequence[CompositionCount], ledger: Sequence[LedgerRow]) -> ArmVerdict:
    outputs = [*evidence.outputs.get(NEGATIVE_CONTROL, ()), *evidence.compared]
    changed = [result for output in outputs for result in output.results if not result.equal]
    return ArmVerdict(
        arm=evidence.arm,
        verdict=_headline(evidence, counts, ledger),
        differing=sum(output.differs for output in evidence.compared),
        total=len(evidence.compared),
        first=next(iter(changed), None),
        launches_compared=len(evidence.launches),
        launches_differing=evidence.launches_differing,
        reproducible=evidence.reproducible,
    )


def _headline(evidence: _Evidence, counts: Sequence[CompositionCount], ledger: Sequence[LedgerRow]) -> Invariance:
    if not evidence.arm.batch_invariant:
        changed = evidence.differing or evidence.needle_differing
        return Invariance.VIOLATED if changed else Invariance.NO_CONTROL
    by_composition = {one.composition: one.verdict for one in counts if one.verdict is not None}
    found = set(by_composition.values()) & {Invariance.VIOLATED, Invariance.NOT_DETERMINISTIC}
    if evidence.needle_differing:
        found.add(Invariance.NOT_DETERMINISTIC if evidence.noise[0] else Invariance.VIOLATED)
    if found:
        return worst(found)
    if ledger:
        rows, beside = needed(ledger), uncontrolled_prefill(ledger)
        return worst(row.verdict for row in [row for row in rows if row not in beside] or rows)
    return worst(verdict for name, verdict in by_composition.items() if name in BATCHES_OF_THE_WORKLOAD)


# --- In words -------------------------------------------------------------------------------------------------------


def _sentence(evidence: dict[Arm, _Evidence], report: InvarianceReport) -> str:
    other = evidence.get(Arm.BATCH_INVARIANT)
    if other is None:
        return _without_the_mode([one for one in evidence.values() if one.all_outputs or one.needle_differing], report)
    match report.verdict(Arm.BATCH_INVARIANT):
        case Invariance.VIOLATED:
            said = _violated(other, report)
        case Invariance.NOT_DETERMINISTIC:
            said = _not_deterministic(other, report)
        case Invariance.HOLDS:
            said = f"Batch invariance holds: {_unchanged(other)}, while {_changed(evidence)}."
            said += _without_control(report) + _bound(report)
        case Invariance.NOT_PROBED if not other.all_outputs:
            return "Not probed: no probe of the batch-invariant arm was run."
        case Invariance.NOT_PROBED:
            said = f"Not probed: {_missing(report)}; elsewhere {_unchanged(other)}."
        case _:
            said = f"No control: {_unchanged(other)}, but {_uncontrolled(evidence, report)}."
    return said + _decode_and_prefill(report) + _between_launches(other)


def _unchanged(evidence: _Evidence) -> str:
    prompts = {
        (one.composition if one.composition in OWN_PROMPTS else None, one.probe)
        for one in (output.results[0] for output in evidence.compared)
    }
    outputs = count(len(evidence.compared), "probe output")
    return f"none of {outputs} ({count(len(prompts), 'prompt')}) changed with the batch"


def _changed(evidence: dict[Arm, _Evidence]) -> str:
    baseline = evidence[Arm.BASELINE]
    return f"{len(baseline.differing)} of {count(len(baseline.compared), 'probe output')} did without the mode"


def _without_control(report: InvarianceReport) -> str:
    rows = uncontrolled_prefill(report.ledger)
    if not rows:
        return ""
    share = share_in_words(rows, report.ledger)
    return f" No control for the prefill of {share} ({_named(rows)}): nothing changed there in either arm."


def _named(rows: Sequence[LedgerRow]) -> str:
    """The largest of some classes of steps, and whether there are others."""
    return in_words(rows[0]) if len(rows) == 1 else f"most in: {in_words(rows[0])}"


def _bound(report: InvarianceReport) -> str:
    if report.bound_pct is None:
        return ""
    asked = f" of {report.sampled + report.left_out} for lack of time" if report.left_out else ""
    outputs = "this workload's outputs"
    if report.greedy_tokens is not None:
        outputs = f"the greedy continuations of {count(report.greedy_tokens, 'token')} of this workload's prompts"
    return f" At most {report.bound_pct:.1f} % of {outputs} change ({report.sampled} sampled{asked}, 95 %)."


def _violated(evidence: _Evidence, report: InvarianceReport) -> str:
    own = [one for one in report.compositions if one.arm is evidence.arm and one.verdict is Invariance.VIOLATED]
    clauses = []
    if faulty := next((one for one in own if one.fault is not None), None):
        clauses.append(f"the output is {faulty.fault} in composition {faulty.composition}")
    if changed := [one for one in own if one.differing and one.fault is None]:
        names = {one.composition for one in changed}
        first = next(
            result
            for output in evidence.differing
            for result in output.results
            if not result.equal and result.composition in names
        )
        largest = max(one.largest_logprob_difference for one in changed)
        total = count(len(evidence.compared), "probe output")
        as_others = f"as did {len(evidence.differing)} of {total} in all"
        if len(evidence.differing) == 1:
            as_others = f"the only one of {total}"
        behind = ", ".join(one.composition for one in changed if one.composition != first.composition)
        clauses.append(
            f"probe {first.probe + 1} changed at {place(first)} in composition "
            f"{first.composition}, {as_others}{f' (also in {behind})' if behind else ''}, "
            f"largest |delta logprob| {largest:.2g}"
        )
    if evidence.needle_differing:
        clauses.append(f"the needle's tokens changed in {evidence.needle_differing} of {evidence.needle_total} trials")
    where = ""
    if evidence.begins_in_split_prompts:
        where = " Every change begins at the first output token of a prompt that was computed in several steps."
    return f"VIOLATED: {'; '.join(clauses)}.{where}"


def place(result: ProbeResult | Location) -> str:
    """The token at which an output first differs, from 1: `output token 3`, `prompt token 12`."""
    at = result.first_difference or 0
    # The first token of a prompt has no logprob.
    return (
        f"prompt token {at + 2}" if at < result.prompt_positions else f"output token {at - result.prompt_positions + 1}"
    )


def _not_deterministic(evidence: _Evidence, report: InvarianceReport) -> str:
    noise, alone = evidence.noise
    if noise:
        return (
            f"Not deterministic: {noise} of {count(alone, 'probe output')} alone differ from the same prompt alone, "
            "so that nothing can be said about the batch."
        )
    names = [
        one.composition
        for one in report.compositions
        if one.arm is evidence.arm and one.verdict is Invariance.NOT_DETERMINISTIC
    ]
    return f"Not deterministic: the same batch gave other bits when it ran again, in {', '.join(names)}."


def _missing(report: InvarianceReport) -> str:
    missing = [row for row in needed(report.ledger) if row.verdict is Invariance.NOT_PROBED]
    if not missing:
        return "nothing says that the steps of this workload were looked at"
    share = share_in_words(missing, report.ledger)
    return f"no probe was in {count(len(missing), 'class')} of steps with {share} (most in: {in_words(missing[0])})"


def _uncontrolled(evidence: dict[Arm, _Evidence], report: InvarianceReport) -> str:
    insensitive = f"these probes are too insensitive to tell, {_remedy(report.level)}"
    baseline = evidence.get(Arm.BASELINE)
    if baseline is None or not baseline.all_outputs:
        return "no baseline was probed that shows whether these probes see a difference"
    noise, alone = baseline.noise
    if noise:
        itself = f"the baseline differs from itself alone too, in {noise} of {count(alone, 'probe output')}"
        return f"{itself}, so that what changes there says nothing of the batch"
    if not baseline.differing:
        return f"without the mode none did either: {insensitive}"
    missing = [row for row in needed(report.ledger) if row.verdict is Invariance.NO_CONTROL]
    if not missing:
        return f"without the mode none of the workload's own did either: {insensitive}"
    behind = [row for row in missing if not_comparable(row)]
    said = []
    if same := [row for row in missing if row not in behind]:
        share = share_in_words(same, report.ledger)
        said.append(f"without the mode none did either where {share} are ({_named(same)}): {insensitive}")
    if behind:
        more = "workload.num_trials" if report.level == FULL else "verify.trial_prompts, verify.time_share=null"
        said.append(
            f"where {share_in_words(behind, report.ledger)} are ({_named(behind)}) the outputs without the mode are "
            f"not comparable, since all had changed to other tokens before: compare more prompts ({more})"
        )
    return "; and ".join(said)


def _decode_and_prefill(report: InvarianceReport) -> str:
    own = (one for one in report.compositions if one.arm.batch_invariant and one.verdict is None)
    differs = next((one for one in own if one.composition == DECODE_AGAINST_PREFILL and one.differing), None)
    if differs is None:
        return ""
    return (
        f" Decode and prefill compute other bits ({differs.differing} of {count(differs.total, 'probe output')}, "
        f"largest |delta logprob| {differs.largest_logprob_difference:.2g}): this does not depend on the "
        "batch, but it changes outputs that a prefill recomputes: after a preemption, or as part of another prompt."
    )


def _between_launches(evidence: _Evidence) -> str:
    if evidence.reproducible is Reproducibility.ONE_LAUNCH:
        return ""
    compared = sum(len(output.results) > 1 for output in evidence.all_outputs)
    if evidence.reproducible is Reproducibility.REPRODUCIBLE:
        outputs = f"{count(compared, 'probe output')} ({_in_all_launches(evidence)})"
        return f" Reproducible: {outputs} the same in {len(evidence.launches)} launches."
    outputs = f"{evidence.launches_differing} of {count(compared, 'probe output')} ({_in_all_launches(evidence)})"
    return f" But not reproducible: {outputs} not the same in all {len(evidence.launches)} launches."


def _in_all_launches(evidence: _Evidence) -> str:
    """The compositions that more than one launch ran."""
    names = [name for name, outputs in evidence.outputs.items() if any(len(one.results) > 1 for one in outputs)]
    return ", ".join(names) if len(names) < 4 else f"{len(names)} compositions"


def _without_the_mode(arms: Sequence[_Evidence], report: InvarianceReport) -> str:
    if not any(one.differing or one.needle_differing for one in arms):
        return (
            "No control: without the mode no probe output changed with the batch: these probes are too insensitive to "
            f"tell, {_remedy(report.level)}."
        )
    changed = " and ".join(_subject(one) for one in arms)
    return f"Without the mode {changed} changed with the batch, as expected: the probes see a difference."


def _subject(evidence: _Evidence) -> str:
    if evidence.differing or not evidence.needle_differing:
        return f"{len(evidence.differing)} of {count(len(evidence.compared), 'probe output')}"
    return f"the needle's tokens in {evidence.needle_differing} of {evidence.needle_total} trials"


def _remedy(level: str) -> str:
    return "use a wider model" if level == FULL else "use a wider model or verify=full"
