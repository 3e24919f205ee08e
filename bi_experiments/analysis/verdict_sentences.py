"""The verdicts on output bits, in sentences."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from bi_experiments.analysis.evidence import Evidence
from bi_experiments.analysis.ledger import (
    NEEDED_PCT,
    NoControl,
    are_other_steps,
    beside,
    deciding,
    in_words,
    needed,
    share_in_words,
    why_no_control,
)
from bi_experiments.phase.proof.material import FULL, NEEDLE
from bi_experiments.records import (
    DECODE_AGAINST_PREFILL,
    TIMED,
    Arm,
    Invariance,
    InvarianceReport,
    LedgerRow,
    Location,
    ProbeResult,
    Reproducibility,
    StepKind,
)
from bi_experiments.wording import LABELS, count


def sentence(evidence: Mapping[Arm, Evidence], report: InvarianceReport) -> str:
    """The verdict on the mode with its reasons, for `InvarianceReport.sentence`.

    Args:
        evidence: What the phases found, by arm.
        report: The verdicts on it, without the sentence.
    """
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
            said += _without_control(report) + _small_classes(report) + _bound(report)
        case Invariance.NOT_PROBED if not other.all_outputs:
            return "Not probed: no probe of the batch-invariant arm was run."
        case Invariance.NOT_PROBED:
            elsewhere = f"; elsewhere {_unchanged(other)}" if other.compared else ""
            said = f"Not probed: {_missing(report)}{elsewhere}."
        case _:
            said = f"No control: {_unchanged(other)}, but {_uncontrolled(evidence, report)}.{_without_control(report)}"
    return said + _decode_and_prefill(report) + _between_launches(other)


def _unchanged(evidence: Evidence) -> str:
    outputs = count(len(evidence.compared), "probe output")
    return f"none of {outputs} ({count(evidence.prompts, 'prompt')}) changed with the batch"


def _changed(evidence: Mapping[Arm, Evidence]) -> str:
    baseline = evidence[Arm.BASELINE]
    noise, alone = baseline.noise
    itself = f" ({noise} of {alone} differ alone too)" if noise else ""
    return f"{len(baseline.differing)} of {count(len(baseline.compared), 'probe output')} did without the mode{itself}"


def _without_control(report: InvarianceReport) -> str:
    """The classes without a control that do not decide the verdict."""
    said = ""
    rows = beside(report.ledger)
    if prefill := [row for row in rows if row.kind is StepKind.PREFILL]:
        share = share_in_words(prefill, report.ledger)
        said += f" No control for the prefill of {share} ({_named(prefill)}): nothing changed there in either arm."
    if before := [row for row in rows if row not in prefill]:
        share = share_in_words(before, report.ledger)
        said += f" No control of their own for {share} ({_named(before)}): {_changed_before(before)}."
    return said


def _changed_before(rows: Sequence[LedgerRow]) -> str:
    outputs = "most" if any(row.control_of for row in rows) else "all"
    return f"{outputs} of the output without the mode had changed to other tokens before"


def _small_classes(report: InvarianceReport) -> str:
    """What classes that are too small to decide leave open, where they are not so small together."""
    large = needed(report.ledger)
    said = []
    for verdict, what in ((Invariance.NOT_PROBED, "were not probed"), (Invariance.NO_CONTROL, "have no control")):
        share = sum(row.workload_pct for row in report.ledger if row.verdict is verdict and row not in large)
        if share >= NEEDED_PCT:
            said.append(f"{share:.1f} % {what}")
    return f" In smaller classes, of all output tokens {' and '.join(said)}." if said else ""


def _named(rows: Sequence[LedgerRow]) -> str:
    """The largest of some classes of steps, and whether there are others."""
    return in_words(rows[0]) if len(rows) == 1 else f"most in: {in_words(rows[0])}"


def _bound(report: InvarianceReport) -> str:
    if report.bound_pct is None:
        return ""
    changed = report.sampled_differing
    if report.census:
        greedy = f", by greedy continuations of {count(report.greedy_tokens, 'token')}" if report.greedy_tokens else ""
        did = f"; {changed} of them changed" if changed else ""
        return f" All of this workload's prompts were compared ({report.sampled}{greedy}){did}."
    basis = f"{count(report.sampled, 'prompt')} sampled"
    if report.left_out:
        were = "was" if report.sampled == 1 else "were"
        drawn = report.sampled + report.left_out
        basis = f"{report.sampled} of the {drawn} prompts drawn {were} compared before time ran out"
    if changed:
        basis += f", of which {changed} changed"
    outputs = "this workload's outputs"
    if report.greedy_tokens is not None:
        outputs = f"the greedy continuations of {count(report.greedy_tokens, 'token')} of this workload's prompts"
    return f" At most {report.bound_pct:.1f} % of {outputs} could change ({basis}; 95 % confidence)."


def _violated(evidence: Evidence, report: InvarianceReport) -> str:
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
            f"{first.composition}, {as_others}{f' (also in {behind})' if behind else ''}"
            f"{f', largest |delta logprob| {largest:.2g}' if largest else ''}"
        )
    if evidence.needle_differing:
        clauses.append(f"the needle's tokens changed in {evidence.needle_differing} of {evidence.needle_total} trials")
    where = ""
    if evidence.begins_in_split_prompts:
        timed = sum(output.differs for output in evidence.outputs.get(TIMED, ()))
        where = (
            f" Every {'other ' if timed else ''}change begins at the first output token of a prompt that was computed "
            f"in several steps{_as_timed(evidence, timed) if timed else ''}."
        )
    return f"VIOLATED: {'; '.join(clauses)}.{where}{_bound(report) if changed else ''}"


def _as_timed(evidence: Evidence, changed: int) -> str:
    """What is known of the prompts of timed outputs that changed."""
    if evidence.timed_by_steps is None:
        return f"; of {count(changed, 'timed output')} that changed this is not known"
    split, whole = evidence.timed_by_steps
    return (
        f"; as timed, over all launches, {split.changed} of {split.total} outputs of prompts known to be such changed, "
        f"and {whole.changed} of {whole.total} others"
    )


def place(result: ProbeResult | Location) -> str:
    """The token at which an output first differs, from 1: `output token 3`, `prompt token 12`."""
    at = result.first_difference or 0
    # The first token of a prompt has no logprob.
    return (
        f"prompt token {at + 2}" if at < result.prompt_positions else f"output token {at - result.prompt_positions + 1}"
    )


def _not_deterministic(evidence: Evidence, report: InvarianceReport) -> str:
    noise, alone = evidence.noise
    if noise:
        return (
            f"Not deterministic: {noise} of {count(alone, 'probe output')} alone differ from the same prompt alone, "
            "so that nothing can be said about the batch."
        )
    names = [
        one.composition
        for one in report.compositions
        if one.arm is evidence.arm and one.verdict is Invariance.NOT_DETERMINISTIC and one.composition != TIMED
    ]
    return f"Not deterministic: the same batch gave other bits when it ran again, in {', '.join(names)}."


def _missing(report: InvarianceReport) -> str:
    missing = [row for row in needed(report.ledger) if row.verdict is Invariance.NOT_PROBED]
    if not missing:
        return "nothing says that the steps of this workload were looked at"
    if are_other_steps(report.ruled_pct, report.greedy_tokens):
        return (
            "the engine's steps are not those that probes are held against: its own counts agree with them for "
            f"{report.ruled_pct:.1f} % of the output tokens"
        )
    share = share_in_words(missing, report.ledger)
    probe = "no probe but the needle" if report.level == NEEDLE else "no probe"
    return f"{probe} was in {count(len(missing), 'class')} of steps with {share} (most in: {in_words(missing[0])})"


def _uncontrolled(evidence: Mapping[Arm, Evidence], report: InvarianceReport) -> str:
    baseline = evidence.get(Arm.BASELINE)
    if baseline is None or not baseline.all_outputs:
        return "no baseline was probed that shows whether these probes see a difference"
    insensitive = f"these probes are too insensitive to tell, {_remedy(report.level)}"
    if not baseline.differing:
        return f"without the mode none did either: {insensitive}"
    missing = [row for row in deciding(report.ledger) if row.verdict is Invariance.NO_CONTROL]
    if not missing:
        return _doubt(baseline) or f"without the mode none of the workload's own did either: {insensitive}"
    by_cause: dict[NoControl, list[LedgerRow]] = defaultdict(list)
    for row in missing:
        by_cause[why_no_control(row)].append(row)
    more = "workload.num_trials" if report.level == FULL else "verify.trial_prompts, verify.time_share=null"
    said = []
    for cause, rows in by_cause.items():
        where = f"where {share_in_words(rows, report.ledger)} are ({_named(rows)})"
        match cause:
            case NoControl.UNCHANGED:
                said.append(f"without the mode none did either {where}: {insensitive}")
            case NoControl.CHANGED_BEFORE:
                said.append(f"{where} {_changed_before(rows)}: compare more prompts ({more})")
            case NoControl.IN_DOUBT:
                said.append(f"{where} a change without the mode says nothing of the batch: {_doubt(baseline)}")
            case NoControl.NOT_COMPARED:
                said.append(f"nothing was compared without the mode {where}")
    return "; and ".join(said)


def _doubt(baseline: Evidence) -> str:
    """Why a change in the baseline may not be the batch's doing; empty: nothing says so."""
    noise, alone = baseline.noise
    if noise:
        return f"the baseline differs from itself alone too, in {noise} of {count(alone, 'probe output')}"
    if names := [name for name in baseline.outputs if name != TIMED and baseline.unrepeatable(name)]:
        return f"the same batch gave other bits when it ran again, in {', '.join(names)}"
    faults = ((baseline.fault(name), name) for name in baseline.outputs)
    return next((f"the output is {fault}, in {name}" for fault, name in faults if fault is not None), "")


