"""Batch compositions: what company a probe is put in, as batches of requests. Pure: no engine, no torch.

A composition is named in the configuration's `verify` group; a number at the end of the name is its size (`batch_8`,
`step_257`, `samples_2`, `output_512`). One that the engine's limits make impossible yields no batch at all, so that a
name never stands for something else than it says. What a name promises about steps and positions rests on all requests
of a batch being queued before the first step, and on vLLM's scheduler taking them in order, each whole while the step's
tokens last (`vllm/v1/core/sched/scheduler.py`, first come first served).
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from bi_experiments.phase.proof.requests import Batch, Limits, Output, Probed, Request
from bi_experiments.records import ProbePlan, Workload

LONGEST_PROBE = 300
"""Prompt tokens of the longest probe, where the model takes as many."""
LONGEST_NEIGHBOUR = 16
"""Prompt tokens of the longest ordinary neighbour: neighbours are many, and only their presence matters."""
TEMPERATURE = 0.6
SEEDS_APART = 1000
"""Distance of the probes' sampling seeds; vLLM counts up from a request's seed for its further samples."""


class Material:
    """What the compositions are made of: the probes, a source of neighbours, the limits.

    Args:
        plan: Counts and the seed.
        workload: Trials, for the compositions `needle` and `workload`.
        limits: The engine's.
        token_ids: Ids that prompts are drawn from: the vocabulary without special tokens.
        alone: Gives the output of a request in a batch of one.

    Raises:
        ValueError: `plan.max_tokens` leaves no room for a prompt.
    """

    def __init__(
        self,
        plan: ProbePlan,
        workload: Workload,
        limits: Limits,
        token_ids: tuple[int, ...],
        alone: Callable[[Request], Output],
    ) -> None:
        self.plan = plan
        self.workload = workload
        self.limits = limits
        self.alone = alone
        self.longest_prompt = limits.max_model_len - plan.max_tokens
        if self.longest_prompt < 1:
            raise ValueError(
                f"verify.max_tokens={plan.max_tokens} leaves no room for a prompt in "
                f"model.max_model_len={limits.max_model_len}: set verify.max_tokens={limits.max_model_len // 2}"
            )
        self._token_ids = token_ids
        self.random = random.Random(plan.seed)
        lengths = probe_lengths(plan.probes, min(LONGEST_PROBE, self.longest_prompt))
        self.prompts = tuple(self.tokens(length) for length in lengths)

    def restart(self, composition: str) -> None:
        """Give each composition a random sequence of its own, whichever others ran before it."""
        self.random = random.Random(f"{self.plan.seed} {composition}")

    def tokens(self, length: int) -> tuple[int, ...]:
        """A random prompt of that many tokens."""
        return tuple(self.random.choices(self._token_ids, k=length))

    def request(self, prompt: tuple[int, ...]) -> Request:
        """The prompt continued greedily."""
        return Request(prompt=prompt, max_tokens=self.plan.max_tokens)

    def seeded(self, probe: int, samples: int = 1) -> Request:
        """The probe continued by seeded sampling."""
        seed = self.plan.seed + SEEDS_APART * probe
        return replace(self.request(self.prompts[probe]), temperature=TEMPERATURE, seed=seed, samples=samples)

    def neighbour(self) -> Request:
        """A random prompt of ordinary length, continued greedily."""
        return self.request(self.tokens(self.random.randint(1, min(LONGEST_NEIGHBOUR, self.longest_prompt))))

    def short_neighbour(self) -> Request:
        """A prompt of one token, continued greedily."""
        return self.request(self.tokens(1))

    def neighbours_of(self, tokens: int) -> list[Request]:
        """As few neighbours as make up exactly this many prompt tokens."""
        whole, rest = divmod(tokens, self.longest_prompt)
        lengths = [self.longest_prompt] * whole + ([rest] if rest else [])
        return [self.request(self.tokens(length)) for length in lengths]


def probe_lengths(count: int, longest: int) -> list[int]:
    """Prompt lengths in tokens, from one to `longest`, each the same factor above the one before it."""
    if count == 1:
        return [longest]
    return [round(longest ** (index / (count - 1))) for index in range(count)]


def numbered(requests: Iterable[Request], probes: dict[Request, int]) -> Batch:
    """A batch in which every request found in `probes` is compared with itself alone."""
    batch = tuple(requests)
    probed = tuple(
        Probed(probes[request], position, request) for position, request in enumerate(batch) if request in probes
    )
    return Batch(batch, probed)


def greedy(material: Material) -> dict[Request, int]:
    """The probes' greedy requests with the probes' numbers."""
    return {material.request(prompt): probe for probe, prompt in enumerate(material.prompts)}


def batch_of(material: Material, size: int) -> Iterator[Batch]:
    """Batches of `size`: in each a probe first, in the middle and last, and every probe in three different places."""
    if size > material.limits.max_num_seqs:
        return
    probes = greedy(material)
    requests = list(probes)
    for start in range(0, len(requests), size):
        group = requests[start : start + size]
        slots = min(size, max(len(group), 3))
        places = [slot * (size - 1) // max(slots - 1, 1) for slot in range(slots)]
        for shift in sorted({0, slots // 3, 2 * slots // 3}):
            batch: list[Request] = [material.neighbour() for _ in range(size)]
            for index, request in enumerate(group):
                batch[places[(index + shift) % slots]] = request
            yield numbered(batch, probes)


def shuffled(material: Material, _: int) -> Iterator[Batch]:
    """All probes among as many neighbours, twice, each time in another random order of arrival."""
    probes = greedy(material)
    batch = [*probes, *(material.neighbour() for _ in probes)]
    for _ in range(2):
        material.random.shuffle(batch)
        yield numbered(batch, probes)


def ragged(material: Material, _: int) -> Iterator[Batch]:
    """All probes among neighbours of very different prompt and output lengths, which leave while the probes go on."""
    probes = greedy(material)
    batch: list[Request] = []
    for index, request in enumerate(probes):
        length = (1, min(LONGEST_PROBE, material.longest_prompt), 2, 3 * index + 1)[index % 4]
        max_tokens = max(1, material.plan.max_tokens // (1 + index % 3))
        tokens = material.tokens(min(length, material.longest_prompt))
        batch += [Request(tokens, max_tokens), request]
    yield numbered(batch, probes)


def step_of(material: Material, tokens: int) -> Iterator[Batch]:
    """Batches whose prompts make a first step of exactly `tokens` tokens; probes that are as long are left out."""
    limits = material.limits
    if tokens > limits.max_num_batched_tokens:
        return
    probes = greedy(material)
    for group in packed(probes, tokens - 1, limits.max_num_seqs - 1):
        batch = group + material.neighbours_of(tokens - prompt_tokens(group))
        if len(batch) <= limits.max_num_seqs:
            yield numbered(batch, probes)


def packed(requests: Iterable[Request], tokens: int, sequences: int) -> list[list[Request]]:
    """The requests in as few groups as first-fit finds, longest first.

    Args:
        requests: Those that have more than `tokens` prompt tokens are left out.
        tokens: Most prompt tokens in a group.
        sequences: Most sequences in a group.
    """

    def fits(group: list[Request]) -> bool:
        return prompt_tokens(group) <= tokens and sum(request.samples for request in group) <= sequences

    groups: list[list[Request]] = []
    for request in sorted(requests, key=lambda request: len(request.prompt), reverse=True):
        group = next((group for group in groups if fits([*group, request])), None)
        if group is not None:
            group.append(request)
        elif fits([request]):
            groups.append([request])
    return groups


def prompt_tokens(requests: Iterable[Request]) -> int:
    """Prompt tokens of all requests together."""
    return sum(len(request.prompt) for request in requests)


def chunked_prefill(material: Material, _: int) -> Iterator[Batch]:
    """The longest probe behind neighbours that leave room for half of its prompt in the first step."""
    request = material.request(material.prompts[-1])
    step = material.limits.max_num_batched_tokens
    room = min(len(request.prompt) // 2, step - 1)
    batch = [*material.neighbours_of(step - room), request]
    if room and len(batch) <= material.limits.max_num_seqs:
        yield numbered(batch, {request: len(material.prompts) - 1})


def long_prompt(material: Material, _: int) -> Iterator[Batch]:
    """A prompt of one and a half steps, behind and before neighbours that move the places where it is split."""
    step = material.limits.max_num_batched_tokens
    if material.longest_prompt <= step or material.limits.max_num_seqs < 3:
        return
    request = material.request(material.tokens(min(material.longest_prompt, step + step // 2)))
    neighbours = [material.neighbour() for _ in range(2)]
    for batch in ([*neighbours, request], [request, *neighbours]):
        yield numbered(batch, {request: 0})


def seeded(material: Material, _: int) -> Iterator[Batch]:
    """The probes by seeded sampling: all before one greedy neighbour, then with such a neighbour behind each.

    No prompt is split: for that vLLM takes back random numbers, which torch's generator for the CPU cannot do.
    """
    probes = {material.seeded(probe): probe for probe in range(len(material.prompts))}
    limits = material.limits
    for group in packed(probes, limits.max_num_batched_tokens - 1, limits.max_num_seqs - 1):
        yield numbered([*group, material.short_neighbour()], probes)
    for group in packed(probes, limits.max_num_batched_tokens - len(probes), limits.max_num_seqs // 2):
        yield numbered([each for request in group for each in (request, material.short_neighbour())], probes)


def samples_of(material: Material, samples: int) -> Iterator[Batch]:
    """The probes with several seeded samples each, before one greedy neighbour; no prompt is split.

    The reference is the same request alone, with all its samples.
    """
    probes = {material.seeded(probe, samples): probe for probe in range(len(material.prompts))}
    limits = material.limits
    for group in packed(probes, (limits.max_num_batched_tokens - 1) // samples, limits.max_num_seqs - 1):
        yield numbered([*group, material.short_neighbour()], probes)


def output_of(material: Material, tokens: int) -> Iterator[Batch]:
    """Every second probe with an output of `tokens` tokens, among ordinary neighbours."""
    probes = {
        Request(prompt, tokens): probe
        for probe, prompt in enumerate(material.prompts)
        if probe % 2 == 0 and len(prompt) + tokens <= material.limits.max_model_len
    }
    if probes:
        yield numbered([each for request in probes for each in (request, material.neighbour())], probes)


def prefix_cache(material: Material, _: int) -> Iterator[Batch]:
    """Every probe longer than a block alone, with its prompt already in the prefix cache; the reference is cold."""
    if material.limits.prefix_caching:
        for request, probe in greedy(material).items():
            if len(request.prompt) > material.limits.block_size:
                yield Batch((request,), (Probed(probe, 0, request),), primed=True)


def prefill(material: Material, _: int) -> Iterator[Batch]:
    """Every probe with its output appended to its prompt, alone: logprobs of the prefill against the decode's."""
    for request, probe in greedy(material).items():
        assert not isinstance(request.prompt, str)
        (decoded,) = material.alone(request).samples
        # The last token would not be needed as input, but only tokens of the prompt are scored.
        prompt = request.prompt + decoded.token_ids
        if len(prompt) < material.limits.max_model_len:
            scored = Request(prompt, max_tokens=1, scored_from=len(request.prompt))
            yield Batch((scored,), (Probed(probe, 0, request),))


