"""What makes an experiment the one it is: its configuration, its workload, and what it runs on."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bi_experiments import __version__
from bi_experiments.config.backends import Platform
from bi_experiments.config.plain import deciding, recorded_configuration
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.machine.devices import read_nvidia
from bi_experiments.machine.environment import cpu_name, own_checkout, public_variables
from bi_experiments.machine.interpreter import interpreter, phase_versions
from bi_experiments.records import RECORD_VERSION, Record

_ENVIRONMENT = "environment: "
_PLACE = frozenset({f"{_ENVIRONMENT}device UUIDs", f"{_ENVIRONMENT}host"})
"""Which of several alike machines it is: what is finished on one need not run on another."""


class Identity(Record, frozen=True, kw_only=True):
    """What makes an experiment the one it is: `identity.json` in its folder."""

    version: int = RECORD_VERSION
    digest: str
    parts: dict[str, str]
    """Settings and environment, flat: what the digest is made of."""

    @property
    def environment(self) -> dict[str, str]:
        """The parts that are not settings."""
        return {name: value for name, value in self.parts.items() if name.startswith(_ENVIRONMENT)}

    def alike(self, other: "Identity") -> bool:
        """Whether the other one is the same experiment on the same kind of machine, if not on the same machine."""
        different = self.parts.items() ^ other.parts.items()
        return {name for name, _ in different} <= _PLACE


def identity_of(config: ExperimentConfig) -> Identity:
    """The identity of an experiment that would run here and now.

    The workload is made from the configuration and the seed alone, so that it is in them.

    Raises:
        MachineError: The interpreter of the phases does not report its versions.
    """
    return identity(recorded_configuration(config), environment_of(config))


def identity(configuration: Mapping[str, Any], environment: Mapping[str, str]) -> Identity:
    """The identity that a configuration has in an environment.

    Args:
        configuration: As in the record.
        environment: What it runs on, in words.
    """
    parts = deciding(configuration) | {f"{_ENVIRONMENT}{name}": value for name, value in environment.items()}
    text = json.dumps(parts, sort_keys=True)
    return Identity(digest=hashlib.sha256(text.encode()).hexdigest(), parts=parts)


def environment_of(config: ExperimentConfig) -> dict[str, str]:
    """What results depend on besides the configuration: versions, commit, driver, processor, devices, variables."""
    nvidia = read_nvidia()
    names = sorted({f"{device.name} {device.memory_bytes >> 30} GiB" for device in nvidia.devices})
    uuids = sorted(device.uuid for device in nvidia.devices if device.uuid is not None)
    commit, dirty = own_checkout()
    versions = {name: number for name, number in phase_versions(interpreter(config)).items() if name != "python"}
    environment = {"bi_experiments": __version__, **versions, "processor": cpu_name()}
    environment |= {name: value for name, value in public_variables(os.environ, Path.home()).items() if _read(name)}
    if commit is not None:
        environment["commit"] = f"{commit} with local changes" if dirty else commit
    if config.backend.platform is Platform.cpu:
        cores = str(config.sweep.cores or len(os.sched_getaffinity(0)))
        return environment | {"cores": cores, "host": platform.node()}
    devices = {"devices": ", ".join(names) or "none", "device UUIDs": ", ".join(uuids) or "none"}
    return environment | devices | {"driver": nvidia.driver or "none"}


def _read(name: str) -> bool:
    """Whether vLLM, NCCL, CUDA or OpenMP read an inherited variable; which devices they see, the UUIDs say."""
    read = name.startswith(("VLLM_", "NCCL_", "CUDA_", "OMP_", "GOMP_", "KMP_", "MKL_"))
    return read and not name.startswith("VLLM_BENCH_") and name != "CUDA_VISIBLE_DEVICES"
