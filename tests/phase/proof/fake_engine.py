"""A generator of outputs that depend on the request alone, except where a test sabotages it."""

import random
import struct
from collections.abc import Callable, Sequence

from bi_experiments.phase.proof.material import Material
from bi_experiments.phase.proof.requests import EngineLimits, Output, Request, Sample
from bi_experiments.records import ProbePlan, Sampling, TrialInput, Workload

TOKEN_IDS = tuple(range(2, 500))
LIMITS = EngineLimits(
    max_num_batched_tokens=512, max_num_seqs=32, max_model_len=1024, prefix_caching=False, block_size=16
)
WORKLOAD = Workload(
    kind="needle",
    seed=1,
    needle="There once was a ",
    trials=(
        TrialInput(prompts=("one", "There once was a ", "two"), needle_position=1),
        TrialInput(prompts=("three", "four", "five", "There once was a "), needle_position=3),
    ),
    sampling=Sampling(temperature=0.0, top_p=0.95, seed=1, max_tokens=4, ignore_eos=True),
)
SAMPLE = Sample((7, 8, 9), (((7, -0.5), (1, -1.5)), ((8, -0.25), (2, -2.5)), ((9, -0.75), (3, -3.5))))

Sabotage = Callable[[Sequence[Request], int, Sample], Sample]


def plan(
    *compositions: str,
    probes: int = 6,
    max_tokens: int = 8,
    keep: bool = False,
    level: str = "standard",
    trial_prompts: int = 2,
) -> ProbePlan:
    return ProbePlan(
        level=level,
        compositions=compositions,
        probes=probes,
        max_tokens=max_tokens,
        logprobs=5,
        seed=12345,
        keep=keep,
        trial_prompts=trial_prompts,
    )


def float32(value: float) -> float:
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    assert isinstance(rounded, float)
    return rounded


def next_float32(value: float) -> float:
    """The float32 whose bits are one higher."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    (following,) = struct.unpack("<f", struct.pack("<I", bits + 1))
    assert isinstance(following, float)
    return following


def position(context: object, token: int | None = None) -> tuple[int, tuple[tuple[int, float], ...]]:
    """Token and logprobs that follow a context, the same for a decode and for a prefill."""
    source = random.Random(str(context))
    candidates = source.sample(TOKEN_IDS, 5)
    logprobs = sorted((float32(-source.uniform(0.1, 9)) for _ in candidates), reverse=True)
    return (candidates[0] if token is None else token), tuple(zip(candidates, logprobs, strict=True))


def continuation(request: Request, sample: int) -> Sample:
    """Greedy samples follow from the prompt alone; seeded ones also from seed and index."""
    if request.scored_from is not None:
        assert not isinstance(request.prompt, str)
        at = range(request.scored_from, len(request.prompt))
        scored = [position(request.prompt[:end], request.prompt[end]) for end in at]
        return Sample(tuple(token for token, _ in scored), tuple(entries for _, entries in scored))
    tokens: list[int] = []
    logprobs: list[tuple[tuple[int, float], ...]] = []
    for _ in range(request.max_tokens):
        context: object = (*request.prompt, *tokens)
        token, entries = position((context, request.seed, sample) if request.seed is not None else context)
        tokens.append(token)
        logprobs.append(entries)
    if request.score_prompt:
        assert not isinstance(request.prompt, str)
        scored = [position(request.prompt[:end], request.prompt[end]) for end in range(1, len(request.prompt))]
        tokens = [token for token, _ in scored] + tokens
        logprobs = [entries for _, entries in scored] + logprobs
    if not request.logprobs:
        logprobs = [() for _ in tokens]
    return Sample(tuple(tokens), tuple(logprobs))


class FakeEngine:
    """Remembers the batches it was given; `sabotage` sees the batch, the position in it and the sample.

    A KV cache that is too small preempts every request `preemptions` times.
    """

    def __init__(self, sabotage: Sabotage | None = None, cached_tokens: int = 0, preemptions: int = 1) -> None:
        self.sabotage = sabotage
        self.cached_tokens = cached_tokens
        self.preemptions = preemptions
        self.batches: list[tuple[tuple[Request, ...], bool]] = []

    def __call__(
        self, requests: Sequence[Request], empty_cache: bool = True, kv_blocks: int | None = None
    ) -> list[Output]:
        self.batches.append((tuple(requests), empty_cache))
        outputs = []
        for at, request in enumerate(requests):
            samples = [continuation(request, index) for index in range(request.samples)]
            if self.sabotage is not None:
                samples = [self.sabotage(requests, at, sample) for sample in samples]
            cached_tokens = 0 if empty_cache else self.cached_tokens
            preemptions = self.preemptions if kv_blocks is not None else 0
            outputs.append(Output(tuple(samples), cached_tokens, preemptions))
        return outputs


def with_next_bits(sample: Sample, token: int, rank: int = 0) -> Sample:
    """The sample with one logprob a single bit away."""
    entries = list(sample.logprobs[token])
    entries[rank] = (entries[rank][0], next_float32(entries[rank][1]))
    return Sample(sample.token_ids, (*sample.logprobs[:token], tuple(entries), *sample.logprobs[token + 1 :]))


def with_other_token(sample: Sample, token: int) -> Sample:
    """The sample with another token id at that place, and other logprobs behind it."""
    ids = (*sample.token_ids[:token], sample.token_ids[token] + 1, *sample.token_ids[token + 1 :])
    behind = tuple(
        tuple((each, logprob - 100) for each, logprob in entries) for entries in sample.logprobs[token + 1 :]
    )
    return Sample(ids, (*sample.logprobs[: token + 1], *behind))


def alone(request: Request) -> Output:
    return FakeEngine()([request], True)[0]


def material(limits: EngineLimits = LIMITS, probes: int = 6, max_tokens: int = 8) -> Material:
    return Material.drawn(plan(probes=probes, max_tokens=max_tokens), WORKLOAD, limits, TOKEN_IDS, alone)
