"""Whether batch invariance holds for this workload: the verdicts on output bits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from bi_experiments.analysis.agreement import compare_arms
from bi_experiments.analysis.estimates import CONFIDENCE
from bi_experiments.analysis.evidence import ALONE, Evidence, gather
from bi_experiments.analysis.ledger import are_other_steps, deciding, make_ledger, ruled_pct
from bi_experiments.analysis.verdict_sentences import sentence
from bi_experiments.config.plain import setting
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.phase.proof.compositions import BATCHES_OF_THE_WORKLOAD, OWN_PROMPTS
from bi_experiments.records import (
    NEGATIVE_CONTROL,
    RECORD_VERSION,
    Arm,
    ArmVerdict,
    CompositionCount,
    ExperimentResult,
    Invariance,
    InvarianceReport,
    LedgerRow,
    PhaseResult,
)


def judge(
    phases: Sequence[PhaseResult], level: str, compositions: Sequence[str] = (), greedy_tokens: int | None = None
) -> InvarianceReport | None:
    """Judge every arm by the probes and needles of its phases, finished or not.

    A composition *holds* where the batch-invariant arm does not differ in it and the baseline does (the positive
    control). What the probes alone already differ by (`batch_1`, the negative control) is noise: no composition counts
    it as its positive control, and in the batch-invariant arm it is a verdict of its own. What a probe alone differs by
    when its output is part of a prompt (`prefill`) is no effect of the batch: it is said beside the verdict. The arm's
    verdict is the worst of the classes of steps that the workload needs, by the ledger.

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
    evidence = gather(ordered)
    if not evidence:
        return None
    counts = tuple(entry for one in evidence.values() for entry in _counts(one, evidence.get(Arm.BASELINE)))
    ran = {entry.composition for entry in counts}
    # A needle licenses nothing but the needle, also where the workload has steps like its own.
    licenses = {one.composition: one for one in counts if one.verdict and one.composition != "needle"}
    baseline = evidence.get(Arm.BASELINE)
    controlled = {name for name in licenses if baseline is not None and _is_control(name, baseline)}
    in_doubt = {one.composition for one in counts if one.arm is Arm.BASELINE and (one.differing or one.fault)}
    other_steps = are_other_steps(ruled_pct(ordered), greedy_tokens)
    ledger = make_ledger(ordered, {} if other_steps else licenses, controlled, in_doubt - controlled)
    verdicts = tuple(_verdict(one, counts, ledger) for one in evidence.values())
    mode = evidence.get(Arm.BATCH_INVARIANT)
    sampled_differing, sampled = mode.sampled if mode else (0, 0)
    census = mode is not None and mode.census
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
        left_out=0 if mode is None or census else mode.left_out,
        bound_pct=100 * sampled_differing / sampled if census else upper_bound_pct(sampled_differing, sampled),
        census=census,
        agreement=compare_arms(ordered),
    )
    return replace(report, sentence=sentence(evidence, report))


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


# --- Each composition -----------------------------------------------------------------------------------------------


def _counts(evidence: Evidence, baseline: Evidence | None) -> list[CompositionCount]:
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


def _decide(composition: str, evidence: Evidence, baseline: Evidence | None) -> Invariance | None:
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


def _is_control(composition: str, baseline: Evidence) -> bool:
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


def _worst(verdicts: Iterable[Invariance]) -> Invariance:
    """The most severe of some verdicts; `not_probed` of none."""
    return min(verdicts, key=_WORST_FIRST.index, default=Invariance.NOT_PROBED)


def _verdict(evidence: Evidence, counts: Sequence[CompositionCount], ledger: Sequence[LedgerRow]) -> ArmVerdict:
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


def _headline(evidence: Evidence, counts: Sequence[CompositionCount], ledger: Sequence[LedgerRow]) -> Invariance:
    if not evidence.arm.batch_invariant:
        changed = evidence.differing or evidence.needle_differing
        return Invariance.VIOLATED if changed else Invariance.NO_CONTROL
    by_composition = {one.composition: one.verdict for one in counts if one.verdict is not None}
    found = set(by_composition.values()) & {Invariance.VIOLATED, Invariance.NOT_DETERMINISTIC}
    if evidence.needle_differing:
        found.add(Invariance.NOT_DETERMINISTIC if evidence.noise[0] else Invariance.VIOLATED)
    if found:
        return _worst(found)
    if ledger:
        return _worst(row.verdict for row in deciding(ledger))
    return _worst(verdict for name, verdict in by_composition.items() if name in BATCHES_OF_THE_WORKLOAD)
