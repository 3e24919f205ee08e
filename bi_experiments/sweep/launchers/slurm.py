"""The experiments of a sweep as Slurm jobs, submitted and requeued by submitit."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.errors import HydraException

from bi_experiments.config.launchers import SlurmSettings
from bi_experiments.sweep.launchers.remote import RemoteJob, without_result

if TYPE_CHECKING:
    from submitit import Job
    from submitit.core.utils import DelayedSubmission

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a job that Slurm ended, as a shell says it."""
SIGNAL_EARLY_S = 60
"""How much earlier than requested Slurm may notify a job of its time limit (sbatch(1), `--signal`), in seconds."""
START_S = 45
"""Time that a job has to start, in seconds: one that is notified before it listens is lost, and nothing requeues it."""


@dataclass(frozen=True)
class SlurmJob(RemoteJob):
    """An experiment as submitit runs it.

    When Slurm ends the job (`scancel`, `scontrol requeue`, preemption), it says so with SIGTERM. The experiment is then
    interrupted, so that its phase is gone and its record says so, and the process ends without a result for submitit:
    Slurm knows whether the job is over or queued again. At the time limit submitit requeues it.
    """

    def __call__(self) -> JobReturn:
        """Run the experiment in this process."""
        terminated = False

        def terminate(*_: object) -> None:
            nonlocal terminated
            terminated = True
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, terminate)
        try:
            return super().__call__()
        finally:
            if terminated:
                sys.exit(TERMINATED)

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit submits again at the time limit: the same, since everything that is known is on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_on_slurm(jobs: Sequence[RemoteJob], settings: SlurmSettings, log_folder: Path) -> list[JobReturn]:
    """Submit the experiments, wait for them, and return what they returned, in the same order.

    An interruption cancels the jobs that are left.

    Args:
        jobs: The experiments.
        settings: What each job asks for.
        log_folder: Where the jobs' logs go, a folder that all nodes see.

    Raises:
        HydraException: The time limit is too short, submitit is not installed, this machine has no Slurm, or Slurm
            refuses the jobs.
    """
    least_min = math.ceil((settings.signal_delay_s + SIGNAL_EARLY_S + START_S) / 60)
    if settings.timeout_min < least_min:
        raise HydraException(
            f"hydra.launcher.timeout_min={settings.timeout_min} is too short for a job that is notified "
            f"hydra.launcher.signal_delay_s={settings.signal_delay_s} s before: use {least_min} or more"
        )
    submitted: dict[int, Job[JobReturn]] = {}
    by_resources = sorted(enumerate(jobs), key=lambda item: _resources(item[1], settings))
    try:
        for resources, group in groupby(by_resources, key=lambda item: _resources(item[1], settings)):
            numbers, experiments = zip(*group, strict=True)
            sent = _submit(experiments, settings, resources, log_folder)
            submitted.update(zip(numbers, sent, strict=True))
            sys.stdout.write(f"Submitted to Slurm: {', '.join(job.job_id for job in sent)}; logs in {log_folder}\n")
            sys.stdout.flush()
        _wait(list(submitted.values()), settings.poll_s)
    except BaseException:
        if submitted:
            subprocess.run(["scancel", *(job.job_id for job in submitted.values())], check=False)
        raise
    return [_returned(job, submitted[number]) for number, job in enumerate(jobs)]


def _resources(job: RemoteJob, settings: SlurmSettings) -> tuple[int, int]:
    """CPUs and GPUs of an experiment's job."""
    return job.ranks * settings.cpus_per_rank, job.gpus(settings.gpus_per_rank)


def _submit(
    jobs: Sequence[RemoteJob], settings: SlurmSettings, resources: tuple[int, int], log_folder: Path
) -> "list[Job[JobReturn]]":
    """Submit one job array of experiments that need the same."""
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError
        from submitit.helpers import clean_env
    except ImportError as error:
        raise HydraException(
            "hydra/launcher=submitit_slurm needs the package submitit, which is not installed; run pip install submitit"
        ) from error
    cpus, gpus = resources
    optional = {
        "mem": None if settings.mem_gb is None else f"{settings.mem_gb}GB",
        "gpus_per_node": gpus or None,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
    }
    try:
        executor = SlurmExecutor(log_folder / "%j", max_num_timeout=settings.max_num_timeout)
        executor.update_parameters(
            job_name="bi_experiments",
            time=settings.timeout_min,
            nodes=1,
            ntasks_per_node=1,
            cpus_per_task=cpus,
            signal_delay_s=settings.signal_delay_s,
            array_parallelism=settings.array_parallelism,
            setup=settings.setup,
            srun_args=[f"--cpus-per-task={cpus}"],  # since Slurm 22.05 srun does not take it over from sbatch
            additional_parameters={"requeue": True, **settings.additional_parameters},
            **{name: value for name, value in optional.items() if value is not None},
        )
        where = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
        with clean_env():  # a sweep that is started inside a job does not hand that job's limits on
            os.environ.update(where)  # where Slurm is, which is nothing of the job's
            return executor.submit_array([SlurmJob(**vars(job)) for job in jobs])
    except (RuntimeError, FailedJobError) as error:
        raise HydraException(f"Slurm accepts no jobs from here: {str(error).strip().splitlines()[-1]}") from error


def _wait(submitted: "Sequence[Job[JobReturn]]", poll_s: float) -> None:
    """Sleep until every job has a result, or Slurm did not know it twice in a row."""
    pending = {job.job_id: job for job in submitted}
    unknown: set[str] = set()
    while pending:
        time.sleep(poll_s)
        queued = _queued()
        pending = {name: job for name, job in pending.items() if not job.paths.result_pickle.exists()}
        if queued is None:
            continue
        for name in unknown & (pending.keys() - queued):
            del pending[name]
        unknown = pending.keys() - queued


def _queued() -> set[str] | None:
    """The user's jobs that wait, run or are about to end; None when Slurm does not answer.

    Asked of the controller, since not every cluster keeps the accounts that `sacct` reads.
    """
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return set(asked.stdout.split()) if asked.returncode == 0 else None


def _returned(job: RemoteJob, submitted: "Job[JobReturn]") -> JobReturn:
    """What an experiment returned."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    log = submitted.paths.stderr
    if not submitted.paths.result_pickle.exists():
        return without_result(job, f"Slurm ended its job {submitted.job_id}; its log is {log}")
    try:
        return submitted.result()
    except (FailedJobError, UncompletedJobError):
        return without_result(job, f"job {submitted.job_id} failed; its log is {log}")
