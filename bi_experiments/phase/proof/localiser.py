"""The first operator that differs for one probe, and the smallest batch that makes it differ."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from bi_experiments.phase import engine
from bi_experiments.phase.proof.bits import first_difference, scored_prompt
from bi_experiments.phase.proof.compositions import compose
from bi_experiments.phase.proof.material import Material
from bi_experiments.phase.proof.probes import on_engine, run_batch, vocabulary
from bi_experiments.phase.proof.requests import Batch, Output, Request
from bi_experiments.phase.proof.shrinking import Shrinker
from bi_experiments.records import (
    BatchRequest,
    LocatePlan,
    Location,
    ModuleDifference,
    ObservedEngine,
    PhaseSpec,
    ProbePlan,
    SmallestBatch,
    Workload,
)

if TYPE_CHECKING:
    from vllm import LLM

OTHER_STEPS = "it cannot be composed again, as this engine has other steps or graphs than the experiment's"
OTHER_BITS = "gives other bits when it runs again, so that nothing can be said about the batch"
HOOKS_CHANGE_IT = "the observed model gave other bits than the unobserved one, so that nothing can be said"
EVERY_MODULE_EQUAL = "every module gave the same bits: what differs is sampling, or how logprobs are made"


def locate(llm: "LLM", spec: PhaseSpec, workload: Workload, observed: ObservedEngine) -> Location:
    """Look into the differing probe that the phase's plan names.

    Args:
        llm: The engine.
        spec: What the phase was passed: the plan, and the probes that the batch was made for.
        workload: The trials' prompts.
        observed: What the engine runs with.
    """
    assert spec.locate is not None
    assert spec.probes is not None
    search = _Search(llm, spec.locate, spec.probes, spec.engine.max_model_len)
    found = Location(
        arm=spec.arm,
        composition=spec.locate.composition,
        batch=spec.locate.batch,
        position=spec.locate.position,
        sample=spec.locate.sample,
        logprobs=spec.probes.logprobs,
    )
    composed = search.find(workload, observed)
    if composed is None:
        return msgspec.structs.replace(found, composed=False, stopped=OTHER_STEPS)
    batch, reference = composed
    found = msgspec.structs.replace(
        found, prompt_tokens=len(reference.prompt), prompt_positions=scored_prompt(reference)
    )
    return search.run(found, batch, reference)


class _Search:
    """One search, on one engine."""

    def __init__(self, llm: "LLM", plan: LocatePlan, probes: ProbePlan, max_model_len: int) -> None:
        self._llm = llm
        self._plan = plan
        self._max_model_len = max_model_len
        self._probes = probes
        self._generate = on_engine(llm, probes.logprobs)

    def find(self, workload: Workload, observed: ObservedEngine) -> tuple[Batch, Request] | None:
        """The batch, composed again from the plan's seed, and the probe's reference, all prompts as token ids.

        None where the composition has no such batch on this engine, or no probe at that place.
        """
        plan = self._plan
        steps = observed.max_num_batched_tokens, observed.max_num_seqs
        limits = engine.limits(self._llm, *steps, self._max_model_len)
        if plan.graph_sizes is not None and plan.borders is not None:
            limits = replace(limits, graph_sizes=frozenset(plan.graph_sizes), borders=plan.borders)
        token_ids, text_tokens = vocabulary(self._llm)
        material = Material.drawn(self._probes, workload, limits, token_ids, self._alone, text_tokens)
        batch = next(itertools.islice(compose(plan.composition, material), plan.batch, None), None)
        probed = () if batch is None else batch.probed
        reference = next((each.reference for each in probed if each.position == plan.position), None)
        if batch is None or reference is None:
            return None

        tokenizer = engine.tokenizer(self._llm)

        def tokens(request: Request) -> Request:
            if not isinstance(request.prompt, str):
                return request
            return replace(request, prompt=tuple(tokenizer.encode(request.prompt)))

        return replace(batch, requests=tuple(map(tokens, batch.requests))), tokens(reference)

    def run(self, found: Location, batch: Batch, reference: Request) -> Location:
        """What is found of a difference.

        Args:
            found: What names the probe.
            batch: The batch in which it differs.
            reference: What runs alone.
        """
        position = self._plan.position
        alone = self._alone(reference)
        if self.first_difference(alone, self._alone(reference)) is not None:
            return msgspec.structs.replace(found, repeatable=False, stopped=f"the probe alone {OTHER_BITS}")
        in_batch = self._in_batch(batch, position)
        first = self.first_difference(alone, in_batch)
        if first is None:
            return msgspec.structs.replace(found, stopped="the probe's output is the same in the batch as alone")
        found = msgspec.structs.replace(found, first_difference=first)
        if self.first_difference(in_batch, self._in_batch(batch, position)) is not None:
            return msgspec.structs.replace(found, stopped=f"the batch {OTHER_BITS}")
        return self._look_into(found, batch, reference, first)

    def _look_into(self, found: Location, batch: Batch, reference: Request, first: int) -> Location:
        """The operator behind a difference that comes back, and the smallest batch."""
        position = self._plan.position
        scored = batch.requests[position].scored_from is not None
        if not scored:
            # The tokens behind the first difference have another context, so that their rows say nothing.
            tokens = min(reference.max_tokens, output_token(first, reference) + 1)
            reference = replace(reference, max_tokens=tokens)
            batch = replace(batch, requests=shortened(batch.requests, position, tokens))
        if self._plan.observe:
            layers = self._observe(batch, position, reference, first)
            if isinstance(layers, str):
                return msgspec.structs.replace(found, stopped=layers)
            named = first_of(layers, engine.ranks_a_stage(self._llm))
            stopped = None if named is not None else EVERY_MODULE_EQUAL
            found = msgspec.structs.replace(found, layers=tuple(layers), first=named, stopped=stopped)
        if scored or batch.primed or batch.kv_blocks is not None:
            return found
        smallest = self._shrink(batch, reference)
        if smallest is None:
            return msgspec.structs.replace(
                found, not_shrunk="the smallest batch that was found did not change it again"
            )
        return msgspec.structs.replace(found, smallest=smallest)

    def first_difference(self, alone: Output, output: Output) -> int | None:
        """First differing token of the sample that the plan names; those of a scored prompt count first."""
        sample = self._plan.sample
        return first_difference(alone.samples[sample], output.samples[sample])

    def _alone(self, request: Request) -> Output:
        return self._generate([request])[0]

    def _in_batch(self, batch: Batch, position: int) -> Output:
        return run_batch(self._generate, batch)[position]

    def _observe(self, batch: Batch, position: int, reference: Request, first: int) -> list[ModuleDifference] | str:
        """What every module computes, in the first step that differs; where the output is another, why."""
        unobserved = self._alone(reference), self._in_batch(batch, position)
        last_position = len(reference.prompt) + output_token(first, reference) - 1
        sample = self._plan.sample

        def start(index: int, compare: bool) -> None:
            number = engine.next_request_number(self._llm) + index
            engine.observe_modules(self._llm, number, sample, last_position, compare)

        try:
            start(0, compare=False)
            alone = self._alone(reference)
            engine.end_observation(self._llm)
            if batch.primed:
                self._generate(batch.requests)
            start(position, compare=True)
            in_batch = self._generate(batch.requests, not batch.primed, batch.kv_blocks)[position]
        finally:
            compared = engine.end_observation(self._llm)
        if self._changed(unobserved, (alone, in_batch)):
            again = self._alone(reference), self._in_batch(batch, position)
            return f"the batch {OTHER_BITS}" if self._changed(unobserved, again) else HOOKS_CHANGE_IT
        earliest = min((one.step for one in compared), default=0)
        return [one for one in compared if one.step == earliest]

    def _changed(self, before: Sequence[Output], after: Sequence[Output]) -> bool:
        return any(self.first_difference(*pair) is not None for pair in zip(before, after, strict=True))

    def _shrink(self, batch: Batch, reference: Request) -> SmallestBatch | None:
        """The smallest batch that still changes the probe; None where it does not when it runs again."""
        plan = self._plan
        alone = self._alone(reference)

        def differs(requests: Sequence[Request], position: int) -> bool:
            return self.first_difference(alone, self._generate(requests)[position]) is not None

        deadline = time.monotonic() + plan.shrink_time_s
        shrinker = Shrinker(batch.requests, plan.position, differs, deadline, self._max_model_len)
        shrinker.shrink()
        border, differing, equal = shrinker.border()
        output = self._generate(shrinker.requests)[shrinker.position]
        first = self.first_difference(alone, output)
        if first is None:
            return None
        smallest = replace(batch, requests=shrinker.requests)
        layers = self._observe(smallest, shrinker.position, reference, first) if plan.observe else []
        return SmallestBatch(
            requests=tuple(plain(request) for request in shrinker.requests),
            position=shrinker.position,
            sample=plan.sample,
            first_difference=first,
            neighbours_before=len(batch.requests) - 1,
            tried=shrinker.tried,
            whole=shrinker.whole,
            first=None if isinstance(layers, str) else first_of(layers, engine.ranks_a_stage(self._llm)),
            border_tokens=border,
            larger_differing=differing,
            larger_equal=equal,
        )


def output_token(first: int, reference: Request) -> int:
    """The output token in whose steps a difference is; a prompt that is scored is read in those of the first."""
    return max(0, first - scored_prompt(reference))


def shortened(requests: Sequence[Request], position: int, max_tokens: int) -> tuple[Request, ...]:
    """The batch with a shorter output of the request at that index; the neighbours' stay as they are."""
    return tuple(
        replace(request, max_tokens=max_tokens) if index == position else request
        for index, request in enumerate(requests)
    )


def first_of(layers: Sequence[ModuleDifference], ranks_a_stage: int) -> ModuleDifference | None:
    """The first module that differs in the order of execution.

    Args:
        layers: What every worker compared, each in the order of execution.
        ranks_a_stage: Workers of one stage of the pipeline: a stage begins when the one before it has ended.
    """
    order: dict[int, int] = {}
    differing = []
    for one in layers:
        place = order[one.rank] = order.get(one.rank, -1) + 1
        if one.differing:
            differing.append((one.rank // ranks_a_stage, place, one.rank, one))
    return min(differing, key=lambda found: found[:3])[3] if differing else None


def plain(request: Request) -> BatchRequest:
    """The request as it is recorded."""
    assert not isinstance(request.prompt, str)
    return BatchRequest(
        prompt=request.prompt,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        seed=request.seed,
        samples=request.samples,
        logprobs=request.logprobs,
        score_prompt=request.score_prompt,
    )
