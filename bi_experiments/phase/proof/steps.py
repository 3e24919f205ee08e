"""Which steps output tokens come from, by vLLM's first-come-first-served rule. Pure: no engine, no torch.

All requests are queued before the first step. A step first takes the running sequences in their order, then starts
waiting ones while its tokens last, `max_num_seqs` at most; a prompt that does not fit is split, or with chunked prefill
off waits as do those behind it (`vllm/v1/core/sched/scheduler.py`).
Preemption is not followed: these are the steps of a KV cache that is large enough.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bi_experiments.phase.proof.requests import EngineLimits
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
    split: bool = False


def lower_end(value: int, ends: Sequence[int]) -> int:
    """The class that a value falls into, by its lower end."""
    return max(end for end in ends if end <= max(value, ends[0]))


def upper_end(end: int, ends: Sequence[int]) -> int | None:
    """Where the class with that lower end stops, not included; None: there is no end."""
    return next((other for other in ends if other > end), None)


def schedule(sequences: Sequence[tuple[int, int]], limits: EngineLimits) -> list[list[StepClass]]:
    """The class of the step that each output token of each sequence comes from.

    Args:
        sequences: Prompt tokens and output tokens of each, in the order of arrival.
        limits: The engine's.
    """
    classes: list[list[StepClass]] = [[] for _ in sequences]
    for step in _steps(sequences, limits):
        for index, each in step:
            classes[index].append(each)
    return classes


class StepTokens(NamedTuple):
    """Output tokens of one step, as an engine counts them."""

    first: int
    """First tokens of their sequences."""
    further: int


def share_by_rule(
    sequences: Sequence[tuple[int, int]], limits: EngineLimits, counted_steps: Iterable[StepTokens]
) -> float:
    """Share of output tokens whose steps an engine counted as the rule says, from 0 to 1.

    Steps are compared by the class of sequences that decode together, and whether another one's prompt ends in them.

    Args:
        sequences: As for `schedule`.
        limits: The engine's.
        counted_steps: What the engine counted, step by step.
    """
    by_rule = [
        StepTokens(first=sum(kinds), further=len(kinds) - sum(kinds))
        for kinds in ([each.kind is StepKind.PREFILL for _, each in step] for step in _steps(sequences, limits))
    ]
    one, other = _token_classes(by_rule), _token_classes(counted_steps)
    total = max(one.total(), other.total())
    return (one & other).total() / total if total else 1.0


def _token_classes(steps: Iterable[StepTokens]) -> Counter[tuple[StepKind, int]]:
    classes: Counter[tuple[StepKind, int]] = Counter()
    for step in steps:
        kind = StepKind.BESIDE_PREFILL if step.first else StepKind.DECODE
        classes[StepKind.PREFILL, 0] += step.first
        classes[kind, lower_end(step.further, SEQUENCES)] += step.further
    return classes


def _steps(sequences: Sequence[tuple[int, int]], limits: EngineLimits) -> Iterator[list[tuple[int, StepClass]]]:
    """The sequences that get an output token in each step, and the class of the step for each."""
    computed, made = [0] * len(sequences), [0] * len(sequences)
    waiting, running = list(range(len(sequences)))[::-1], list[int]()
    while waiting or running:
        left = limits.max_num_batched_tokens
        piece = limits.longest_piece if len(running) + len(waiting) > 1 else left
        scheduled: dict[int, int] = {}
        for index in running:
            if left:
                scheduled[index] = min(sequences[index][0] + made[index] - computed[index], piece, left)
                left -= scheduled[index]
        while waiting and left and len(running) < limits.max_num_seqs:
            tokens = min(sequences[waiting[-1]][0], piece)
            if tokens > left and not limits.chunked_prefill:
                break
            index = waiting.pop()
            running.append(index)
            scheduled[index] = min(tokens, left)
            left -= scheduled[index]
        decoding = sum(made[index] > 0 for index in scheduled)
        step_tokens = limits.max_num_batched_tokens - left
        padded = step_tokens not in limits.graph_sizes and step_tokens < max(limits.graph_sizes, default=0)
        step = []
        for index, tokens in scheduled.items():
            computed[index] += tokens
            prompt, _ = sequences[index]
            if computed[index] == prompt + made[index]:
                if made[index] == 0:
                    found = StepClass(StepKind.PREFILL, lower_end(prompt, CONTEXTS), 0, padded, split=tokens < prompt)
                else:
                    found = _decode(computed[index], decoding, len(scheduled), padded)
                step.append((index, found))
                made[index] += 1
        yield step
        running = [index for index in running if made[index] < sequences[index][1]]


def _decode(context: int, decoding: int, scheduled: int, padded: bool) -> StepClass:
    kind = StepKind.DECODE if decoding == scheduled else StepKind.BESIDE_PREFILL
    return StepClass(kind, lower_end(context, CONTEXTS), lower_end(decoding, SEQUENCES), padded)


def counted(
    composition: str | None,
    classes: Iterable[StepClass],
    comparable: Iterable[StepClass] | None = None,
    changed: Iterable[StepClass] | None = None,
) -> tuple[StepCount, ...]:
    """Output tokens by class, the most frequent first.

    Args:
        composition: Whose; None: the workload's.
        classes: One for each output token.
        comparable: One for each of them that can be compared; None: nothing was.
        changed: One for each of these that changed with the batch; None: nothing was compared.
    """
    comparisons = None if comparable is None else Counter(comparable)
    changes = None if changed is None else Counter(changed)
    return tuple(
        StepCount(
            composition=composition,
            kind=each.kind,
            context=each.context,
            sequences=each.sequences,
            padded=each.padded,
            split=each.split,
            tokens=tokens,
            comparable=None if comparisons is None else comparisons[each],
            changed=None if changes is None else changes[each],
        )
        for each, tokens in Counter(classes).most_common()
    )
