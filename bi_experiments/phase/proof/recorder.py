"""What the modules of a model compute for the rows of one request, kept and compared by forward hooks.

In a worker's process. What it must know of vLLM (which rows of a step are the request's, what kind of operator a
module is) it asks of a `WorkerModel`.
"""

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

Key = tuple[str, int]
"""A module's path, and which of its calls within a step it is."""


@dataclass(frozen=True)
class Step:
    """The request's part of one step of the engine.

    Attributes:
        number: Among the steps that the request takes part in, from 0.
        index: Of the request among those of the step.
        requests: Requests of the step.
        tokens: Rows of the step, one a token.
        rows: The request's rows.
        positions: Their positions in the sequence.
    """

    number: int
    index: int
    requests: int
    tokens: int
    rows: slice
    positions: tuple[int, ...]


class WorkerModel(Protocol):
    """A worker's model, and what its steps consist of."""

    def module(self) -> "nn.Module":
        """The model itself."""
        ...

    def watch_steps(self) -> None:
        """Find the rows of the steps that begin from now on."""
        ...

    def unwatch_steps(self) -> None:
        """Leave the worker as it was."""
        ...

    def rows(self, request: re.Pattern[str], number: int) -> Step | None:
        """The part of the request of that name in the step that has begun; `number` is `Step.number`.

        None: it takes no part.
        """
        ...

    def kind(self, module: "nn.Module") -> str:
        """What kind of operator a module is, in words."""
        ...


@dataclass
class Call:
    """One call of a module: the request's rows of its tensors, by position of the sequence."""

    step: Step
    computed_rows: int
    inputs: list[dict[int, "torch.Tensor"]] = field(default_factory=list)
    outputs: list[dict[int, "torch.Tensor"]] = field(default_factory=list)


class ModuleRecorder:
    """Hooks on every module of a worker's model.

    Args:
        model: The worker's model.
    """

    def __init__(self, model: WorkerModel) -> None:
        self._model = model
        self._handles: list[Any] = []
        self._kept: dict[Key, dict[int, Call]] = {}
        self._found: list[dict[str, Any]] = []

    def start(self, request_number: int, sample: int, last_position: int, compare: bool) -> None:
        """Hook the modules.

        Args:
            request_number: The request's number in vLLM's count.
            sample: Index of its continuation, where it has several.
            last_position: Last position of the sequence that is looked at.
            compare: Whether rows are compared with those of the run before; else they are kept.
        """
        # vLLM appends random digits to a request's number, and puts the sample's index in front of it.
        self._request = re.compile(rf"(?:{sample}_)?{request_number}(?:-[0-9a-f]+)?")
        self._last_position = last_position
        self._compare = compare
        self._steps = 0
        self._step: Step | None = None
        self._row_counts: set[int] = set()
        self._calls: dict[str, int] = {}
        self._open: list[Call | None] = []
        if not compare:
            self._kept = {}
        self._found = []
        model = self._model.module()
        self._handles = [model.register_forward_pre_hook(self._begin_step, with_kwargs=True)]
        self._model.watch_steps()
        for name, module in model.named_modules():
            if not name:  # the model itself, whose output is that of its last module
                continue
            after = partial(self._after, name)
            self._handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(after))

    def stop(self) -> list[dict[str, Any]]:
        """Remove the hooks; what was compared up to the first step that differs, in the order of execution."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._model.unwatch_steps()
        differing = [found["step"] for found in self._found if found["differing"]]
        last = min(differing, default=-1)
        return [found for found in self._found if found["step"] == last]

    def _begin_step(self, _: "nn.Module", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls = {}
        self._open = []
        self._step = step = self._model.rows(self._request, self._steps)
        if step is not None:
            self._steps += 1
            # Padding stands behind the tokens, in what the model itself is passed too.
            sizes = (tensor.shape[0] for tensor in tensors((args, kwargs)))
            self._row_counts = {step.tokens, *(size for size in sizes if size > step.tokens)}

    def _before(self, _: "nn.Module", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copy the inputs before the call, since modules may write into them."""
        call = None
        if self._step is not None:
            call = Call(self._step, computed_rows(self._step, (args, kwargs)))
            call.inputs = list(self._rows_of((args, kwargs)))
        self._open.append(call)

    def _after(self, name: str, module: "nn.Module", args: object, output: object) -> None:
        call = self._open.pop()
        number = self._calls.get(name, 0)
        self._calls[name] = number + 1
        if call is None:
            return
        call.outputs = list(self._rows_of(output))
        key = (name, number)
        kept = self._kept.setdefault(key, {})
        if self._compare:
            found = compare_calls(call, kept)
            if found is not None:
                described = {"module": name, "class_name": type(module).__name__, "kind": self._model.kind(module)}
                self._found.append({**described, **found})
        else:
            positions = {position for tensor in (*call.inputs, *call.outputs) for position in tensor}
            kept.update(dict.fromkeys(positions, call))

    def _rows_of(self, value: object) -> "Iterator[dict[int, torch.Tensor]]":
        """The request's rows of every tensor in a value, copied to the host."""
        step = self._step
        assert step is not None
        for tensor in tensors(value):
            if tensor.shape[0] in self._row_counts:
                own = tensor[step.rows].detach().to("cpu", copy=True)
                pairs = zip(step.positions, own, strict=False)
            elif tensor.shape[0] == step.requests:  # the LM head sees one row a request: that of its last token
                own = tensor[step.index : step.index + 1].detach().to("cpu", copy=True)
                pairs = zip(step.positions[-1:], own, strict=False)
            else:
                continue
            yield {position: row for position, row in pairs if position <= self._last_position}


