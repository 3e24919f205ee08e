"""The ledger: which classes of steps the workload's output tokens come from, and what was probed in each.

A class has a control of its own where the baseline's bits changed with the batch in output tokens of that class, in a
composition that the batch-invariant arm ran there too. Where the change began does not matter: it may have come with
the KV cache from an earlier step. It shows that bits of this class are seen to change, which is what a control is for.
Tokens behind the first other token id of their output have another context: they are no control, and were not compared.
Nor is a change that is not shown to be the batch's: where the baseline differs from itself too, or gives no numbers.

A violated composition violates the classes in which the batch-invariant arm's own bits changed, or had all changed to
other tokens before, and no others: what it compared elsewhere without a change is evidence like any other.

A class without a control decides the verdict where nothing says that its probes would see a change. It is said beside
the verdict where the baseline itself says why it has none: whole prompts may be so many rows that the same kernels
compute them alone and in any step, and where the baseline's outputs had changed to other tokens before they came to a
class, they had changed by more than a control asks for. The batch-invariant arm's outputs were compared there all the
same, by a comparison that other classes show to work; where the workload has no such other class, these decide too.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple

from bi_experiments.phase.proof.compositions import NEEDED_SHARE
from bi_experiments.phase.proof.steps import CONTEXTS, SEQUENCES, upper_end
from bi_experiments.records import Arm, CompositionCount, Invariance, LedgerRow, PhaseResult, StepCount, StepKind
from bi_experiments.wording import count

NEEDED_PCT = 100 * NEEDED_SHARE
"""A class with this share of the workload's output tokens, in per cent, or more needs a probe; of prefill, of its
prompts."""
RULED_PCT = 50.0
"""Least share of output tokens whose steps are as the rule says for the ledger to be the workload's, in per cent.

It was 98 % and more in every experiment with one stage. For 128 sequences that decode in two alternating halves, as
with two stages, it is 4 % (simulated).
"""
SOURCE = "vLLM's first-come-first-served rule"
"""What says which steps there are."""


class _Class(NamedTuple):
    kind: StepKind
    context: int
    sequences: int
    split: bool


class NoControl(Enum):
    """Why a class has no control of its own."""

    UNCHANGED = auto()
    """The baseline's bits did not change there."""
    CHANGED_BEFORE = auto()
    """Most of what the baseline has there comes behind the first other token of its output."""
    IN_DOUBT = auto()
    """They changed, and nothing shows that it was the batch's doing."""
    NOT_COMPARED = auto()
    """The baseline has no probe there."""


def make_ledger(
    phases: Sequence[PhaseResult],
    counts: Mapping[str, CompositionCount],
    controlled: Collection[str],
    in_doubt: Collection[str] = (),
) -> tuple[LedgerRow, ...]:
    """Every class that the workload has, the largest first; none where no phase says which steps there are.

    Args:
        phases: In launch order.
        counts: Of the batch-invariant arm, by composition, with their verdicts; others probe nothing.
        controlled: Compositions in which the baseline differs because of the batch.
        in_doubt: Those in which it differs, and nothing shows that the batch did it, or gives no numbers.
    """
    own, baseline = _steps(phases, Arm.BATCH_INVARIANT), _steps(phases, Arm.BASELINE)
    changed_own = {
        (step.composition, _class(step), step.padded)
        for phase in phases
        for step in (phase.steps if phase.arm is Arm.BATCH_INVARIANT else ())
        if step.changed != 0 or not _comparable(step)
    }
    # The arms may pad other steps: the ledger has those of the arm that the verdict is about.
    workload = own.get(None) or baseline.get(None) or []
    total = sum(one.tokens for one in workload)
    most = max((phase.observed.max_num_seqs for phase in phases if phase.observed is not None), default=None)
    same_graphs = _padding(workload) == _padding(baseline.get(None, ()))
    rows = []
    for one in sorted(workload, key=lambda one: -one.tokens):
        probes = {
            name: step
            for name, steps in own.items()
            for step in steps
            if name in counts and _class(step) == _class(one) and step.padded == one.padded
        }
        controls = {
            name: [
                step
                for step in baseline.get(name, ())
                if _class(step) == _class(one) and (step.padded == one.padded or not same_graphs)
            ]
            for name in probes
        }
        compared = [step for name, steps in controls.items() if name not in in_doubt for step in steps]
        changed = [step.changed for step in compared if step.changed is not None]
        rows.append(
            LedgerRow(
                kind=one.kind,
                context=one.context,
                context_below=upper_end(one.context, CONTEXTS),
                sequences=one.sequences,
                sequences_below=_sequences_below(one.sequences, most) if one.sequences else None,
                padded=one.padded,
                split=one.split,
                workload_tokens=one.tokens,
                workload_pct=100 * one.tokens / total,
                probe_tokens=sum(map(_comparable, probes.values())),
                control_tokens=sum(changed) if len(changed) == len(compared) else None,
                control_of=sum(map(_comparable, compared)),
                control_behind=sum(step.tokens - _comparable(step) for step in compared),
                control_in_doubt=any(steps for name, steps in controls.items() if name in in_doubt),
                verdict=_best(
                    {
                        _in_class(
                            counts[name],
                            (name, _class(one), one.padded) in changed_own,
                            controls[name] if name in controlled else (),
                        )
                        for name in probes
                        if name is not None
                    }
                ),
            )
        )
    return tuple(rows)


