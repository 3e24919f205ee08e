"""What the proof's words mean: the batch compositions, the verdicts, and what was not made of them."""

import re
from collections import defaultdict

from bi_experiments.records import Arm, ExperimentResult, Invariance, InvarianceReport, NotMade
from bi_experiments.wording import LABELS, invariance_word

_MEANINGS = {
    "batch_1": "the probe alone again: what differs here is not deterministic",
    "trial": "prompts of the workload's own trials, in the batch of their trial",
    "timed": "the prompts of trial as they were timed: without logprobs, by their tokens alone",
    "workload": "every prompt of the workload, in the batch of its trial",
    "needle": "the needle in the largest trial's batch",
    "batch": "a batch of that many prompts, the probe first, in the middle and last",
    "drawn": "that many batch sizes, drawn at random",
    "sizes": "every number of sequences that decode together, from the largest down to 1",
    "shuffled": "other orders of arrival",
    "ragged": "neighbours of very different prompt and output lengths",
    "step": "a first step of exactly that many tokens",
    "borders": "first steps around every size of the engine's graphs",
    "arrivals": "long contexts that decode while another prompt is processed",
    "preempted": "a KV cache that is too small for the batch",
    "chunked_prefill": "neighbours leave room for half of a probe's prompt in the first step",
    "last_chunk": "prompts of the workload, their last tokens in a step of their own",
    "long_prompt": "a prompt that is longer than one step",
    "seeded": "seeded sampling",
    "samples": "that many seeded samples of each probe",
    "without_logprobs": "tokens alone, without asking for logprobs",
    "prompt_logprobs": "logprobs of the prompts too",
    "prefix_cache": "prompts found in the prefix cache",
    "prefill": "a probe's output as part of a prompt, alone: decode against prefill, no effect of the batch",
    "output": "outputs of that many tokens",
}
"""A composition's name, without its size, in a few words."""

VERDICTS = {
    Invariance.HOLDS: "nothing changed in batch-invariant mode, while the baseline did: a change would have been seen",
    Invariance.VIOLATED: "the output of a prompt changed with the batch, in batch-invariant mode",
    Invariance.NOT_DETERMINISTIC: "the same batch gave other bits when it ran again: nothing is known of the batch",
    Invariance.NO_CONTROL: "nothing changed in either arm, or the baseline's outputs had changed to other tokens "
    "before, so that nothing shows that a change would be seen",
    Invariance.NOT_PROBED: "no probe was there",
}
"""Every verdict in a sentence."""


def meaning(composition: str) -> str | None:
    """What a composition is; None for a name that this release does not know."""
    return _MEANINGS.get(composition) or _MEANINGS.get(_kind(composition))


def glossary(report: InvarianceReport) -> tuple[tuple[str, str], ...]:
    """The compositions and the verdict words of a report, each with its meaning, in the order in which they stand."""
    names = dict.fromkeys(count.composition for count in report.compositions)
    verdicts = dict.fromkeys([count.verdict for count in report.compositions] + [row.verdict for row in report.ledger])
    return (
        *((name, said) for name in names if (said := meaning(name)) is not None),
        *((invariance_word(verdict), VERDICTS[verdict]) for verdict in verdicts if verdict in VERDICTS),
    )


def not_made(report: InvarianceReport, result: ExperimentResult) -> tuple[str, ...]:
    """What the proof does not have of what was asked for, and why, a sentence each."""
    probed = {phase.arm for phase in result.phases if phase.probes}
    arms: dict[NotMade, set[Arm]] = defaultdict(set)
    for phase in result.phases:
        for one in phase.not_made:
            arms[one].add(phase.arm)
    whole: dict[str, list[str]] = defaultdict(list)
    for one, lacking in arms.items():
        if one.what is None:
            where = "" if lacking == probed else f" ({', '.join(LABELS[arm] for arm in lacking)})"
            whole[one.why].append(one.composition + where)
    unknown = "the engine's limits make it impossible, or no phase got that far" if probed else "no phase got that far"
    said = {one.composition for one in arms}
    whole[unknown] += [name for name in report.not_run if name not in said]
    return (
        *(f"Not run: {', '.join(names)}: {why}." for why, names in whole.items() if names),
        *(f"{one.composition} without {one.what}: {one.why}." for one in arms if one.what is not None),
    )


def _kind(composition: str) -> str:
    """A composition's name without its size."""
    sized = re.fullmatch(r"([a-z]+)_[0-9]+", composition)
    return sized[1] if sized else composition
