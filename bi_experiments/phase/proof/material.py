"""What the batch compositions are made of: the probes, a source of neighbours, the engine's limits. Pure."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from bi_experiments.phase.proof.requests import EngineLimits, Output, Request
from bi_experiments.phase.proof.steps import StepClass, schedule
from bi_experiments.records import NotMade, ProbePlan, Workload

LONGEST_PROBE = 300
"""Prompt tokens of the longest probe, where the model takes as many."""
LONGEST_NEIGHBOUR = 16
"""Prompt tokens of the longest ordinary neighbour: neighbours are many, and only their presence matters."""
TEMPERATURE = 0.6
SEEDS_APART = 1000
"""Distance of the probes' sampling seeds; vLLM counts up from a request's seed for its further samples."""
SHORT_OUTPUT = 16
"""Most output tokens of a probe where only its first steps are out of the ordinary."""
NEEDLE = "needle"
"""The level whose only probe in a batch is the needle."""
FULL = "full"
"""The level whose probes all have their whole output."""


class Material:
    """What the compositions are made of: the probes, a source of neighbours, the limits.

    Args:
        plan: Counts and the seed.
        workload: Trials, for the compositions `needle` and `workload`.
        limits: The engine's.
        token_ids: Ids that prompts are drawn from: the vocabulary without special and added tokens.
        prompts: The probes', as token ids.
        alone: Gives the output of a request in a batch of one.
        text_tokens: Gives the number of tokens of a text.
    """

    def __init__(
        self,
        plan: ProbePlan,
        workload: Workload,
        limits: EngineLimits,
        token_ids: tuple[int, ...],
        prompts: tuple[tuple[int, ...], ...],
        alone: Callable[[Request], Output],
        text_tokens: Callable[[str], int],
    ) -> None:
        self.plan = plan
        self.workload = workload
        self.limits = limits
        self.prompts = prompts
        self.alone = alone
        self.random = random.Random(plan.seed)
        self.not_made: list[NotMade] = []
        self._composition = ""
        self._token_ids = token_ids
        self._text_tokens = text_tokens

    @classmethod
    def drawn(
        cls,
        plan: ProbePlan,
        workload: Workload,
        limits: EngineLimits,
        token_ids: tuple[int, ...],
        alone: Callable[[Request], Output],
        text_tokens: Callable[[str], int] = len,
    ) -> Self:
        """With the probes' prompts drawn by the plan's seed; the arguments are those of the class.

        Raises:
            ValueError: `plan.max_tokens` leaves no room for a prompt.
        """
        longest = limits.max_model_len - plan.max_tokens
        if longest < 1:
            raise ValueError(
                f"verify.max_tokens={plan.max_tokens} leaves no room for a prompt in "
                f"model.max_model_len={limits.max_model_len}: set verify.max_tokens={limits.max_model_len // 2}"
            )
        rng = random.Random(plan.seed)
        lengths = probe_lengths(plan.probes, min(LONGEST_PROBE, longest))
        prompts = tuple(tuple(rng.choices(token_ids, k=length)) for length in lengths)
        return cls(plan, workload, limits, token_ids, prompts, alone, text_tokens)

    @property
    def longest_prompt(self) -> int:
        """Most prompt tokens that leave room for a probe's output."""
        return self.limits.max_model_len - self.plan.max_tokens

    def restart(self, composition: str) -> None:
        """Give each composition a random sequence of its own, whichever others ran before it."""
        self.random = random.Random(f"{self.plan.seed} {composition}")
        self.not_made = []
        self._composition = composition

    def lacks(self, why: str, what: str | None = None) -> None:
        """Note what the present composition does not have, and why; without `what` it has no batch at all."""
        self.not_made.append(NotMade(composition=self._composition, what=what, why=why))

    def lacks_probes(self, made: Iterable[Request], wanted: Iterable[Request], why: str) -> None:
        """Note the probes that are wanted and not in what was made."""
        kept = set(made)
        lengths = sorted(len(request.prompt) for request in wanted if request not in kept)
        if lengths:
            self.lacks(why, named("probe", lengths))

    @property
    def max_num_seqs(self) -> str:
        """Why no larger batch is made."""
        return f"max_num_seqs is {self.limits.max_num_seqs}"

    @property
    def step(self) -> str:
        """Why no larger step is made, and no longer prompt is in one."""
        piece = self.limits.long_prefill_tokens
        threshold = f", long_prefill_token_threshold is {piece}" if piece else ""
        return f"max_num_batched_tokens is {self.limits.max_num_batched_tokens}{threshold}"

    @property
    def length(self) -> str:
        """Why no longer sequence is made."""
        return f"max_model_len is {self.limits.max_model_len}"

    def prompt_length(self, request: Request) -> int:
        """Prompt tokens of a request."""
        prompt = request.prompt
        return self._text_tokens(prompt) if isinstance(prompt, str) else len(prompt)

    def step_classes(self, requests: Iterable[Request]) -> list[list[StepClass]]:
        """For each request the classes of the steps that its output tokens come from, of all its samples."""
        sequences = [
            (index, (self.prompt_length(request), request.max_tokens))
            for index, request in enumerate(requests)
            for _ in range(request.samples)
        ]
        classes: dict[int, list[StepClass]] = {}
        for (index, _), steps in zip(sequences, schedule([each for _, each in sequences], self.limits), strict=True):
            classes.setdefault(index, []).extend(steps)
        return list(classes.values())

    def tokens(self, length: int) -> tuple[int, ...]:
        """A random prompt of that many tokens."""
        return tuple(self.random.choices(self._token_ids, k=length))

    @property
    def short(self) -> int:
        """Output tokens of a probe where only its first steps are out of the ordinary; in level `full` as elsewhere."""
        return self.plan.max_tokens if self.plan.level == FULL else min(SHORT_OUTPUT, self.plan.max_tokens)

    def request(self, prompt: tuple[int, ...]) -> Request:
        """The prompt continued greedily."""
        return Request(prompt=prompt, max_tokens=self.plan.max_tokens)

    def seeded(self, probe: int, samples: int = 1) -> Request:
        """The probe continued by seeded sampling."""
        seed = self.plan.seed + SEEDS_APART * probe
        return Request(self.prompts[probe], self.short, temperature=TEMPERATURE, seed=seed, samples=samples)

    def neighbour(self) -> Request:
        """A random prompt of ordinary length, continued greedily."""
        return self.request(self.tokens(self.random.randint(1, min(LONGEST_NEIGHBOUR, self.longest_prompt))))

    def short_neighbour(self) -> Request:
        """A prompt of one token, continued greedily, with a short output."""
        return Request(self.tokens(1), self.short)

    def neighbours_of(self, tokens: int) -> list[Request]:
        """As few neighbours as make up exactly this many prompt tokens, with short outputs."""
        longest = min(self.longest_prompt, self.limits.longest_piece)
        whole, rest = divmod(tokens, longest)
        lengths = [longest] * whole + ([rest] if rest else [])
        return [Request(self.tokens(length), self.short) for length in lengths]


def probe_lengths(count: int, longest: int) -> list[int]:
    """Prompt lengths in tokens, from one to `longest`, each the same factor above the one before it."""
    if count == 1:
        return [longest]
    return [round(longest ** (index / (count - 1))) for index in range(count)]


def named(noun: str, tokens: Sequence[int]) -> str:
    """Things by their tokens: `the probe of 300 tokens`, `contexts of 1024 and 2048 tokens`."""
    if len(tokens) == 1:
        return f"the {noun} of {tokens[0]} tokens"
    first = [str(each) for each in tokens[:-1]]
    return f"{noun}s of {', '.join(first if len(first) < 5 else [*first[:2], '...'])} and {tokens[-1]} tokens"