def _sequences_below(sequences: int, most: int | None) -> int | None:
    """Where a class of sequences that decode together ends, at the latest with all that the engine takes."""
    end = upper_end(sequences, SEQUENCES)
    return end if most is None else min(end or most + 1, most + 1)


def _steps(phases: Sequence[PhaseResult], arm: Arm) -> dict[str | None, list[StepCount]]:
    """The steps of each composition, those of the workload under None: of the arm's first launch that has them."""
    found: dict[str | None, list[StepCount]] = {}
    for phase in phases:
        own: dict[str | None, list[StepCount]] = defaultdict(list)
        for one in phase.steps if phase.arm is arm else ():
            own[one.composition].append(one)
        found = {**own, **found}
    return found


def _padding(steps: Sequence[StepCount]) -> set[tuple[_Class, bool]]:
    """Which steps an arm pads."""
    return {(_class(one), one.padded) for one in steps}


def _comparable(step: StepCount) -> int:
    return step.tokens if step.comparable is None else step.comparable


def _in_class(composition: CompositionCount, changed: bool, controls: Sequence[StepCount]) -> Invariance | None:
    """A composition's verdict on one class, by what of it changed there in the two arms."""
    elsewhere = composition.verdict is Invariance.VIOLATED and composition.fault is None and not changed
    if composition.verdict is not Invariance.HOLDS and not elsewhere:
        return composition.verdict
    seen = any(step.changed is None or step.changed > 0 for step in controls)
    return Invariance.HOLDS if seen else Invariance.NO_CONTROL


def needed(ledger: Sequence[LedgerRow]) -> list[LedgerRow]:
    """The classes that count for the verdict: `NEEDED_PCT` of the output tokens, or of the prompts for prefill."""
    prompts = sum(row.workload_tokens for row in ledger if row.kind is StepKind.PREFILL)
    total = sum(row.workload_tokens for row in ledger)
    return [
        row
        for row in ledger
        if row.workload_tokens >= NEEDED_SHARE * (prompts if row.kind is StepKind.PREFILL else total)
    ]


def deciding(ledger: Sequence[LedgerRow]) -> list[LedgerRow]:
    """The needed classes whose worst verdict is the arm's; the docstring of this module says which are."""
    rows = needed(ledger)
    return [row for row in rows if not _says_why(row)] or rows


def beside(ledger: Sequence[LedgerRow]) -> list[LedgerRow]:
    """The needed classes that have no control and are said beside the verdict, which they do not decide."""
    rows = deciding(ledger)
    return [row for row in needed(ledger) if row not in rows]


def _says_why(row: LedgerRow) -> bool:
    """Whether the baseline itself says why it is no control in a class."""
    if row.verdict is not Invariance.NO_CONTROL:
        return False
    why = why_no_control(row)
    return why is NoControl.CHANGED_BEFORE or (why is NoControl.UNCHANGED and row.kind is StepKind.PREFILL)


