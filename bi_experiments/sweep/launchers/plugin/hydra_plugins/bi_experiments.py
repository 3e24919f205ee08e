"""Launchers of sweeps, in the package in which Hydra looks for plugins."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from bi_experiments.config.launchers import RaySettings, SlurmSettings
from bi_experiments.sweep.launchers.local import run_here
from bi_experiments.sweep.launchers.ray import run_on_ray
from bi_experiments.sweep.launchers.remote import RemoteJob, compose_jobs
from bi_experiments.sweep.launchers.slurm import run_on_slurm
from bi_experiments.sweep.loader import experiments


class _Launcher(Launcher):
    """What the launchers have in common; their settings are read from the configuration, where they have types."""

    def __init__(self, **_: object) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config


class LocalLauncher(_Launcher):
    """The experiments run one after the other in this process."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the experiments and return what they returned, in the same order."""
        composed = experiments(self._context, self._config, job_overrides, initial_job_idx)
        return run_here(self._context, self._task, self._config, composed)


class _ClusterLauncher(_Launcher):
    """The experiments run in other processes, each as a job that is sent there."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = compose_jobs(self._context, self._task, self._config, job_overrides, initial_job_idx)
        return self._run(jobs, OmegaConf.to_object(self._config.hydra.launcher))

    @abstractmethod
    def _run(self, jobs: list[RemoteJob], settings: object) -> list[JobReturn]:
        """Run the experiments and return what they returned, in the same order."""


class SlurmLauncher(_ClusterLauncher):
    """Each experiment is a Slurm job."""

    def _run(self, jobs: list[RemoteJob], settings: object) -> list[JobReturn]:
        assert isinstance(settings, SlurmSettings)
        return run_on_slurm(jobs, settings, Path(jobs[0].config.hydra.sweep.dir) / "slurm")


class RayLauncher(_ClusterLauncher):
    """Each experiment is a task of a Ray cluster."""

    def _run(self, jobs: list[RemoteJob], settings: object) -> list[JobReturn]:
        assert isinstance(settings, RaySettings)
        return run_on_ray(jobs, settings)
