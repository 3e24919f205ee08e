"""Batch compositions: what company a probe is put in, as batches of requests. Pure: no engine, no torch.

A composition is named in the configuration's `verify` group; a number at the end of the name is its size (`batch_8`,
`step_257`, `samples_2`, `output_512`). What the engine's limits make impossible is not made, and said by
`Material.lacks`, so that a name never stands for something else than it says. What a name promises about steps and
positions rests on all requests of a batch being queued before the first step, and on vLLM's scheduler taking them in
order, each whole while the step's tokens last (`vllm/v1/core/sched/scheduler.py`, first come first served).
"""

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from bi_experiments.phase.proof.material import LONGEST_PROBE, SHORT_OUTPUT, Material, named
from bi_experiments.phase.proof.requests import Batch, EngineLimits, Probed, Request
from bi_experiments.phase.proof.steps import CONTEXTS, StepClass, lower_end
from bi_experiments.records import TIMED, StepKind

REPEATS_ALONE = 2
"""How often `batch_1` runs each probe alone again: one repeat may come out as the reference did by chance."""
DECODING_CONTEXTS = (129, 512, 1024, 2048)
"""Prompt tokens of the probes in `arrivals`, each where it fits: known faults begin at 129 (vLLM 51902)."""
ARRIVING = (9, 10, 33, 300, 4096)
"""Prompt tokens that arrive while the probes of `arrivals` decode."""
STAIRCASE = 33
"""Most steps of a batch of `sizes`."""
FEWEST_DRAWN = 2
"""Prompts for every trial that `trial` compares however long that takes."""
NEEDED_SHARE = 0.01
"""A class of steps with this share of the workload's output tokens or more needs a probe (prefill: of its prompts)."""
LAST_CHUNK = 9
"""Most tokens of a prompt that `last_chunk` leaves to a step of their own: too few for the kernels of many rows."""
LONG_SPLIT = 2048
"""Most prompt tokens of the long probe of `chunked_prefill`: both pieces have more than the 512 tokens up to which
FLASH_ATTN_MLA computes a piece as it decodes (vLLM's v1/attention/backends/mla/flashattn_mla.py)."""
WITHOUT_NEIGHBOURS = ("batch_1", "prefill", "prefix_cache")
"""Compositions of one sequence."""
NOT_SPLIT = "chunked prefill is off: no prompt is split"
"""Why no prompt is computed in several steps."""


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


def greedy_short(material: Material) -> dict[Request, int]:
    """The same with short outputs."""
    return {replace(request, max_tokens=material.short): probe for request, probe in greedy(material).items()}


def batch_of(material: Material, size: int) -> Iterator[Batch]:
    """Batches of `size`: in each a probe first, in the middle and last, and every probe in three different places."""
    if size > material.limits.max_num_seqs:
        material.lacks(material.max_num_seqs)
        return
    probes = greedy(material)
    if size == 1:
        for _ in range(REPEATS_ALONE):
            yield from (numbered([request], probes) for request in probes)
        return
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


def drawn(material: Material, number: int) -> Iterator[Batch]:
    """Batches of `number` sizes drawn at random between 2 and the largest, all probes in random places."""
    probes = greedy(material)
    if material.limits.max_num_seqs < 2:
        material.lacks(material.max_num_seqs)
        return
    for _ in range(number):
        size = material.random.randint(2, material.limits.max_num_seqs)
        yield among_neighbours(material, list(probes)[:size], size, probes)


def among_neighbours(material: Material, requests: Sequence[Request], size: int, probes: dict[Request, int]) -> Batch:
    """The requests in random places of a batch of `size`, the others ordinary neighbours that ask for the same."""
    like = requests[0]
    others = [
        replace(material.neighbour(), max_tokens=like.max_tokens, logprobs=like.logprobs)
        for _ in range(size - len(requests))
    ]
    batch = [*requests, *others]
    material.random.shuffle(batch)
    return numbered(batch, probes)


