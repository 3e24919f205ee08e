"""What the proof's words mean: the batch compositions, the verdicts, and why a composition was not run."""

import re

from bi_experiments.config.plain import setting
from bi_experiments.records import ExperimentResult, Invariance, InvarianceReport

_MEANINGS = {
    "batch_1": "the probe alone again: what differs here is not deterministic",
    "trial": "prompts of the workload's own trials, in the batch of their trial",
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
    "chunked_prefill": "neighbours leave room for half of the probe's prompt in the first step",
    "long_prompt": "a prompt that is longer than one step",
    "seeded": "seeded sampling",
    "samples": "that many seeded samples of each probe",
    "without_logprobs": "tokens alone, without asking for logprobs",
    "prompt_logprobs": "logprobs of the prompts too",
    "prefix_cache": "prompts found in the prefix cache",
    "prefill": "a probe's output as part of a prompt",
    "output": "outputs of that many tokens",
}
"""A composition's name, without its size, in a few words."""

VERDICTS = {
    Invariance.HOLDS: "nothing changed in batch-invariant mode, while the baseline did: a change would have been seen",
    Invariance.VIOLATED: "the output of a prompt changed with the batch, in batch-invariant mode",
    Invariance.NOT_DETERMINISTIC: "the same batch gave other bits when it ran again: nothing is known of the batch",
    Invariance.NO_CONTROL: "nothing changed in either arm, so that nothing shows that a change would be seen",
    Invariance.NOT_PROBED: "no probe was there",
}
"""Every verdict in a sentence."""


def meaning(composition: str) -> str | None:
    """What a composition is; None for a name that this release does not know."""
    return _MEANINGS.get(composition) or _MEANINGS.get(_kind_and_size(composition)[0])


def glossary(report: InvarianceReport) -> tuple[tuple[str, str], ...]:
    """The compositions and the verdict words of a report, each with its meaning, in the order in which they stand."""
    names = dict.fromkeys(count.composition for count in report.compositions)
    verdicts = dict.fromkeys([count.verdict for count in report.compositions] + [row.verdict for row in report.ledger])
    return (
        *((name, said) for name in names if (said := meaning(name)) is not None),
        *((verdict.replace("_", " "), VERDICTS[verdict]) for verdict in verdicts if verdict in VERDICTS),
    )


def why_not_run(composition: str, result: ExperimentResult) -> str:
    """Why a composition that was asked for gave no result, in a clause."""
    engine = next((phase.observed for phase in result.phases if phase.observed is not None and phase.probes), None)
    if engine is None:
        return "no phase got that far"
    kind, size = _kind_and_size(composition)
    step, longest = engine.max_num_batched_tokens, setting(result.configuration, "model.max_model_len") or 0
    reasons = {
        "step": (size > step, f"the largest step has {step} tokens"),
        "batch": (size > engine.max_num_seqs, f"the largest batch has {engine.max_num_seqs} sequences"),
        "long_prompt": (longest <= step, f"the model takes {longest} tokens, which fit one step of {step}"),
        "prefix_cache": (not engine.prefix_caching, "prefix caching is off"),
        "preempted": (True, "it needs the engine in the phase's own process (VLLM_ENABLE_V1_MULTIPROCESSING=0)"),
    }
    applies, reason = reasons.get(kind, (False, ""))
    return reason if applies else "the engine's limits make it impossible, or no phase got that far"


def _kind_and_size(composition: str) -> tuple[str, int]:
    sized = re.fullmatch(r"([a-z]+)_([0-9]+)", composition)
    return (sized[1], int(sized[2])) if sized else (composition, 0)
