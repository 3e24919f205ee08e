from pathlib import Path
from typing import Any

import pytest

from bi_experiments import run_benchmark_with_batch_invariant
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ConfigurationError
from bi_experiments.records import Arm, PhaseResult
from tests import factories


def asked(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> tuple[ExperimentConfig, Arm]:  # noqa: ANN401
    """What the function has run."""
    ran: list[tuple[ExperimentConfig, Arm]] = []

    def run(config: ExperimentConfig, arm: Arm) -> PhaseResult:
        ran.append((config, arm))
        return factories.phase(arm)

    monkeypatch.setattr("bi_experiments.experiment.run_single_phase", run)
    arguments: dict[str, Any] = {
        "model": "demo",
        "tp_size": 1,
        "max_batch_size": 8,
        "num_trials": 2,
        "min_prompt": 4,
        "max_prompt": 8,
        "max_tokens": 4,
        "temperature": 0.0,
        "gpu_mem_util": 0.4,
        "max_model_len": 256,
        "backend": "CPU_ATTN",
        "batch_invariant": True,
    }
    run_benchmark_with_batch_invariant(**arguments | changed)
    return ran[0]


def test_a_models_folder_may_have_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = '/ckpt/epoch=3,"a b"'
    assert asked(monkeypatch, model=name)[0].model.name == name


def test_a_models_folder_may_be_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, model=Path("/ckpt/x"))[0].model.name == "/ckpt/x"


@pytest.mark.parametrize(
    ("name", "value"), [("batch_invariant", "false"), ("batch_invariant", None), ("model", None), ("backend", 3)]
)
def test_an_argument_of_another_type_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}=.* is not possible: pass a (bool|str)"):
        asked(monkeypatch, **{name: value})


def test_nothing_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not asked(monkeypatch)[0].tracking.enabled


@pytest.mark.parametrize(("batch_invariant", "arm"), [(True, Arm.BATCH_INVARIANT), (False, Arm.BASELINE)])
def test_the_mode_is_needed_by_its_own_arm_alone(
    monkeypatch: pytest.MonkeyPatch, batch_invariant: bool, arm: Arm
) -> None:
    config, ran = asked(monkeypatch, backend="FLASHINFER", batch_invariant=batch_invariant)
    assert ran is arm
    assert config.protocol.control is not batch_invariant