def sizes(material: Material, _: int) -> Iterator[Batch]:
    """Every number of sequences that decode together, from the largest down to one: in each step one of them leaves.

    The last three to leave are probes, in the middle of the batch, at its end and at its beginning.
    """
    limits = material.limits
    steps = min(limits.max_num_seqs + 1, STAIRCASE, limits.max_model_len - 1)
    prompts = [material.tokens(min(length, limits.max_model_len - steps)) for length in (40, 20, 8)]
    top = limits.max_num_seqs
    if top < 2:
        material.lacks(material.max_num_seqs)
        return
    while top > 1:
        # Sequence k of the order of leaving decodes in steps 1 to k + 1; step 0 is the prefill.
        outputs = [min(2 + leaving, steps) for leaving in range(top)]
        probes = {
            Request(prompt, tokens): probe
            for probe, (prompt, tokens) in enumerate(zip(prompts, reversed(outputs), strict=False))
        }
        lengths = outputs[: top - len(probes)]
        batch: list[Request] = [
            Request(material.tokens(1 + material.random.randrange(min(8, limits.max_model_len - tokens))), tokens)
            for tokens in lengths
        ]
        for place, request in zip((len(batch) // 2, len(batch) + 1, 0), probes, strict=False):
            batch.insert(place, request)
        yield numbered(batch, probes)
        top -= steps - 1


def shuffled(material: Material, _: int) -> Iterator[Batch]:
    """All probes among as many neighbours, twice, each time in another random order of arrival."""
    probes = greedy(material)
    batch = [*probes, *(material.neighbour() for _ in probes)]
    for _ in range(2):
        material.random.shuffle(batch)
        yield numbered(batch, probes)


def ragged(material: Material, _: int) -> Iterator[Batch]:
    """All probes among neighbours of very different prompt and output lengths, which leave before the probes end."""
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
        material.lacks(material.step)
        return
    probes = greedy_short(material)
    groups = packed(whole(probes, limits), tokens - 1, limits.max_num_seqs - 1)
    made = [group + material.neighbours_of(tokens - prompt_tokens(group)) for group in groups]
    made = [batch for batch in made if len(batch) <= limits.max_num_seqs]
    material.lacks_probes(
        (each for batch in made for each in batch),
        probes,
        f"no room for it next to a neighbour in {tokens} tokens: {material.max_num_seqs}, {material.step}",
    )
    yield from (numbered(batch, probes) for batch in made)


def borders(material: Material, _: int) -> Iterator[Batch]:
    """First steps of as many tokens as the engine has borders, one fewer and one more; two output tokens."""
    limits = material.limits
    wanted = sorted({border + apart for border in limits.borders for apart in (-1, 0, 1)} - {0, 1})
    if not wanted:
        material.lacks("the engine has no graphs and reports no other border")
        return
    left_out = []
    for tokens in wanted:
        shorter = (each for each in material.prompts if len(each) < min(tokens, limits.longest_piece + 1))
        prompt = max(shorter, key=len, default=())
        others = [replace(each, max_tokens=2) for each in material.neighbours_of(tokens - len(prompt))]
        if prompt and tokens <= limits.max_num_batched_tokens and len(others) < limits.max_num_seqs:
            request = Request(prompt, max_tokens=2)
            yield numbered([*others, request], {request: material.prompts.index(prompt)})
        else:
            left_out.append(tokens)
    if left_out:
        material.lacks(
            f"no probe with neighbours makes them: {material.max_num_seqs}, {material.step}", named("step", left_out)
        )


def arrivals(material: Material, _: int) -> Iterator[Batch]:
    """Probes of long contexts that decode while another prompt is processed, of each length that fits.

    Neighbours that end with the first step fill it up, so that the arriving prompt starts with the second one.
    """
    limits = material.limits
    output = max(3, min(SHORT_OUTPUT, material.plan.max_tokens))
    probes = {
        Request(material.tokens(context), output): probe
        for probe, context in enumerate(DECODING_CONTEXTS)
        if context + output <= limits.max_model_len
    }
    if too_long := DECODING_CONTEXTS[len(probes) :]:
        material.lacks(material.length, named("context", too_long))
    if too_long := tuple(length for length in ARRIVING if length >= limits.max_model_len):
        material.lacks(material.length, named("arriving prompt", too_long))
    for length in (each for each in ARRIVING if each < limits.max_model_len):
        arriving = Request(material.tokens(length), max_tokens=1)
        made: list[Request] = []
        for group in packed(probes, limits.max_num_batched_tokens, limits.max_num_seqs - 1):
            fill = material.neighbours_of(limits.max_num_batched_tokens - prompt_tokens(group))
            batch = [*group, *(replace(each, max_tokens=1) for each in fill), arriving]
            if len(group) + len(fill) <= limits.max_num_seqs:
                made += group
                yield numbered(batch, probes)
        material.lacks_probes(made, probes, f"{material.max_num_seqs}, {material.step}, when {length} tokens arrive")


def preempted(material: Material, _: int) -> Iterator[Batch]:
    """Three sequences that soon need a second block each of a KV cache that has one block more than they began with."""
    limits = material.limits
    output = max(4, min(SHORT_OUTPUT, material.plan.max_tokens))
    length = limits.block_size - 2
    if not limits.blocks_can_be_held:
        material.lacks("it needs the engine in the phase's own process (VLLM_ENABLE_V1_MULTIPROCESSING=0)")
        return
    if not 1 <= length <= limits.max_model_len - output:
        material.lacks(f"block_size is {limits.block_size}, {material.length}")
        return
    if limits.max_num_seqs < 3 or 3 * length > limits.max_num_batched_tokens:
        material.lacks(f"{material.max_num_seqs}, {material.step}")
        return
    probes = {Request(material.tokens(length), output): probe for probe in range(3)}
    batch = numbered(probes, probes)
    yield replace(batch, kv_blocks=4)


def without_logprobs(material: Material, _: int) -> Iterator[Batch]:
    """The probes without asking for logprobs, alone too: their tokens, which asking for logprobs has changed before."""
    probes = {replace(request, logprobs=False): probe for request, probe in greedy_short(material).items()}
    yield from in_eights(material, probes)


def prompt_logprobs(material: Material, _: int) -> Iterator[Batch]:
    """The probes with the logprobs of their prompts."""
    probes = {replace(request, score_prompt=True): probe for request, probe in greedy_short(material).items()}
    yield from in_eights(material, probes)


def in_eights(material: Material, probes: dict[Request, int]) -> Iterator[Batch]:
    """The probes in random places of batches of eight, or of the largest batch where that is smaller."""
    size = min(8, material.limits.max_num_seqs)
    if size < 2:
        material.lacks(material.max_num_seqs)
        return
    requests = list(probes)
    group = max(1, size // 2)
    for start in range(0, len(requests), group):
        yield among_neighbours(material, requests[start : start + group], size, probes)


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


def whole(requests: Iterable[Request], limits: EngineLimits) -> list[Request]:
    """Those whose prompts a step takes whole beside other requests."""
    return [request for request in requests if len(request.prompt) <= limits.longest_piece]


def prompt_tokens(requests: Iterable[Request]) -> int:
    """Prompt tokens of all requests together."""
    return sum(len(request.prompt) for request in requests)


def chunked_prefill(material: Material, _: int) -> Iterator[Batch]:
    """The longest probe, and a longer one, behind neighbours that leave room for half the prompt in the first step."""
    if not material.limits.chunked_prefill:
        material.lacks(NOT_SPLIT)
        return
    step = material.limits.max_num_batched_tokens
    long = material.tokens(min(LONG_SPLIT, material.longest_prompt))
    last = len(material.prompts) - 1
    for probe, prompt in enumerate((material.prompts[last], long), start=last):
        if probe > last and len(prompt) <= len(material.prompts[last]):
            return
        request = Request(prompt, material.short)
        room = min(len(prompt) // 2, material.limits.longest_piece - 1)
        batch = [*material.neighbours_of(step - room), request]
        if room and len(batch) <= material.limits.max_num_seqs:
            yield numbered(batch, {request: probe})
        else:
            what = None if probe == last else named("probe", [len(prompt)])
            material.lacks(f"{material.max_num_seqs}, too few for {step - room} tokens in a step", what)


def last_chunk(material: Material, _: int) -> Iterator[Batch]:
    """A prompt of the workload from each class of prefill that it needs, its last tokens in a step of their own.

    Whole prompts may be so many rows that the same kernels compute them alone and in any step.
    """
    if not material.limits.chunked_prefill:
        material.lacks(NOT_SPLIT)
        return
    step = material.limits.max_num_batched_tokens
    missing = {each.context for each in needed_classes(workload_steps(material)) if each.kind is StepKind.PREFILL}
    prompts = dict.fromkeys(prompt for each in material.workload.trials for prompt in each.prompts)
    for number, prompt in enumerate(prompts):
        request = Request(prompt, min(material.short, material.workload.sampling.max_tokens))
        length = material.prompt_length(request)
        context = lower_end(length, CONTEXTS)
        room = length - min(LAST_CHUNK, length // 2)
        if context not in missing or not 0 < room < min(length, material.limits.longest_piece):
            continue
        fill = [replace(each, max_tokens=1) for each in material.neighbours_of(step - room)]
        if len(fill) < material.limits.max_num_seqs:
            missing.remove(context)
            yield Batch((*fill, request), (Probed(number, len(fill), request),))
    if missing:
        why = f"{material.max_num_seqs}, {material.step}"
        material.lacks(why, f"the prompts from {min(missing)} tokens on")


def long_prompt(material: Material, _: int) -> Iterator[Batch]:
    """A prompt of one and a half steps, behind and before neighbours that move the places where it is split."""
    step = material.limits.max_num_batched_tokens
    if material.longest_prompt <= step:
        material.lacks(f"{material.length}, and {material.step}: every prompt fits one step")
        return
    if material.limits.max_num_seqs < 3:
        material.lacks(material.max_num_seqs)
        return
    request = Request(material.tokens(min(material.longest_prompt, step + step // 2)), material.short)
    neighbours = [material.neighbour() for _ in range(2)]
    for batch in ([*neighbours, request], [request, *neighbours]):
        yield numbered(batch, {request: 0})


def seeded(material: Material, _: int) -> Iterator[Batch]:
    """The probes by seeded sampling: all before one greedy neighbour, then with such a neighbour behind each.

    No prompt is split: for that vLLM takes back random numbers, which torch's generator for the CPU cannot do.
    """
    probes = {material.seeded(probe): probe for probe in range(len(material.prompts))}
    limits = material.limits
    fitting = whole(probes, limits)
    before_one = packed(fitting, limits.max_num_batched_tokens - 1, limits.max_num_seqs - 1)
    with_one_each = packed(fitting, limits.max_num_batched_tokens - len(probes), limits.max_num_seqs // 2)
    for groups, where in ((before_one, "one neighbour"), (with_one_each, "a neighbour each")):
        made = (request for group in groups for request in group)
        material.lacks_probes(made, probes, f"no room next to {where}: {material.max_num_seqs}, {material.step}")
    for group in before_one:
        yield numbered([*group, material.short_neighbour()], probes)
    for group in with_one_each:
        yield numbered([each for request in group for each in (request, material.short_neighbour())], probes)


def samples_of(material: Material, samples: int) -> Iterator[Batch]:
    """The probes with several seeded samples each, before one greedy neighbour; no prompt is split.

    The reference is the same request alone, with all its samples.
    """
    probes = {material.seeded(probe, samples): probe for probe in range(len(material.prompts))}
    limits = material.limits
    groups = packed(whole(probes, limits), (limits.max_num_batched_tokens - 1) // samples, limits.max_num_seqs - 1)
    made = (request for group in groups for request in group)
    material.lacks_probes(
        made, probes, f"no room for {samples} samples and a neighbour: {material.max_num_seqs}, {material.step}"
    )
    for group in groups:
        yield numbered([*group, material.short_neighbour()], probes)


def output_of(material: Material, tokens: int) -> Iterator[Batch]:
    """Every second probe with an output of `tokens` tokens, among ordinary neighbours."""
    wanted = {Request(prompt, tokens): probe for probe, prompt in enumerate(material.prompts) if probe % 2 == 0}
    probes = {
        request: probe
        for request, probe in wanted.items()
        if len(request.prompt) + tokens <= material.limits.max_model_len
    }
    material.lacks_probes(probes, wanted, material.length)
    if probes:
        yield numbered([each for request in probes for each in (request, material.neighbour())], probes)


def prefix_cache(material: Material, _: int) -> Iterator[Batch]:
    """Every probe longer than a block alone, with its prompt already in the prefix cache; the reference is cold."""
    if not material.limits.prefix_caching:
        material.lacks("prefix caching is off")
        return
    probes = greedy(material)
    longer = [request for request in probes if len(request.prompt) > material.limits.block_size]
    material.lacks_probes(
        longer, probes, f"block_size is {material.limits.block_size}: only whole blocks are found again"
    )
    yield from (Batch((request,), (Probed(probes[request], 0, request),), primed=True) for request in longer)


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
        else:
            material.lacks_probes((), (request,), f"{material.length}, its output as prompt included")


def needle(material: Material, _: int) -> Iterator[Batch]:
    """The needle at its position in the largest batch of the trials."""
    trial = max(material.workload.trials, key=lambda trial: trial.batch_size)
    # No more output than the trials have: so much fits the model.
    max_tokens = min(material.plan.max_tokens, material.workload.sampling.max_tokens)
    requests = tuple(Request(prompt, max_tokens) for prompt in trial.prompts)
    yield Batch(requests, (Probed(0, trial.needle_position, requests[trial.needle_position]),))


def trial(material: Material, _: int) -> Iterator[Batch]:
    """Prompts of every trial in that trial's batch, with the trial's output, greedily.

    Of all prompts of all trials `plan.trial_prompts` for each trial are drawn, each prompt as likely as any other: of
    these alone the bound speaks. Needed are the first `FEWEST_DRAWN` for each trial, and so many of the others, drawn
    or not, that every trial has as many and every class of steps that the workload needs has an output token of a
    compared prompt.
    """
    trials = workload_requests(material)
    order = draws(material, [len(requests) for requests in trials], material.plan.trial_prompts * len(trials))
    places = {where: place for place, where in enumerate(order)}
    needed = set(order[: FEWEST_DRAWN * len(trials)])
    others = [(number, at) for number, requests in enumerate(trials) for at in range(len(requests))]
    for number in range(len(trials)):
        own = [where for where in (*order, *others) if where[0] == number]
        kept = sum(where[0] == number for where in needed)
        needed |= set([where for where in dict.fromkeys(own) if where not in needed][: max(0, FEWEST_DRAWN - kept)])
    classes = [[set(steps) for steps in material.step_classes(requests)] for requests in trials]
    missing = needed_classes(workload_steps(material)).difference(*(classes[number][at] for number, at in needed))
    for number, at in (*order, *others):
        if missing & classes[number][at]:
            missing -= classes[number][at]
            needed.add((number, at))
    yield from of_workload(trials, places, needed, {*order, *needed})


def draws(material: Material, sizes: Sequence[int], number: int) -> list[tuple[int, int]]:
    """That many places in batches of these sizes, each as likely as any other: the batch and the position in it."""
    places = [(batch, at) for batch, size in enumerate(sizes) for at in range(size)]
    return material.random.sample(places, min(number, len(places)))


def of_workload(
    trials: Sequence[tuple[Request, ...]],
    places: Mapping[tuple[int, int], int],
    needed: Container[tuple[int, int]],
    compared: Container[tuple[int, int]],
) -> Iterator[Batch]:
    """A batch for each trial, its probes those of its prompts that are compared.

    Args:
        trials: All requests of each.
        places: Of those that were drawn, by trial and position: the place in the order of drawing.
        needed: Those that are compared however long it takes.
        compared: Those that are compared at all.
    """
    first = 0
    for number, requests in enumerate(trials):
        probed = (
            Probed(first + at, at, request, draw=places.get((number, at)), needed=(number, at) in needed)
            for at, request in enumerate(requests)
            if (number, at) in compared
        )
        yield Batch(requests, tuple(probed))
        first += len(requests)


def workload_steps(material: Material) -> Iterator[StepClass]:
    """The classes of the steps that all output tokens of the timed trials come from."""
    max_tokens = material.workload.sampling.max_tokens
    for each in material.workload.trials:
        for steps in material.step_classes(Request(prompt, max_tokens) for prompt in each.prompts):
            yield from steps


def needed_classes(steps: Iterable[StepClass]) -> set[StepClass]:
    """The classes that hold at least `NEEDED_SHARE` of these steps (prefill: of those that end a prompt)."""
    counts = Counter(steps)
    prompts = sum(number for step, number in counts.items() if step.kind is StepKind.PREFILL)
    return {
        step
        for step, number in counts.items()
        if number >= NEEDED_SHARE * (prompts if step.kind is StepKind.PREFILL else counts.total())
    }


def every_workload_prompt(material: Material, _: int) -> Iterator[Batch]:
    """Every prompt of every trial in that trial's batch, with the trial's output, greedily."""
    trials = workload_requests(material)
    sizes = [len(requests) for requests in trials]
    places = {where: place for place, where in enumerate(draws(material, sizes, sum(sizes)))}
    yield from of_workload(trials, places, places, places)


def workload_requests(material: Material) -> list[tuple[Request, ...]]:
    """The requests of every trial, continued greedily."""
    workload = material.workload
    return [tuple(Request(prompt, workload.sampling.max_tokens) for prompt in each.prompts) for each in workload.trials]


Compose = Callable[[Material, int], Iterator[Batch]]

SIZED: dict[str, Compose] = {
    "batch": batch_of,
    "drawn": drawn,
    "step": step_of,
    "samples": samples_of,
    "output": output_of,
}
"""Compositions whose name ends with their size."""

UNSIZED: dict[str, Compose] = {
    "shuffled": shuffled,
    "ragged": ragged,
    "sizes": sizes,
    "arrivals": arrivals,
    "borders": borders,
    "preempted": preempted,
    "without_logprobs": without_logprobs,
    "prompt_logprobs": prompt_logprobs,
    "chunked_prefill": chunked_prefill,
    "last_chunk": last_chunk,
    "long_prompt": long_prompt,
    "seeded": seeded,
    "prefix_cache": prefix_cache,
    "prefill": prefill,
    "needle": needle,
    "trial": trial,
    "workload": every_workload_prompt,
}


BATCHES_OF_THE_WORKLOAD = ("trial", "workload")
"""Compositions whose batches are the workload's own, one for each trial."""
OWN_PROMPTS = ("needle", "trial", "workload", TIMED, "sizes", "arrivals", "preempted", "last_chunk", "long_prompt")
"""Compositions whose probes are not the plan's."""


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
    if material.limits.max_num_seqs < 2 and name not in WITHOUT_NEIGHBOURS:
        material.lacks(material.max_num_seqs)
        return iter(())
    return make(material, size)
