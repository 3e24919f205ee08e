"""The experiments of a sweep as tasks of a Ray cluster."""

import re
import socket
from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.errors import HydraException

from bi_experiments.config.launchers import RaySettings
from bi_experiments.sweep.launchers.remote import RemoteJob, without_result

CONNECT_S = 10.0
"""Time that a cluster has to answer, in seconds."""


def run_on_ray(jobs: Sequence[RemoteJob], settings: RaySettings) -> list[JobReturn]:
    """Run the experiments as tasks, wait for them, and return what they returned, in the same order.

    An interruption ends the tasks that are left. A cluster that was started for it ends with it.

    Args:
        jobs: The experiments.
        settings: Which cluster, and what each task takes from it.

    Raises:
        HydraException: Ray is not installed, no cluster answers, or vLLM is to take GPUs from the cluster itself.
    """
    try:
        import ray
    except ImportError as error:
        raise HydraException(
            "hydra/launcher=ray needs the package ray, which is not installed; run pip install ray"
        ) from error
    if any(
        job.config.backend.distributed_executor_backend == "ray" and job.gpus(settings.gpus_per_rank) for job in jobs
    ):
        raise HydraException(
            "hydra/launcher=ray with backend.distributed_executor_backend=ray: the engine would wait for the GPUs that "
            "the experiment's own task holds; use only the second, on a node of the cluster"
        )
    address = re.fullmatch(r"([^/]+):(\d+)", settings.address or "")
    try:
        if address:  # Ray itself tries for minutes, and then ends the program
            socket.create_connection((address[1], int(address[2])), timeout=CONNECT_S).close()
        ray.init(address=settings.address, **settings.init)
    except OSError as error:
        raise HydraException(
            f"no Ray cluster was found at hydra.launcher.address={settings.address}: {error}"
        ) from error
    try:
        tasks = [_task(job, settings) for job in jobs]
        return [_returned(job, task) for job, task in zip(jobs, tasks, strict=True)]
    except BaseException:
        ray.shutdown()  # with the program that started them, Ray kills the tasks, and so their phases
        for job in jobs:
            without_result(job, None)
        raise
    finally:
        ray.shutdown()


def _task(job: RemoteJob, settings: RaySettings) -> object:
    """Start an experiment's task; a process of its own, so that nothing of it is left for the next."""
    import ray

    options = {
        "num_cpus": job.ranks * settings.cpus_per_rank,
        "num_gpus": job.gpus(settings.gpus_per_rank),
        "max_retries": settings.max_retries,
        "max_calls": 1,
        "name": f"experiment {job.config.hydra.job.num}",
        # With its task's process Ray would kill the phase alone, before the phase has ended what it started.
        "runtime_env": {"env_vars": {"RAY_kill_child_processes_on_worker_exit": "false"}},
    }
    return ray.remote(**(options | settings.remote))(_run).remote(job)


def _run(job: RemoteJob) -> JobReturn:
    return job()


def _returned(job: RemoteJob, task: object) -> JobReturn:
    """What an experiment returned."""
    import ray

    try:
        returned: JobReturn = ray.get(task)
    except ray.exceptions.RayError as error:
        return without_result(job, str(error).strip().splitlines()[0])
    return returned
