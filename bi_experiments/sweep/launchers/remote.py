"""One experiment of a sweep as something that another process can run: what both launchers send."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from bi_experiments.config.backends import Platform
from bi_experiments.config.plain import as_set
from bi_experiments.errors import ExitCode
from bi_experiments.sweep.command import record_of
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.loader import experiments
from bi_experiments.sweep.records import Status, ended, interrupted, running


@dataclass(frozen=True)
class RemoteJob:
    """One experiment of a sweep, with all that Hydra needs to run it in another process."""

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    """Composed for this experiment; its output folder is absolute."""
    folder: Path
    """Working folder, the one that the sweep was started in: relative paths of the configuration mean the same."""
    singletons: dict[Any, Any]
    """State of Hydra's singletons in the process that composed it."""

    def __call__(self) -> JobReturn:
        """Run the experiment in this process."""
        Singleton.set_state(self.singletons)
        setup_globals()
        with contextlib.chdir(self.folder):
            return run_job(
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=self.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )

    @property
    def ranks(self) -> int:
        """Processes of its engine: tensor parallel size times pipeline parallel size."""
        return int(self.config.tp * self.config.pp)

    def gpus(self, gpus_per_rank: int | None) -> int:
        """GPUs that it needs.

        Args:
            gpus_per_rank: The launcher's setting; None: one on GPUs, none on the CPU.
        """
        if gpus_per_rank is None:
            gpus_per_rank = int(self.config.backend.platform is Platform.cuda)
        return self.ranks * gpus_per_rank


def compose_jobs(
    hydra_context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[RemoteJob]:
    """Compose the experiments of a sweep.

    Args:
        hydra_context: Hydra's loader and callbacks.
        task_function: What runs one experiment.
        config: The sweep's configuration.
        job_overrides: The overrides of each experiment.
        first: Number of the first one in the sweep.
    """
    sweep_folder = Path(str(config.hydra.sweep.dir)).absolute()
    sweep_folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for composed in experiments(hydra_context, config, job_overrides, first):
        with open_dict(composed):
            composed.hydra.sweep.dir = str(sweep_folder)
        jobs.append(RemoteJob(hydra_context, task_function, composed, Path.cwd(), Singleton.get_state()))
    return jobs


def without_result(job: RemoteJob, why: str | None) -> JobReturn:
    """What the sweeper is given for an experiment that ended without reporting; its row says so.

    Args:
        job: The experiment.
        why: How it failed, for the user; None: the sweep was interrupted.
    """
    sweep, number = SweepFolder(Path(job.config.hydra.sweep.dir)), int(job.config.hydra.job.num)
    overrides = as_set(job.config.hydra.overrides.task)
    written = {record.number: record for record in sweep.read()}.get(number)
    if written is None or written.status is Status.RUNNING:
        started = written or running(record_of(sweep), number, str(job.config.hydra.sweep.subdir), overrides)
        sweep.append(interrupted(started) if why is None else ended(started, Status.FAILED, why, ExitCode.PHASE_FAILED))
    returned = JobReturn(overrides=overrides, cfg=job.config, status=JobStatus.COMPLETED)
    returned.return_value = None
    return returned