def _decode_and_prefill(report: InvarianceReport) -> str:
    own = (one for one in report.compositions if one.arm.batch_invariant and one.verdict is None)
    differs = next((one for one in own if one.composition == DECODE_AGAINST_PREFILL and one.differing), None)
    if differs is None:
        return ""
    return (
        f" Decode and prefill compute other bits ({differs.differing} of {count(differs.total, 'probe output')}, "
        f"largest |delta logprob| {differs.largest_logprob_difference:.2g}): this does not depend on the "
        "batch, but it changes outputs that a prefill recomputes: after a preemption, or as part of another prompt."
        f"{_by_preemption(report)}"
    )


def _by_preemption(report: InvarianceReport) -> str:
    """What a violation in `preempted` is made of, where decode and prefill compute other bits."""
    preempted = next((one for one in report.compositions if one.composition == "preempted" and one.verdict), None)
    if preempted is None or preempted.verdict is not Invariance.VIOLATED:
        return ""
    return " It may be all that changed in preempted: whether a sequence is preempted does depend on the batch."


def _between_launches(evidence: Evidence) -> str:
    if evidence.reproducible is Reproducibility.ONE_LAUNCH:
        return ""
    in_several = [len(output.results) for output in evidence.all_outputs if len(output.results) > 1]
    compared, launches = len(in_several), str(max(in_several))
    if min(in_several) < max(in_several):  # one was cut short
        launches = f"{min(in_several)} to {launches}"
    if evidence.reproducible is Reproducibility.REPRODUCIBLE:
        outputs = f"{count(compared, 'probe output')} ({_in_all_launches(evidence)})"
        return f" Reproducible: {outputs} the same in {launches} launches."
    outputs = f"{evidence.launches_differing} of {count(compared, 'probe output')} ({_in_all_launches(evidence)})"
    return f" But not reproducible: {outputs} not the same in all {launches} launches."


