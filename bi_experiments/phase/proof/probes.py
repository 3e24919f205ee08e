"""Run the probes of a launch: each alone, and in the batches of every composition."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Protocol

import msgspec

from bi_experiments.phase import engine
from bi_experiments.phase.proof.bits import (
    comparable_tokens,
    compare_output,
    differences,
    fault,
    first_difference,
    same_bits,
)
from bi_experiments.phase.proof.compositions import BATCHES_OF_THE_WORKLOAD, compose, composition, workload_steps
from bi_experiments.phase.proof.material import TEMPERATURE, Material
from bi_experiments.phase.proof.requests import Batch, EngineLimits, Output, Probed, Request, Sample
from bi_experiments.phase.proof.steps import StepClass, counted
from bi_experiments.records import (
    NEGATIVE_CONTROL,
    TIMED,
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
KEPT_ALONE = 32
"""Most output tokens of a probe alone that are kept, to compare the arms by."""


class Generate(Protocol):
    """What runs one batch."""

    def __call__(
        self, requests: Sequence[Request], empty_cache: bool = True, kv_blocks: int | None = None
    ) -> list[Output]:
        """The outputs of a batch.

        Args:
            requests: Those of the batch.
            empty_cache: Whether the prefix cache is emptied before it.
            kv_blocks: As in `Batch`.

        Raises:
            RuntimeError: The engine did not empty its prefix cache.
        """
        ...


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
    time_s: float | None,
    timed: Mapping[int, Sequence[tuple[int, ...]]] = MappingProxyType({}),
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
        time_s: Time in seconds after which no more prompts of the workload are compared than needed; None: no limit.
        timed: Token ids that the timed trials made, by trial and prompt; those of the prompts that are compared are
            compared too, where the timed outputs are greedy and have their whole length.

    Raises:
        ValueError: A composition does not exist, or the plan does not fit the engine's limits.
    """
    limits = engine.limits(llm, max_num_batched_tokens, max_num_seqs, max_model_len)
    token_ids, text_tokens = vocabulary(llm)
    generate = on_engine(llm, plan.logprobs)
    run_compositions(generate, plan, workload, limits, token_ids, emit, keep_folder, text_tokens, time_s, timed)


def on_engine(llm: "LLM", logprobs: int) -> Generate:
    """What runs batches on an engine, and returns so many logprobs for each token."""

    def generate(requests: Sequence[Request], empty_cache: bool = True, kv_blocks: int | None = None) -> list[Output]:
        if empty_cache:
            engine.empty_prefix_cache(llm)
        with engine.small_kv_cache(llm, kv_blocks):
            return engine.generate_together(llm, requests, logprobs)

    return generate


def vocabulary(llm: "LLM") -> tuple[tuple[int, ...], Callable[[str], int]]:
    """The token ids that prompts are drawn from (no special and no added ones), and what counts a text's tokens."""
    tokenizer = engine.tokenizer(llm)
    left_out = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    token_ids = tuple(token for token in range(engine.vocabulary_size(llm)) if token not in left_out)
    return token_ids, lambda text: len(tokenizer.encode(text))


def run_compositions(
    generate: Generate,
    plan: ProbePlan,
    workload: Workload,
    limits: EngineLimits,
    token_ids: tuple[int, ...],
    emit: Callable[[ProbeDone], None],
    keep_folder: Path | None,
    text_tokens: Callable[[str], int] = len,
    time_s: float | None = None,
    timed: Mapping[int, Sequence[tuple[int, ...]]] = MappingProxyType({}),
) -> None:
    """What `run_probes` does, on anything that generates."""
    for name in plan.compositions:
        composition(name)
    deadline = math.inf if time_s is None else time.perf_counter() + time_s
    material = Material.drawn(plan, workload, limits, token_ids, References(generate).alone, text_tokens)
    of_workload = counted(None, workload_steps(material))
    graph_sizes = tuple(sorted(limits.graph_sizes))
    as_timed = TimedOutputs(timed if workload.sampling.temperature == 0 and workload.sampling.ignore_eos else {})
    with ExitStack() as stack:
        raw = None
        if plan.keep and keep_folder is not None:
            raw = stack.enter_context((keep_folder / RAW_LOGPROBS).open("wb"))
        for name in plan.compositions:
            done = run_composition(name, material, generate, raw, deadline, as_timed)
            if done.results or done.not_made:
                steps = (*of_workload, *done.steps)
                emit(msgspec.structs.replace(done, steps=steps, graph_sizes=graph_sizes, borders=limits.borders))
                of_workload = ()


