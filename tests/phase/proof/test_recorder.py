"""The rows of one request at every module, on a small model without vLLM."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bi_experiments.phase.observer import RunnerModel
from bi_experiments.phase.proof.recorder import ModuleRecorder

WIDTH = 4


class LinearBase(nn.Linear):  # type: ignore[misc]  # torch is not read by mypy
    """Named as vLLM's base class of linear layers; adds `error` to every row when there are more than `most_rows`."""

    error = 0.0
    most_rows = 0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        out = (rows[:, None, :] * self.weight).sum(-1)  # matrix multiplication would choose kernels by rows
        return out + self.error if rows.shape[0] > self.most_rows else out


class WithBias(LinearBase):
    """Returns its bias instead of adding it, and a table of its own: neither has a row a token."""

    def __init__(self, size: int) -> None:
        super().__init__(WIDTH, WIDTH, bias=False)
        self.later = nn.Parameter(torch.arange(float(size)))
        self.table = torch.arange(2.0 * size)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return super().forward(rows), self.later, self.table


class Untupled(nn.Module):  # type: ignore[misc]  # torch is not read by mypy
    """Passes on the first of what the module in it gives."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.inner(rows)[0])


class AddingNorm(nn.Module):  # type: ignore[misc]  # torch is not read by mypy
    """Writes into its inputs, as vLLM's fused norms do."""

    def forward(self, rows: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        residual += rows
        rows.copy_(residual / 2)
        return rows, residual


class Layer(nn.Module):  # type: ignore[misc]  # torch is not read by mypy
    def __init__(self) -> None:
        super().__init__()
        self.linear = LinearBase(WIDTH, WIDTH, bias=False)
        self.norm = AddingNorm()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        out, _ = self.norm(self.linear(rows), rows.clone())
        return torch.as_tensor(out)


class Model(nn.Module):  # type: ignore[misc]  # torch is not read by mypy
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer(), Layer()])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            rows = layer(rows)
        return rows


@dataclass
class Runner:
    """Model runner V1, as far as the observer reads it."""

    model: Model
    input_batch: Any = None
    query_start_loc: Any = None
    positions: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    padded: int = 0

    def step(self, requests: dict[str, tuple[int, int]]) -> None:
        """One step: for each request the first position, and one behind the last."""
        lengths = [end - start for start, end in requests.values()]
        self.input_batch = SimpleNamespace(req_ids=list(requests))
        self.query_start_loc = SimpleNamespace(np=np.cumsum([0, *lengths]))
        self.positions = torch.cat([torch.arange(start, end) for start, end in requests.values()])
        rows = torch.cat(
            [content(name.partition("-")[0], position) for name, span in requests.items() for position in range(*span)]
        )
        self.model(torch.cat([rows, torch.randn(max(0, self.padded - len(rows)), WIDTH)]))