def _in_all_launches(evidence: Evidence) -> str:
    """The compositions that more than one launch ran."""
    names = [name for name, outputs in evidence.outputs.items() if any(len(one.results) > 1 for one in outputs)]
    return ", ".join(names) if len(names) < 4 else f"{len(names)} compositions"


def _without_the_mode(arms: Sequence[Evidence], report: InvarianceReport) -> str:
    if not arms:
        return "Not probed: no probe was run."
    if not any(one.differing or one.needle_differing for one in arms):
        return (
            "No control: without the mode no probe output changed with the batch: these probes are too insensitive to "
            f"tell, {_remedy(report.level)}."
        )
    changed = " and ".join(f"{_subject(one)} of the {LABELS[one.arm]}" for one in arms)
    see = ": the probes see a difference" if any(one.differing for one in arms) else ""
    lacks = " No other arm was probed." if len(arms) == 1 else ""
    if not any(one.all_outputs for one in arms):
        lacks = " No probe was run."
    return f"Without the mode {changed} changed with the batch, as expected{see}.{lacks}"


def _subject(evidence: Evidence) -> str:
    if evidence.differing or not evidence.needle_differing:
        return f"{len(evidence.differing)} of {count(len(evidence.compared), 'probe output')}"
    return f"the needle's tokens in {evidence.needle_differing} of {evidence.needle_total} trials"


def _remedy(level: str) -> str:
    return "use a wider model" if level == FULL else "use a wider model or verify=full"
