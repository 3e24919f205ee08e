"""The Ray executor, as far as vLLM goes on the CPU."""

import importlib.util
from pathlib import Path

import pytest

from bi_experiments.config.compose import compose
from bi_experiments.errors import PhaseError
from bi_experiments.experiment import run_single_phase
from bi_experiments.records import Arm
from tests.processes import wait_for
from tests.sweep.launchers.local_ray import MARK, authentication, processes

pytestmark = pytest.mark.engine

SMALL = (
    "experiment=cpu_demo",
    "verify=off",
    "workload.num_trials=1",
    "workload.max_batch_size=2",
    "workload.max_tokens=8",
    "pp=2",
)


@pytest.mark.system
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed")
def test_the_ray_executor_is_asked_for_and_vllm_has_none_for_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {MARK: str(tmp_path), **authentication()}.items():
        monkeypatch.setenv(name, value)
    config = compose([*SMALL, "backend.distributed_executor_backend=ray"])
    with pytest.raises(PhaseError, match="current platform cpu does not support ray") as raised:
        run_single_phase(config, Arm.BASELINE)
    assert "ray_executor" in str(raised.value)
    wait_for(lambda: not processes(tmp_path))
