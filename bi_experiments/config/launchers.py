"""The settings of the sweeps' launchers on Slurm and Ray; the launchers themselves are in `sweep/launchers`."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class SlurmSettings:
    """Option `hydra/launcher=submitit_slurm`: what each experiment's job asks Slurm for."""

    _target_: str = MISSING
    timeout_min: int = MISSING
    """Time limit of a job in minutes; a job that reaches it is requeued, and on the same node and GPUs resumes where
    it stopped."""
    max_num_timeout: int = MISSING
    """How often a job is requeued after its time limit."""
    signal_delay_s: int = MISSING
    """How long before the time limit the job is notified, in seconds."""
    cpus_per_rank: int = MISSING
    """CPUs for each of the tp*pp ranks of the engine."""
    gpus_per_rank: int | None = MISSING
    """GPUs for each rank; null: one, and none with `backend=cpu`."""
    mem_gb: int | None = MISSING
    """Memory of a job in GB; null: the cluster's default."""
    partition: str | None = MISSING
    account: str | None = MISSING
    qos: str | None = MISSING
    constraint: str | None = MISSING
    array_parallelism: int = MISSING
    """Most jobs that run at the same time."""
    setup: list[str] = MISSING
    """Shell commands before the experiment: `module load cuda`."""
    additional_parameters: dict[str, Any] = MISSING
    """Further options of sbatch, by their long names."""
    poll_s: float = MISSING
    """How often Slurm is asked which jobs there are, in seconds."""


@dataclass
class RaySettings:
    """Option `hydra/launcher=ray`: which cluster, and what each experiment's task takes of it."""

    _target_: str = MISSING
    address: str | None = MISSING
    """Address of the cluster; null: that of RAY_ADDRESS, or one that runs on this machine, or a new one here."""
    cpus_per_rank: float = MISSING
    """CPUs for each of the tp*pp ranks of the engine, as Ray counts them."""
    gpus_per_rank: int | None = MISSING
    """GPUs for each rank; null: one, and none with `backend=cpu`."""
    max_retries: int = MISSING
    """How often an experiment is restarted after its node or process was lost; on the same node and
    GPUs it resumes where it stopped."""
    init: dict[str, Any] = MISSING
    """Further arguments of `ray.init`."""
    remote: dict[str, Any] = MISSING
    """Further options of the tasks, as `ray.remote` takes them."""
