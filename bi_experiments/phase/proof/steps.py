"""Which steps output tokens come from, by vLLM's first-come-first-served rule. Pure: no engine, no torch.

All requests are queued before the first step. A step first takes the running sequences in their order, then starts
waiting ones while its tokens and seats last; a prompt that does not fit is split (`vllm/v1/core/sched/scheduler.py`).
Preemption is not followed: these are the steps of a KV cache that is large enough.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bi_experiments.phase.proof.requests import Limits
from bi_experiments.records import StepCount, StepKind

CONTEXTS = (1, 129, 513, 1025, 2049, 4097, 8193, 16385, 32769)
"""Lower ends of the classes of context lengths, in tokens: attention splits its keys by them, most often at powers of
two."""
SEQUENCES = (1, 2, 9, 33, 65, 129, 257, 513)
"""Lower ends of the classes of sequences that decode together: matrix multiplications choose kernels by them."""


@dataclass(frozen=True)
class StepClass:
    """A kind of step. The fields are those of `StepCount`."""

    kind: StepKind
    context: int
    sequences: int
    padded: bool


def lower_end(value: int, ends: Sequence[int]) -> int:
    """The class that a value falls into, by its lower end."""
    return max(end for end in ends if end <= max(value, ends[0]))


def upper_end(end: int, ends: Sequence[int]) -> int | None:
    """Where the class with that lower end stops, not included; None: there is no end."""
    return next((other for other in ends if other > end), None)


def schedule(sequences: Sequence[tuple[int, int]], limits: Limits) -> list[list[StepClass]]:
    """The class of the step that each output token of each sequence comes from.

    Args:
        sequences: Prompt tokens and output tokens of each, in the order of arrival.
        limits: The engine's.
    """
    computed, made = [0] * len(sequences), [0] * len(sequences)
    classes: list[list[StepClass]] = [[] for _ in sequences]
    waiting, running = list(range(len(sequences)))[::-1], list[int]()
    while waiting or running:
        left = limits.max_num_batched_tokens
        scheduled: dict[int, int] = {}
        for index in running:
            if left:
                scheduled[index] = min(sequences[index][0] + made[index] - computed[index], left)
                left -= scheduled[index]
        while waiting and left and len(running) < limits.max_num_seqs:
            index = waiting.pop()
            running.append(index)
            scheduled[index] = min(sequences[index][0], left)
            left -= scheduled[index]
        decoding = sum(made[index] > 0 for index in scheduled)
        step_tokens = limits.max_num_batched_tokens - left
        padded = step_tokens not in limits.graph_sizes and step_tokens < max(limits.graph_sizes, default=0)
        for index, tokens in scheduled.items():
            computed[index] += tokens
            prompt, _ = sequences[index]
            if computed[index] == prompt + made[index]:
                classes[index].append(_classify(made[index], computed[index], decoding, len(scheduled), padded))
                made[index] += 1
        running = [index for index in running if made[index] < sequences[index][1]]
    return classes


def _classify(made: int, context: int, decoding: int, scheduled: int, padded: bool) -> StepClass:
    if made == 0:
        return StepClass(StepKind.PREFILL, lower_end(context, CONTEXTS), 0, padded)
    kind = StepKind.DECODE if decoding == scheduled else StepKind.BESIDE_PREFILL
    return StepClass(kind, lower_end(context, CONTEXTS), lower_end(decoding, SEQUENCES), padded)


def counted(composition: str | None, classes: Iterable[StepClass]) -> tuple[StepCount, ...]:
    """Output tokens by class, the most frequent first."""
    return tuple(
        StepCount(
            composition=composition,
            kind=each.kind,
            context=each.context,
            sequences=each.sequences,
            padded=each.padded,
            tokens=tokens,
        )
        for each, tokens in Counter(classes).most_common()
    )
