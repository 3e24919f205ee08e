import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from msgspec.structs import replace
from omegaconf import DictConfig, OmegaConf

from bi_experiments.config.compose import conf_folder, register_schema
from bi_experiments.config.launchers import RaySettings, SlurmSettings
from bi_experiments.files import write_atomically
from bi_experiments.records import to_json
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.launchers.ray import run_on_ray
from bi_experiments.sweep.launchers.remote import RemoteJob, without_result
from bi_experiments.sweep.launchers.slurm import run_on_slurm
from bi_experiments.sweep.records import Status, SweepRecord


def composed(*overrides: str) -> DictConfig:
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def job(*overrides: str) -> RemoteJob:
    config = composed(*overrides)
    return RemoteJob(None, None, config, Path.cwd(), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overrides", "gpus_per_rank", "expected"),
    [
        (("tp=4", "pp=2"), None, 8),
        (("experiment=cpu_demo", "tp=2"), None, 0),
        (("tp=2",), 0, 0),
        (("experiment=cpu_demo", "tp=2"), 1, 2),
    ],
)
def test_an_experiment_asks_for_a_gpu_for_each_rank(
    overrides: tuple[str, ...], gpus_per_rank: int | None, expected: int
) -> None:
    assert job(*overrides).gpus(gpus_per_rank) == expected


def test_a_job_that_is_lost_stays_the_experiment_that_it_was(tmp_path: Path) -> None:
    sweep = SweepFolder(tmp_path)
    begun = SweepRecord(
        command=(),
        started_at=0.0,
        session_started_at=0.0,
        pid=1,
        planned=3,
        skip_impossible=False,
        again=(2, 0),
    )
    write_atomically(sweep.record, to_json(begun))
    lost = job("tp=2", f"hydra.sweep.dir={tmp_path}", "hydra.job.num=2")
    without_result(lost, "the node went down")
    (waiting,) = sweep.read()
    assert (waiting.status, waiting.reason, waiting.exit_code) == (Status.FAILED, "the node went down", 1)
    assert (waiting.folder, waiting.overrides, waiting.again) == ("2", ("tp=2",), 0)

    sweep.append(replace(waiting, status=Status.RUNNING, reason=None, exit_code=0, identity="digest"))
    without_result(lost, "the node went down")
    (ran,) = sweep.read()
    assert replace(ran, at=waiting.at) == replace(waiting, identity="digest")

    without_result(lost, "said later")
    assert sweep.read() == [ran]


def test_the_launchers_options_have_their_types() -> None:
    slurm = OmegaConf.to_object(composed("hydra/launcher=submitit_slurm").hydra.launcher)
    assert isinstance(slurm, SlurmSettings)
    assert slurm.max_num_timeout > 0
    ray = OmegaConf.to_object(composed("hydra/launcher=ray").hydra.launcher)
    assert isinstance(ray, RaySettings)
    assert ray.address is None
    with pytest.raises(HydraException):
        composed("hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=soon")


def test_a_package_that_is_not_installed_is_named_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = composed("hydra/launcher=submitit_slurm").hydra.launcher
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(HydraException, match="pip install submitit"):
        run_on_slurm([job("experiment=cpu_demo")], settings, tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HydraException, match="pip install ray"):
        run_on_ray([], composed("hydra/launcher=ray").hydra.launcher)


def test_a_time_limit_that_strikes_before_a_job_listens_is_refused(tmp_path: Path) -> None:
    settings = OmegaConf.to_object(
        composed("hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=3").hydra.launcher
    )
    assert isinstance(settings, SlurmSettings)
    with pytest.raises(HydraException, match=r"timeout_min=3 is too short .* use 4 or more"):
        run_on_slurm([job("experiment=cpu_demo")], settings, tmp_path)


@pytest.mark.system  # Ray is installed for these alone
def test_an_engine_must_not_wait_for_the_gpus_that_its_own_task_holds() -> None:
    pytest.importorskip("ray")
    settings = OmegaConf.to_object(composed("hydra/launcher=ray").hydra.launcher)
    assert isinstance(settings, RaySettings)
    with pytest.raises(HydraException, match="would wait"):
        run_on_ray([job("backend.distributed_executor_backend=ray")], settings)
