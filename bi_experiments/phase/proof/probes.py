"""Run probes alone and in batch compositions, and compare the bits of what comes back.

Equal means: the same token ids and, at every position, the same returned logprobs as float32 bits.
"""

import hashlib
import math
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from bi_experiments.phase import engine
from bi_experiments.phase.proof.compositions import TEMPERATURE, Material, compose, composition
from bi_experiments.phase.proof.requests import Batch, EngineLimits, Output, Probed, Request, Sample
from bi_experiments.phase.proof.steps import StepClass, counted
from bi_experiments.records import (
    NEGATIVE_CONTROL,
    AloneOutput,
    Fault,
    ProbeDone,
    ProbePlan,
    ProbeResult,
    Workload,
)

if TYPE_CHECKING:
    from vllm import LLM

RAW_LOGPROBS = "logprobs.jsonl"
CONSTANT_FROM = 3
"""Output tokens from which on the same bits at every position are no coincidence."""
KEPT_ALONE = 32
"""Most output tokens of a probe alone that are kept, to compare the arms by."""

Generate = Callable[[Sequence[Request], bool, int | None], list[Output]]
"""Run one batch; passed whether the prefix cache is emptied before it, and the blocks that the KV cache has for it."""


def warm_up(llm: "LLM", plan: ProbePlan) -> None:
    """Have the engine compile what only probes need: vLLM compiles its logprobs for one prompt, and again for more.

    Args:
        llm: The engine, before anything is timed.
        plan: Counts.
    """
    greedy = Request(prompt=(1,), max_tokens=2)
    seeded = Request(prompt=(1,), max_tokens=2, temperature=TEMPERATURE, seed=plan.seed)
    for requests in ([greedy], [greedy, seeded], [seeded, seeded]):
        engine.generate_together(llm, requests, plan.logprobs)


def run_probes(
    llm: "LLM",
    plan: ProbePlan,
    workload: Workload,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    max_model_len: int,
    emit: Callable[[ProbeDone], None],
    keep_folder: Path | None,
) -> None:
    """Run all compositions of the plan on the engine, and emit the results of each when it is over.

    Args:
        llm: The engine of the trials.
        plan: Compositions and counts.
        workload: The trials' prompts.
        max_num_batched_tokens: Largest step, in tokens.
        max_num_seqs: Most sequences in a step.
        max_model_len: Longest sequence, in tokens.
        emit: Takes the results of one composition.
        keep_folder: Where the raw logprobs are written when the plan keeps them.

    Raises:
        ValueError: A composition does not exist, or the plan does not fit the engine's limits.
    """
    limits = engine.limits(llm, max_num_batched_tokens, max_num_seqs, max_model_len)
    tokenizer = engine.tokenizer(llm)
    token_ids = prompt_token_ids(tokenizer, engine.vocabulary_size(llm))

    def generate(requests: Sequence[Request], empty_cache: bool, kv_blocks: int | None) -> list[Output]:
        if limits.prefix_caching and empty_cache and not engine.empty_prefix_cache(llm):
            raise RuntimeError("the engine did not empty its prefix cache between two probe batches")
        with engine.small_kv_cache(llm, kv_blocks):
            return engine.generate_together(llm, requests, plan.logprobs)

    def text_tokens(text: str) -> int:
        return len(tokenizer.encode(text))

    run_compositions(generate, plan, workload, limits, token_ids, emit, keep_folder, text_tokens)


def prompt_token_ids(tokenizer: engine.Tokenizer, vocabulary_size: int) -> tuple[int, ...]:
    """The token ids that prompts are drawn from: the vocabulary without special and added tokens."""
    left_out = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return tuple(token for token in range(vocabulary_size) if token not in left_out)


def run_compositions(
    generate: Generate,
    plan: ProbePlan,
    workload: Workload,
    limits: EngineLimits,
    token_ids: tuple[int, ...],
    emit: Callable[[ProbeDone], None],
    keep_folder: Path | None,
    text_tokens: Callable[[str], int] = len,
) -> None:
    """What `run_probes` does, on anything that generates."""
    for name in plan.compositions:
        composition(name)
    references: dict[Request, Output] = {}

    def alone(request: Request) -> Output:
        if request not in references:
            (references[request],) = generate([request], True, None)
        return references[request]

    material = Material(plan, workload, limits, token_ids, alone, text_tokens)
    of_workload = counted(None, workload_steps(material))
    with ExitStack() as stack:
        raw = None
        if plan.keep and keep_folder is not None:
            raw = stack.enter_context((keep_folder / RAW_LOGPROBS).open("wb"))
        for name in plan.compositions:
            done = run_composition(name, material, generate, raw)
            if done.results:
                emit(msgspec.structs.replace(done, steps=(*of_workload, *done.steps)))
                of_workload = ()


def workload_steps(material: Material) -> Iterable[StepClass]:
    """The classes of the steps that all output tokens of the timed trials come from."""
    sampling = material.workload.sampling
    for each in material.workload.trials:
        for steps in material.step_classes(Request(prompt, sampling.max_tokens) for prompt in each.prompts):
            yield from steps