def tensors(value: object) -> "Iterator[torch.Tensor]":
    """All tensors with rows in nested tuples, lists and dictionaries; a weight is none, where a module returns it."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.dim() and not isinstance(value, torch.nn.Parameter):
            yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors(each)


def computed_rows(step: Step, inputs: object) -> int:
    """Rows that a module computes: one a token of the step, or one a request."""
    sizes = [tensor.shape[0] for tensor in tensors(inputs)]
    return step.tokens if any(size >= step.tokens for size in sizes) or not sizes else max(sizes)


def compare_calls(call: Call, kept: dict[int, Call]) -> dict[str, Any] | None:
    """What a call in the batch gave against what the calls alone gave, position by position.

    Args:
        call: The call in the batch.
        kept: The calls alone, by position.

    Returns:
        The fields of `ModuleDifference` that follow from it; None where no position is in both.
    """
    inputs_equal = all(
        differing_elements(row, kept[position].inputs[index][position])[0] == 0
        for index, rows in enumerate(call.inputs)
        for position, row in rows.items()
        if position in kept and index < len(kept[position].inputs) and position in kept[position].inputs[index]
    )
    elements, differing, largest = 0, 0, 0.0
    first: int | None = None
    compared: dict[int, int] = {}
    width: tuple[int, ...] = ()
    for index, rows in enumerate(call.outputs):
        for position, row in rows.items():
            alone = kept.get(position)
            if alone is None or index >= len(alone.outputs) or position not in alone.outputs[index]:
                continue
            unequal, difference = differing_elements(row, alone.outputs[index][position])
            width = width or tuple(row.shape)
            compared[position] = max(1, row.numel())
            elements += max(1, row.numel())
            differing += unequal
            largest = max(largest, difference)
            if unequal:
                first = position if first is None else min(first, position)
    if not compared:
        return None
    position = min(compared) if first is None else first
    return {
        "step": call.step.number,
        "position": position,
        "rows_alone": kept[position].computed_rows,
        "rows_in_batch": call.computed_rows,
        "shape": (len(compared), *width),
        "elements": elements,
        "differing": differing,
        "largest_difference": largest,
        "inputs_equal": inputs_equal,
    }


def differing_elements(left: "torch.Tensor", right: "torch.Tensor") -> tuple[int, float]:
    """How many elements of two rows differ in their bits, and the largest |difference|."""
    import torch

    if left.shape != right.shape or left.dtype != right.dtype:
        return max(left.numel(), 1), sys.float_info.max
    bits = [each.contiguous().reshape(-1, 1).view(torch.uint8) for each in (left, right)]
    unequal = int((bits[0] != bits[1]).any(dim=1).sum())
    if not unequal:
        return 0, 0.0
    difference = float((left.double() - right.double()).abs().max())
    return unequal, difference if math.isfinite(difference) else sys.float_info.max
