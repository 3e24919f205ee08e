"""The smallest batch in which a probe still changes. Pure: no engine, no torch."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

from bi_experiments.phase.proof.requests import Request

T = TypeVar("T")

TRIED_ALONE = 16
"""Neighbours that are tried one by one, those with the longest prompts first."""

Differs = Callable[[Sequence[Request], int], bool]
"""Whether the request at that index of a batch changes."""


class Shrinker:
    """A search for the smallest batch in which a probe still changes, until a deadline.

    Every batch that it answers with was seen to change the probe. Answers are remembered: no batch runs twice.

    Attributes:
        requests: The smallest batch so far.
        position: Index of the probe in it.
        tried: Batches that ran.
        whole: Whether no step of the search was left out for want of time.

    Args:
        requests: A batch in which the probe changes.
        position: Index of the probe.
        differs: Runs a batch.
        deadline: `time.monotonic()` from which on no further batch is run.
        max_model_len: Most tokens of a request, prompt and output.
    """

    def __init__(
        self, requests: Sequence[Request], position: int, differs: Differs, deadline: float, max_model_len: int
    ) -> None:
        self.requests = tuple(requests)
        self.position = position
        self._differs = differs
        self._answers: dict[tuple[tuple[Request, ...], int], bool] = {(self.requests, position): True}
        self._deadline = deadline
        self._max_model_len = max_model_len
        self.tried = 0
        self.whole = True

    def shrink(self) -> None:
        """Fewest neighbours, then the shortest prompts and outputs of those that are left."""
        self._fewer_neighbours()
        self._shorter("prompt")
        self._shorter("max_tokens")

    def border(self) -> tuple[int | None, tuple[int, ...], tuple[int, ...]]:
        """The only neighbour's prompt tokens, and which larger numbers change the probe, and which do not.

        Larger numbers that the model cannot take are not tried. None instead of the number where there are more
        neighbours, where a neighbour of one token is enough, or where one token less was not seen to change nothing.
        """
        if len(self.requests) != 2:
            return None, (), ()
        length = len(self.requests[1 - self.position].prompt)
        if length == 1 or self._differs_at(length - 1) is not False:
            return None, (), ()
        differing: list[int] = []
        equal: list[int] = []
        for larger in sorted({length + 1, length + 2, length + 7, 2 * length}):
            outcome = self._differs_at(larger)
            if outcome is not None:
                (differing if outcome else equal).append(larger)
        return length, tuple(differing), tuple(equal)

    def _differs_at(self, length: int) -> bool | None:
        """Whether the probe changes with so many prompt tokens of its only neighbour; None: it was not tried."""
        at = 1 - self.position
        neighbour = self.requests[at]
        if length + neighbour.max_tokens > self._max_model_len:
            return None
        repeated = neighbour.prompt * math.ceil(length / len(neighbour.prompt))
        changed = replace(neighbour, prompt=repeated[:length])
        return self._ask([*self.requests[:at], changed, *self.requests[at + 1 :]])

    def _ask(self, requests: Sequence[Request], position: int | None = None) -> bool | None:
        """Whether the probe changes in a batch; None when the time is over."""
        key = (tuple(requests), self.position if position is None else position)
        if key not in self._answers:
            if time.monotonic() > self._deadline:
                self.whole = False
                return None
            self.tried += 1
            self._answers[key] = self._differs(*key)
        return self._answers[key]

    def _take(self, requests: Sequence[Request], position: int | None = None) -> bool:
        """Keep a smaller batch if the probe changes in it too."""
        if not self._ask(requests, position):
            return False
        self.requests = tuple(requests)
        self.position = self.position if position is None else position
        return True

    def _fewer_neighbours(self) -> None:
        """One neighbour if one is enough; else delta debugging, after which no single one can be spared.

        Zeller and Hildebrandt 2002, "Simplifying and isolating failure-inducing input" (ddmin).
        """
        neighbours = [index for index in range(len(self.requests)) if index != self.position]
        start, probe = self.requests, self.position

        def take(chosen: Sequence[int]) -> bool:
            kept = sorted([*chosen, probe])
            return self._take([start[index] for index in kept], kept.index(probe))

        longest_first = sorted(neighbours, key=lambda index: len(start[index].prompt), reverse=True)
        alone = next((index for index in longest_first[:TRIED_ALONE] if len(neighbours) > 1 and take([index])), None)
        if alone is not None:
            return
        parts = 2
        while len(neighbours) > 1:
            pieces = split(neighbours, parts)
            rests = [[one for one in neighbours if one not in piece] for piece in pieces]
            smaller = next((each for each in pieces if take(each)), None)
            if smaller is not None:
                neighbours, parts = smaller, 2
                continue
            smaller = next((rest for rest in rests if parts > 2 and take(rest)), None)
            if smaller is not None:
                neighbours, parts = smaller, max(parts - 1, 2)
            elif parts >= len(neighbours):
                break
            else:
                parts = min(2 * parts, len(neighbours))

    def _shorter(self, field: str) -> None:
        """Shorten the prompts, or the outputs, of all neighbours together, then of one after the other."""
        neighbours = [index for index in range(len(self.requests)) if index != self.position]
        if not neighbours:
            return
        longest = max(size(self.requests[index], field) for index in neighbours)
        self._bisect(neighbours, field, longest)
        for index in neighbours if len(neighbours) > 1 else ():
            self._bisect([index], field, size(self.requests[index], field))

    def _bisect(self, indices: Sequence[int], field: str, longest: int) -> None:
        """The smallest limit for some neighbours with which the probe still changes; `longest` is known to do.

        Where larger is not always enough, the limit found is one at which it changes and one less does not.
        """
        start = self.requests
        low, high = 0, longest
        while high - low > 1:
            middle = max(1, (low + high) // 2)
            limited = [cut(one, field, middle) if at in indices else one for at, one in enumerate(start)]
            if self._take(limited):
                high = middle
            else:
                low = middle


def size(request: Request, field: str) -> int:
    """Prompt tokens or output tokens of a request."""
    return len(request.prompt) if field == "prompt" else request.max_tokens


def cut(request: Request, field: str, limit: int) -> Request:
    """The request with no more prompt or output tokens than that."""
    if field == "prompt":
        return replace(request, prompt=request.prompt[:limit])
    return replace(request, max_tokens=min(request.max_tokens, limit))


def split(items: Sequence[T], parts: int) -> list[list[T]]:
    """The items in order, in so many pieces of nearly the same size."""
    bounds = [part * len(items) // parts for part in range(parts + 1)]
    return [list(items[start:end]) for start, end in pairwise(bounds) if end > start]
