"""Refusals: one line that names the layer and says what to do, and nothing refused that is covered."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="needs the cpu extra")

import torch
from torch import nn

from bi_experiments.vllm_cpu import coverage, linear
from bi_experiments.vllm_cpu.coverage import NotCoveredError, refuse_uncovered_features, refuse_uncovered_layers


class Glue(nn.Module):  # type: ignore[misc]
    """A model's own module around other modules, with weights of its own or not."""

    def __init__(self, inner: nn.Module, own_weights: bool = False) -> None:
        super().__init__()
        self.inner = inner
        if own_weights:
            self.scale = nn.Parameter(torch.ones(3))


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    group = SimpleNamespace(world_size=1, device_communicator=None)
    monkeypatch.setattr(coverage, "get_tp_group", lambda: group)


@pytest.fixture(autouse=True)
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "onednn_supports", lambda dtype: dtype != torch.bfloat16)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.Linear(4, 4), "Linear"),
        (nn.Conv1d(4, 4, 1), "Conv1d"),
        (nn.GELU(approximate="tanh"), "GELU"),
        (nn.SiLU(), "SiLU"),
        (Glue(nn.Identity(), own_weights=True), "Glue"),
    ],
)
def test_an_uncovered_layer_is_refused_by_name_and_path(layer: nn.Module, name: str) -> None:
    model = Glue(nn.ModuleList([nn.Identity(), layer]))
    with pytest.raises(NotCoveredError) as refusal:
        refuse_uncovered_layers(model)
    message = str(refusal.value)
    assert f"the layer {name} (inner.1)" in message
    assert "VLLM_BATCH_INVARIANT=0" in message
    assert "\n" not in message


def test_covered_layers_pass() -> None:
    refuse_uncovered_layers(Glue(nn.Sequential(nn.Embedding(4, 4), nn.LayerNorm(4), nn.ReLU(), Glue(nn.Identity()))))


@dataclass(frozen=True)
class Engine:
    """What is read of vLLM's configuration before a model is loaded."""

    use_v2_model_runner: bool = False
    lora_config: object = None
    speculative_config: object = None


@dataclass(frozen=True)
class Model:
    """What is read of the model's configuration before it is loaded."""

    use_mla: bool = False
    runner_type: str = "generate"
    architecture: str = "SomeModel"
    dtype: torch.dtype = torch.float32


@pytest.mark.parametrize(
    ("engine", "named"),
    [
        (Engine(lora_config=object()), "LoRA"),
        (Engine(speculative_config=object()), "speculative decoding"),
        (Engine(use_v2_model_runner=True), "VLLM_USE_V2_MODEL_RUNNER=0"),
    ],
)
def test_an_uncovered_feature_is_refused(engine: Engine, named: str) -> None:
    with pytest.raises(NotCoveredError, match=named):
        refuse_uncovered_features(engine, Model())


@pytest.mark.parametrize(("model", "named"), [(Model(use_mla=True), "MLA"), (Model(runner_type="pooling"), "pooling")])
def test_an_uncovered_model_is_refused(model: Model, named: str) -> None:
    with pytest.raises(NotCoveredError, match=f"{named}.*SomeModel"):
        refuse_uncovered_features(Engine(), model)


def test_a_type_without_kernel_is_refused() -> None:
    with pytest.raises(NotCoveredError, match=r"cover bfloat16, .* without AVX-512, on the CPU: run in float32"):
        refuse_uncovered_features(Engine(), Model(dtype=torch.bfloat16))


def test_a_plain_configuration_passes() -> None:
    refuse_uncovered_features(Engine(), Model())


@pytest.mark.parametrize(("ranks", "refused"), [(1, False), (2, False), (3, True)])
def test_more_ranks_than_two_need_shared_memory(ranks: int, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    group = SimpleNamespace(world_size=ranks, device_communicator=SimpleNamespace(dist_module=torch.distributed))
    monkeypatch.setattr(coverage, "get_tp_group", lambda: group)
    if refused:
        with pytest.raises(NotCoveredError, match="3 ranks without shared memory"):
            refuse_uncovered_layers(nn.Identity())
    else:
        refuse_uncovered_layers(nn.Identity())