def why_no_control(row: LedgerRow) -> NoControl:
    """Why a class without a control has none."""
    if not row.control_tokens and row.control_behind > (row.control_of or 0):
        return NoControl.CHANGED_BEFORE
    if row.control_in_doubt:
        return NoControl.IN_DOUBT
    return NoControl.NOT_COMPARED if row.control_of == 0 else NoControl.UNCHANGED


def share_in_words(rows: Sequence[LedgerRow], ledger: Sequence[LedgerRow]) -> str:
    """How much of the workload some classes are: `75 % of this workload's output tokens and 100 % of its prompts`."""

    def tokens(of: Sequence[LedgerRow], prefill: bool) -> int:
        return sum(row.workload_tokens for row in of if not prefill or row.kind is StepKind.PREFILL)

    prompts = tokens(rows, prefill=True)
    said = []
    if outputs := tokens(rows, prefill=False) - prompts:
        said.append(f"{100 * outputs / tokens(ledger, prefill=False):.0f} % of this workload's output tokens")
    if prompts:
        whose = "its" if said else "this workload's"
        said.append(f"{100 * prompts / tokens(ledger, prefill=True):.0f} % of {whose} prompts")
    return " and ".join(said)


def ruled_pct(phases: Sequence[PhaseResult]) -> float | None:
    """Share of the trials' output tokens whose steps the engine counted as the rule says; None: it does not count."""
    trials = [trial for phase in phases for trial in phase.trials if trial.ruled_pct is not None]
    tokens = sum(trial.output_tokens for trial in trials)
    return sum((trial.ruled_pct or 0.0) * trial.output_tokens for trial in trials) / tokens if tokens else None


def are_other_steps(share_pct: float | None, greedy_tokens: int | None) -> bool:
    """Whether the engine's steps are not those of the rule, so that no probe can be held against them.

    With pipeline parallelism they are not: sequences that are in flight are left out of the next step.

    Where outputs may end early the share says nothing of that: the rule is for outputs of the whole length.

    Args:
        share_pct: `InvarianceReport.ruled_pct`.
        greedy_tokens: `InvarianceReport.greedy_tokens`.
    """
    return greedy_tokens is None and share_pct is not None and share_pct < RULED_PCT


def source(share_pct: float | None, greedy_tokens: int | None = None) -> str:
    """What says which steps there are, and whether the engine's own counts agree with it.

    Args:
        share_pct: `InvarianceReport.ruled_pct`.
        greedy_tokens: `InvarianceReport.greedy_tokens`.
    """
    said = SOURCE if greedy_tokens is None else f"{SOURCE} for outputs of {count(greedy_tokens, 'token')}"
    if share_pct is None:
        return said
    return (
        f"{said}, with which the sequences that the engine counted in its steps agree for {share_pct:.1f} % of the "
        "output tokens"
    )


def _class(one: StepCount) -> _Class:
    return _Class(one.kind, one.context, one.sequences, one.split)


def _best(verdicts: set[Invariance | None]) -> Invariance:
    order = (Invariance.VIOLATED, Invariance.NOT_DETERMINISTIC, Invariance.HOLDS, Invariance.NO_CONTROL)
    return next((verdict for verdict in order if verdict in verdicts), Invariance.NOT_PROBED)


def in_words(row: LedgerRow) -> str:
    """A class of steps: `513 to 1024 tokens of context, 33 to 64 sequences, alongside a prefill`."""
    context = f"{_range(row.context, row.context_below)} tokens"
    if row.kind is StepKind.PREFILL:
        said = f"prefill of {context}{', in several steps' if row.split else ''}"
    else:
        beside = ", alongside a prefill" if row.kind is StepKind.BESIDE_PREFILL else ""
        sequences = _range(row.sequences, row.sequences_below)
        said = f"{context} of context, {sequences} sequence{'' if sequences == '1' else 's'}{beside}"
    return said + (", padded graph" if row.padded else "")


def _range(low: int, below: int | None) -> str:
    if below is None:
        return f"{low} and more"
    return str(low) if below == low + 1 else f"{low} to {below - 1}"