class RunnerV2:
    """Model runner V2: what a step is made of comes from `prepare_inputs`."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.first = Runner(model)

    def prepare_inputs(self, requests: dict[str, tuple[int, int]]) -> SimpleNamespace:
        lengths = [end - start for start, end in requests.values()]
        positions = torch.cat([torch.arange(start, end) for start, end in requests.values()])
        starts = np.cumsum([0, *lengths])
        return SimpleNamespace(req_ids=list(requests), query_start_loc_np=starts, positions=positions)

    def step(self, requests: dict[str, tuple[int, int]]) -> None:
        self.prepare_inputs(requests)
        self.first.step(requests)


def content(request: str, position: int) -> torch.Tensor:
    """The row of a token; the probe has the number 1 alone, and 12 in the batch."""
    probe = request.rpartition("_")[2] in {"1", "12"}
    generator = torch.Generator().manual_seed(position + (0 if probe else 1000))
    return torch.randn(1, WIDTH, generator=generator)


@pytest.fixture
def model() -> Iterator[Model]:
    with torch.no_grad():
        torch.manual_seed(0)
        yield Model()


BATCH = [{"11-aaaaaaaa": (0, 3), "12-bbbbbbbb": (0, 4)}, {"12-bbbbbbbb": (4, 5), "11-aaaaaaaa": (3, 4)}]


def compared(
    runner: Runner | RunnerV2, last_position: int = 4, batch: list[dict[str, tuple[int, int]]] = BATCH
) -> list[dict[str, Any]]:
    recorder = ModuleRecorder(RunnerModel(runner))
    recorder.start(1, 0, last_position, compare=False)
    for span in ((0, 4), (4, 5)):
        runner.step({"1-cccccccc": span})
    recorder.stop()
    recorder.start(12, 0, last_position, compare=True)
    for step in batch:
        runner.step(step)
    return recorder.stop()


@pytest.mark.parametrize("kind", [Runner, RunnerV2])
def test_equal_rows_are_no_difference_wherever_they_stand_in_a_step(
    kind: type[Runner] | type[RunnerV2], model: Model
) -> None:
    assert compared(kind(model)) == []


@pytest.mark.parametrize("kind", [Runner, RunnerV2])
def test_the_first_module_that_differs_has_equal_inputs_and_those_behind_it_have_not(
    kind: type[Runner] | type[RunnerV2], model: Model
) -> None:
    faulty = model.layers[1].get_submodule("linear")
    assert isinstance(faulty, LinearBase)
    faulty.error, faulty.most_rows = 0.5, 4
    found = compared(kind(model))
    culprit = next(one for one in found if one["differing"])
    assert culprit == {
        "module": "layers.1.linear",
        "class_name": "LinearBase",
        "kind": "matrix multiplication",
        "step": 0,
        "position": 0,
        "rows_alone": 4,
        "rows_in_batch": 7,
        "shape": (4, WIDTH),
        "elements": 16,
        "differing": 16,
        "largest_difference": pytest.approx(0.5),
        "inputs_equal": True,
    }
    names = [one["module"] for one in found]
    behind = found[names.index("layers.1.linear") + 1 :]
    assert behind[0]["module"] == "layers.1.norm"
    assert all(one["differing"] and not one["inputs_equal"] for one in behind if one["module"] != "layers.1")


@pytest.mark.parametrize("size", [7, 8])
def test_what_has_no_row_a_token_is_not_compared_by_rows(size: int, model: Model) -> None:
    model.layers[1].linear = Untupled(WithBias(size))
    assert compared(Runner(model)) == []


def test_rows_of_a_padded_step_are_compared_without_the_padding(model: Model) -> None:
    assert compared(Runner(model, padded=8)) == []
    faulty = model.layers[1].get_submodule("linear")
    assert isinstance(faulty, LinearBase)
    faulty.error, faulty.most_rows = 0.5, 8
    batch = [{"11-aaaaaaaa": (0, 5), "12-bbbbbbbb": (0, 4)}, *BATCH[1:]]
    culprit = next(one for one in compared(Runner(model, padded=8), batch=batch) if one["differing"])
    assert (culprit["module"], culprit["shape"]) == ("layers.1.linear", (4, WIDTH))


def test_what_differs_in_a_later_step_is_named_there(model: Model) -> None:
    faulty = model.layers[2].get_submodule("linear")
    assert isinstance(faulty, LinearBase)
    faulty.error, faulty.most_rows = 0.5, 1
    alone_too = {"12-bbbbbbbb": (0, 4)}
    faulty.most_rows = 1
    recorder_runner = Runner(model)
    found = compared(recorder_runner, batch=[alone_too, {"11-aaaaaaaa": (0, 1), "12-bbbbbbbb": (4, 5)}])
    culprit = next(one for one in found if one["differing"])
    assert (culprit["module"], culprit["step"], culprit["position"]) == ("layers.2.linear", 1, 4)
    assert (culprit["rows_alone"], culprit["rows_in_batch"]) == (1, 2)


def test_positions_behind_the_last_one_are_not_compared(model: Model) -> None:
    faulty = model.layers[2].get_submodule("linear")
    assert isinstance(faulty, LinearBase)
    faulty.error, faulty.most_rows = 0.5, 1
    steps = [{"12-bbbbbbbb": (0, 4)}, {"11-aaaaaaaa": (0, 1), "12-bbbbbbbb": (4, 5)}]
    assert compared(Runner(model), last_position=3, batch=steps) == []


def test_a_prompt_in_two_chunks_is_compared_with_one_in_one_piece(model: Model) -> None:
    chunks = [{"11-aaaaaaaa": (0, 2), "12-bbbbbbbb": (0, 1)}, {"12-bbbbbbbb": (1, 4)}, {"12-bbbbbbbb": (4, 5)}]
    assert compared(Runner(model), batch=chunks) == []
    faulty = model.layers[0].get_submodule("linear")
    assert isinstance(faulty, LinearBase)
    faulty.error, faulty.most_rows = 0.5, 3
    culprit = next(one for one in compared(Runner(model), batch=chunks) if one["differing"])
    assert (culprit["module"], culprit["step"], culprit["position"]) == ("layers.0.linear", 0, 0)


def test_a_sample_is_told_from_its_siblings_and_from_longer_numbers(model: Model) -> None:
    faulty = model.layers[0].get_submodule("linear")
    assert isinstance(faulty, LinearBase)
    runner = Runner(model)
    recorder = ModuleRecorder(RunnerModel(runner))
    for name, found in (("2_12-aaaaaaaa", True), ("1_12-aaaaaaaa", False), ("2_112-aaaaaaaa", False)):
        recorder.start(12, 2, 4, compare=False)
        runner.step({name: (0, 3)})
        recorder.stop()
        assert bool(recorder._kept) is found


@pytest.mark.parametrize("kind", [Runner, RunnerV2])
def test_nothing_is_left_on_the_model_and_its_runner(kind: type[Runner] | type[RunnerV2], model: Model) -> None:
    runner = kind(model)
    compared(runner)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert "prepare_inputs" not in vars(runner)


def test_signs_of_zero_and_no_numbers_are_compared_by_their_bits(model: Model) -> None:
    from bi_experiments.phase.proof.recorder import differing_elements

    nan = torch.tensor([float("nan"), 1.0])
    assert differing_elements(nan, nan.clone()) == (0, 0.0)
    assert differing_elements(torch.tensor([0.0]), torch.tensor([-0.0])) == (1, 0.0)
    assert differing_elements(nan, torch.tensor([1.0, 1.0]))[0] == 1