def needle(material: Material, _: int) -> Iterator[Batch]:
    """The needle at its position in the largest batch of the trials."""
    trial = max(material.workload.trials, key=lambda trial: trial.batch_size)
    requests = workload_requests(material, trial.prompts)
    yield Batch(requests, (Probed(0, trial.needle_position, requests[trial.needle_position]),))


def every_workload_prompt(material: Material, _: int) -> Iterator[Batch]:
    """Every prompt of every trial in that trial's batch, greedily."""
    first = 0
    for trial in material.workload.trials:
        requests = workload_requests(material, trial.prompts)
        yield Batch(requests, tuple(Probed(first + at, at, request) for at, request in enumerate(requests)))
        first += trial.batch_size


def workload_requests(material: Material, prompts: Iterable[str]) -> tuple[Request, ...]:
    """Prompts of the workload as requests, with no more output than the trials have: so much fits the model."""
    max_tokens = min(material.plan.max_tokens, material.workload.sampling.max_tokens)
    return tuple(Request(prompt, max_tokens) for prompt in prompts)


Compose = Callable[[Material, int], Iterator[Batch]]

SIZED: dict[str, Compose] = {"batch": batch_of, "step": step_of, "samples": samples_of, "output": output_of}
"""Compositions whose name ends with their size."""

UNSIZED: dict[str, Compose] = {
    "shuffled": shuffled,
    "ragged": ragged,
    "chunked_prefill": chunked_prefill,
    "long_prompt": long_prompt,
    "seeded": seeded,
    "prefix_cache": prefix_cache,
    "prefill": prefill,
    "needle": needle,
    "workload": every_workload_prompt,
}


def composition(name: str) -> tuple[Compose, int]:
    """The function that makes the composition of that name, and its size (0 for one that has none).

    Raises:
        ValueError: There is no such composition.
    """
    sized = re.fullmatch(r"([a-z]+)_([1-9][0-9]*)", name)
    if sized and sized[1] in SIZED:
        return SIZED[sized[1]], int(sized[2])
    if name in UNSIZED:
        return UNSIZED[name], 0
    known = ", ".join([*(f"{kind}_<number>" for kind in SIZED), *UNSIZED])
    raise ValueError(f"verify.compositions has {name!r}, which does not exist: use one of {known}")


def compose(name: str, material: Material) -> Iterator[Batch]:
    """The batches of the composition of that name; none where the engine's limits make it impossible.

    Raises:
        ValueError: There is no such composition.
    """
    make, size = composition(name)
    material.restart(name)
    return make(material, size)