class References:
    """The outputs of requests alone. Each runs once, and a shorter output is the beginning of a longer one."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate
        self._longest: dict[Request, tuple[int, Output]] = {}

    def alone(self, request: Request) -> Output:
        """The output of a request in a batch of one."""
        key = replace(request, max_tokens=0)
        tokens, output = self._longest.get(key, (0, None))
        if output is None or tokens < request.max_tokens:
            (output,) = self._generate([request])
            self._longest[key] = request.max_tokens, output
            return output
        left_out = tokens - request.max_tokens
        return replace(output, samples=tuple(beginning(sample, left_out) for sample in output.samples))


def beginning(sample: Sample, left_out: int) -> Sample:
    """A sample without so many of its last tokens."""
    kept = len(sample.token_ids) - left_out
    return Sample(sample.token_ids[:kept], sample.logprobs[:kept])


class TimedOutputs:
    """The outputs that the timed trials made, each compared once with the same request alone.

    Where they differ, the request runs alone without logprobs too: that asking for them changes a token is not the
    batch's doing.

    Args:
        token_ids: By trial and prompt.
    """

    def __init__(self, token_ids: Mapping[int, Sequence[tuple[int, ...]]]) -> None:
        self._token_ids = token_ids
        self._compared: set[tuple[int, int]] = set()

    def compare(self, trial: int, probed: Probed, alone: Callable[[Request], Output]) -> list[ProbeResult]:
        """The result of one prompt of a trial, by its tokens; none where it was not timed or has been compared."""
        place = (trial, probed.position)
        if trial not in self._token_ids or place in self._compared:
            return []
        self._compared.add(place)
        found = tokens_alone(self._token_ids[trial][probed.position])
        expected = tokens_alone(alone(probed.reference).samples[0].token_ids)
        if (first := first_difference(expected, found)) is not None:
            asked = replace(probed.reference, logprobs=False)
            own = tokens_alone(alone(replace(asked, max_tokens=first + 1)).samples[0].token_ids)
            if not same_bits(own, beginning(expected, len(expected.token_ids) - first - 1)):
                expected = tokens_alone(alone(asked).samples[0].token_ids)
        return compare_output(TIMED, trial, probed, Output((expected,)), Output((found,)), sampled=False)


def tokens_alone(token_ids: tuple[int, ...]) -> Sample:
    """A sample of which only the tokens are known."""
    return Sample(token_ids, ((),) * len(token_ids))


def run_composition(
    name: str,
    material: Material,
    generate: Generate,
    raw: IO[bytes] | None,
    deadline: float = math.inf,
    timed: TimedOutputs | None = None,
) -> ProbeDone:
    """Run all batches of one composition.

    The first batch in which a probe differs runs again, and that probe alone, as often as the plan says: a difference
    that does not come back is not the batch's.

    Args:
        name: The composition.
        material: What it is made of.
        generate: Runs a batch.
        raw: Takes the raw logprobs; None: they are not kept.
        deadline: Time by `time.perf_counter` after which only needed probes are compared.
        timed: What the timed trials made of the same requests, for compositions of the workload's own batches.
    """
    ran: list[tuple[int, Batch, list[Output]]] = []
    for index, batch in enumerate(compose(name, material)):
        outputs = run_batch(generate, batch)
        if batch.kv_blocks is None or any(output.preemptions for output in outputs):
            ran.append((index, batch, [outputs[probed.position] for probed in batch.probed]))
        else:
            material.lacks("no sequence was preempted")
    drawn = run_references([probed for _, batch, _ in ran for probed in batch.probed], material.alone, deadline)
    results: list[ProbeResult] = []
    steps: list[StepClass] = []
    comparable: list[StepClass] = []
    changed: list[StepClass] = []
    left_out = 0
    for index, batch, outputs in ran:
        sampled = {probed for probed in batch.probed if probed.draw is not None and probed.draw < drawn}
        left_out += sum(probed.draw is not None for probed in batch.probed) - len(sampled)
        compared = [
            (probed, material.alone(probed.reference), output)
            for probed, output in zip(batch.probed, outputs, strict=True)
            if (probed.needed or probed in sampled) and not (batch.primed and output.cached_tokens == 0)
        ]
        if batch.primed and not compared:
            length = material.prompt_length(batch.requests[0])
            material.lacks("the engine took none of it from its prefix cache", f"the prompt of {length} tokens")
        found = [one for each in compared for one in compare_output(name, index, *each, each[0] in sampled)]
        # Where what was timed differs, no batch has run again yet.
        if any(not one.equal for one in found) and all(one.equal for one in results if one.composition == name):
            found = with_repeats(found, batch, compared, generate, material.plan.repeats)
        results += found
        if timed is not None and name in BATCHES_OF_THE_WORKLOAD:
            results += [one for probed, _, _ in compared for one in timed.compare(index, probed, material.alone)]
        # The steps are those of the rule, which follows neither preemption nor what is found in the prefix cache.
        if batch.kv_blocks is None and not batch.primed and compared:
            classes = material.step_classes(batch.requests)
            for probed, alone, output in compared:
                request, own = batch.requests[probed.position], classes[probed.position]
                steps += own
                comparable += steps_of(comparable_tokens, request, own, alone, output)
                changed += steps_of(differences, request, own, alone, output)
        if raw is not None:
            for each in compared:
                keep(raw, name, index, *each)
    return ProbeDone(
        results=tuple(results),
        steps=counted(name, steps, comparable, changed),
        alone=alone_outputs(material) if name == NEGATIVE_CONTROL else (),
        left_out=left_out,
        not_made=tuple(material.not_made),
    )


def steps_of(
    tokens: Callable[[Sample, Sample], Iterable[int]],
    request: Request,
    classes: Sequence[StepClass],
    alone: Output,
    output: Output,
) -> list[StepClass]:
    """The classes of the steps that some output tokens come from; a scored prompt is its last token's step.

    Args:
        tokens: Gives the indices of the tokens from a sample alone and in the batch.
        request: The probe.
        classes: One for each output token, sample by sample.
        alone: Its output alone.
        output: Its output in the batch.
    """
    found = []
    for index, (expected, sample) in enumerate(zip(alone.samples, output.samples, strict=True)):
        scored = max(0, len(sample.token_ids) - request.max_tokens)
        own = classes[index * request.max_tokens : (index + 1) * request.max_tokens]
        found += [own[at] for at in sorted({max(0, at - scored) for at in tokens(expected, sample)})]
    return found


def run_references(probed: Iterable[Probed], alone: Callable[[Request], Output], deadline: float) -> int:
    """Run the references of drawn prompts in the order in which they were drawn, and end at the deadline.

    Returns:
        How many of the first that were drawn have a reference.
    """
    drawn = sorted(
        ((each.draw, each.needed, each.reference) for each in probed if each.draw is not None), key=itemgetter(0)
    )
    took_s = 0.0
    for place, needed, reference in drawn:
        started = time.perf_counter()
        if started + took_s > deadline and not needed:
            return place
        alone(reference)
        took_s = time.perf_counter() - started
    return len(drawn)


def run_batch(generate: Generate, batch: Batch) -> list[Output]:
    """The outputs of a batch, after the same batch where it is to find its prompts in the prefix cache."""
    outputs = generate(batch.requests, kv_blocks=batch.kv_blocks)
    return generate(batch.requests, False, batch.kv_blocks) if batch.primed else outputs


def with_repeats(
    found: Sequence[ProbeResult],
    batch: Batch,
    compared: Sequence[tuple[Probed, Output, Output]],
    generate: Generate,
    repeats: int,
) -> list[ProbeResult]:
    """The results of a batch, which now say whether the same bits come back from it and from the probe alone.

    Noise of two values may repeat by chance: where one of ten outputs has the rarer one, 16 % of proofs take it for
    an effect of the batch after one repeat, and none of 100 after two (simulated, 12 compositions
    of 4 probes).

    Args:
        found: The results, of which one or more differ.
        batch: The batch.
        compared: The probes, each with its output alone and in the batch.
        generate: Runs a batch.
        repeats: How often both run again.
    """
    again = [run_batch(generate, batch) for _ in range(repeats)]
    in_batch = {probed.position: output for probed, _, output in compared}
    position = next(one.position for one in found if not one.equal)
    probed, reference = next((each, alone) for each, alone, _ in compared if each.position == position)
    alone_again = [generate([probed.reference])[0] for _ in range(repeats)]
    alone_comes_back = all(all(map(same_bits, reference.samples, output.samples)) for output in alone_again)

    def comes_back(one: ProbeResult) -> bool:
        expected = in_batch[one.position].samples[one.sample]
        return all(same_bits(expected, outputs[one.position].samples[one.sample]) for outputs in again)

    return [msgspec.structs.replace(one, repeatable=alone_comes_back and comes_back(one)) for one in found]


def alone_outputs(material: Material) -> tuple[AloneOutput, ...]:
    """The beginnings of the plan's probes alone, as far as they are numbers."""
    samples = [material.alone(material.request(prompt)).samples[0] for prompt in material.prompts]
    return tuple(
        AloneOutput(probe=probe, token_ids=sample.token_ids[:KEPT_ALONE], logprobs=sample.logprobs[:KEPT_ALONE])
        for probe, sample in enumerate(samples)
        if fault(sample) not in {Fault.NAN, Fault.INFINITE}
    )


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