def run_composition(name: str, material: Material, generate: Generate, raw: IO[bytes] | None) -> ProbeDone:
    """Run all batches of one composition.

    The first batch in which a probe differs runs again: a difference that does not come back is not the batch's.

    Args:
        name: The composition.
        material: What it is made of.
        generate: Runs a batch.
        raw: Takes the raw logprobs; None: nobody wants them.
    """
    results: list[ProbeResult] = []
    steps: list[StepClass] = []
    for index, batch in enumerate(compose(name, material)):
        expected = [material.alone(probed.reference) for probed in batch.probed]
        outputs = run_batch(generate, batch)
        if batch.kv_blocks is not None and not any(output.preemptions for output in outputs):
            continue
        found: list[ProbeResult] = []
        for probed, reference in zip(batch.probed, expected, strict=True):
            output = outputs[probed.position]
            if batch.primed and output.cached_tokens == 0:
                continue
            found += compare_output(name, index, probed, reference, output)
            if raw is not None:
                keep(raw, name, index, probed, reference, output)
        if any(not one.equal for one in found) and all(one.equal for one in results):
            again = run_batch(generate, batch)
            found = [with_repeat(one, outputs[one.position], again[one.position]) for one in found]
        results += found
        if batch.kv_blocks is None and found:
            classes = material.step_classes(batch.requests)
            steps += [step for probed in batch.probed for step in classes[probed.position]]
    alone = alone_outputs(material) if name == NEGATIVE_CONTROL else ()
    return ProbeDone(results=tuple(results), steps=counted(name, steps), alone=alone)


def run_batch(generate: Generate, batch: Batch) -> list[Output]:
    """The outputs of a batch, after the same batch where it is to find its prompts in the prefix cache."""
    outputs = generate(batch.requests, True, batch.kv_blocks)
    return generate(batch.requests, False, batch.kv_blocks) if batch.primed else outputs


def with_repeat(result: ProbeResult, output: Output, again: Output) -> ProbeResult:
    """The result, which now says whether the batch gave the same bits when it ran again."""
    repeatable = position_bits(output.samples[result.sample]) == position_bits(again.samples[result.sample])
    return msgspec.structs.replace(result, repeatable=repeatable)


def alone_outputs(material: Material) -> tuple[AloneOutput, ...]:
    """The beginnings of the plan's probes alone, as far as they are numbers."""
    samples = [material.alone(material.request(prompt)).samples[0] for prompt in material.prompts]
    return tuple(
        AloneOutput(probe=probe, token_ids=sample.token_ids[:KEPT_ALONE], logprobs=sample.logprobs[:KEPT_ALONE])
        for probe, sample in enumerate(samples)
        if fault(sample) not in {Fault.NAN, Fault.INFINITE}
    )


def compare_output(name: str, batch: int, probed: Probed, reference: Output, output: Output) -> list[ProbeResult]:
    """One result for each sample of a probe."""
    results = []
    for index, (expected, sample) in enumerate(zip(reference.samples, output.samples, strict=True)):
        first = first_difference(expected, sample)
        results.append(
            ProbeResult(
                probe=probed.probe,
                composition=name,
                batch=batch,
                position=probed.position,
                sample=index,
                equal=first is None,
                first_difference=first,
                tokens_equal=expected.token_ids == sample.token_ids,
                largest_logprob_difference=largest_logprob_difference(expected, sample),
                digest=digest(sample),
                sampled=probed.sampled,
                fault=fault(sample) or fault(expected),
            )
        )
    return results


def fault(sample: Sample) -> Fault | None:
    """What is wrong with an output whatever it is compared with."""
    values = [logprob for entries in sample.logprobs for _, logprob in entries]
    if any(map(math.isnan, values)):
        return Fault.NAN
    if any(map(math.isinf, values)):
        return Fault.INFINITE
    if len(sample.token_ids) >= CONSTANT_FROM and values and len(set(position_bits(sample))) == 1:
        return Fault.CONSTANT
    return None


def position_bits(sample: Sample) -> list[bytes]:
    """For each output token: its id, and id and float32 bits of every returned logprob, best rank first."""
    return [
        struct.pack("<I", token) + b"".join(struct.pack("<If", *entry) for entry in entries)
        for token, entries in zip(sample.token_ids, sample.logprobs, strict=True)
    ]


def digest(sample: Sample) -> str:
    """SHA-256 over all bits that are compared."""
    return hashlib.sha256(b"".join(position_bits(sample))).hexdigest()


def first_difference(expected: Sample, sample: Sample) -> int | None:
    """Index of the first output token whose id or logprob bits differ; None when all are equal."""
    pairs = zip(position_bits(expected), position_bits(sample), strict=False)
    unequal = next((index for index, (left, right) in enumerate(pairs) if left != right), None)
    if unequal is None and len(expected.token_ids) != len(sample.token_ids):
        return min(len(expected.token_ids), len(sample.token_ids))
    return unequal


def largest_logprob_difference(expected: Sample, sample: Sample) -> float:
    """Largest |delta logprob| over the tokens that both returned.

    Positions after the first differing token id have another context and do not count. One that is not a number
    counts as the largest float, because JSON has neither infinity nor NaN.
    """
    largest = 0.0
    for left, right, left_logprobs, right_logprobs in zip(
        expected.token_ids, sample.token_ids, expected.logprobs, sample.logprobs, strict=False
    ):
        others = dict(right_logprobs)
        for token, logprob in left_logprobs:
            other = others.get(token, logprob)
            if struct.pack("<f", logprob) != struct.pack("<f", other):
                difference = abs(logprob - other)
                largest = max(largest, difference if math.isfinite(difference) else sys.float_info.max)
        if left != right:
            break
    return largest


def keep(raw: IO[bytes], name: str, batch: int, probed: Probed, reference: Output, output: Output) -> None:
    """Write one probe's raw tokens and logprobs, alone and in the batch, as a line of JSON."""
    line = {
        "composition": name,
        "batch": batch,
        "position": probed.position,
        "probe": probed.probe,
        "alone": reference.samples,
        "in_batch": output.samples,
    }
    raw.write(msgspec.json.encode(line) + b"\n")
