"""The verdicts on output bits, in sentences."""

from collections.abc import Mapping, Sequence

from bi_experiments.analysis.evidence import Evidence
from bi_experiments.analysis.ledger import in_words, needed, not_comparable, share_in_words, uncontrolled_prefill
from bi_experiments.phase.proof.material import FULL
from bi_experiments.records import (
    DECODE_AGAINST_PREFILL,
    Arm,
    Invariance,
    InvarianceReport,
    LedgerRow,
    Location,
    ProbeResult,
    Reproducibility,
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
            said += _without_control(report) + _bound(report)
        case Invariance.NOT_PROBED if not other.all_outputs:
            return "Not probed: no probe of the batch-invariant arm was run."
        case Invariance.NOT_PROBED:
            said = f"Not probed: {_missing(report)}; elsewhere {_unchanged(other)}."
        case _:
            said = f"No control: {_unchanged(other)}, but {_uncontrolled(evidence, report)}."
    return said + _decode_and_prefill(report) + _between_launches(other)


def _unchanged(evidence: Evidence) -> str:
    outputs = count(len(evidence.compared), "probe output")
    return f"none of {outputs} ({count(evidence.prompts, 'prompt')}) changed with the batch"


def _changed(evidence: Mapping[Arm, Evidence]) -> str:
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
    if report.census:
        greedy = f", by greedy continuations of {count(report.greedy_tokens, 'token')}" if report.greedy_tokens else ""
        return f" All of this workload's prompts were compared ({report.sampled}{greedy})."
    basis = f"{count(report.sampled, 'prompt')} sampled"
    if report.left_out:
        were = "was" if report.sampled == 1 else "were"
        drawn = report.sampled + report.left_out
        basis = f"{report.sampled} of the {drawn} prompts drawn {were} compared before time ran out"
    outputs = "this workload's outputs"
    if report.greedy_tokens is not None:
        outputs = f"the greedy continuations of {count(report.greedy_tokens, 'token')} of this workload's prompts"
    return f" At most {report.bound_pct:.1f} % of {outputs} change ({basis}; 95 % confidence)."


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
        where = " Every change begins at the first output token of a prompt that was computed in several steps."
    return f"VIOLATED: {'; '.join(clauses)}.{where}"


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
        if one.arm is evidence.arm and one.verdict is Invariance.NOT_DETERMINISTIC
    ]
    return f"Not deterministic: the same batch gave other bits when it ran again, in {', '.join(names)}."


def _missing(report: InvarianceReport) -> str:
    missing = [row for row in needed(report.ledger) if row.verdict is Invariance.NOT_PROBED]
    if not missing:
        return "nothing says that the steps of this workload were looked at"
    share = share_in_words(missing, report.ledger)
    return f"no probe was in {count(len(missing), 'class')} of steps with {share} (most in: {in_words(missing[0])})"


def _uncontrolled(evidence: Mapping[Arm, Evidence], report: InvarianceReport) -> str:
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
    compared = sum(len(output.results) > 1 for output in evidence.all_outputs)
    if evidence.reproducible is Reproducibility.REPRODUCIBLE:
        outputs = f"{count(compared, 'probe output')} ({_in_all_launches(evidence)})"
        return f" Reproducible: {outputs} the same in {len(evidence.launches)} launches."
    outputs = f"{evidence.launches_differing} of {count(compared, 'probe output')} ({_in_all_launches(evidence)})"
    return f" But not reproducible: {outputs} not the same in all {len(evidence.launches)} launches."


def _in_all_launches(evidence: Evidence) -> str:
    """The compositions that more than one launch ran."""
    names = [name for name, outputs in evidence.outputs.items() if any(len(one.results) > 1 for one in outputs)]
    return ", ".join(names) if len(names) < 4 else f"{len(names)} compositions"


def _without_the_mode(arms: Sequence[Evidence], report: InvarianceReport) -> str:
    if not any(one.differing or one.needle_differing for one in arms):
        return (
            "No control: without the mode no probe output changed with the batch: these probes are too insensitive to "
            f"tell, {_remedy(report.level)}."
        )
    changed = " and ".join(f"{_subject(one)} of the {LABELS[one.arm]}" for one in arms)
    return f"Without the mode {changed} changed with the batch, as expected: the probes see a difference."


def _subject(evidence: Evidence) -> str:
    if evidence.differing or not evidence.needle_differing:
        return f"{len(evidence.differing)} of {count(len(evidence.compared), 'probe output')}"
    return f"the needle's tokens in {evidence.needle_differing} of {evidence.needle_total} trials"


def _remedy(level: str) -> str:
    return "use a wider model" if level == FULL else "use a wider model or verify=full"
