"""The environment variables of a phase's process."""

import os
from getpass import getuser
from pathlib import Path
from tempfile import gettempdir

from bi_experiments.config.checks import CACHE_FOLDERS
from bi_experiments.config.schema import Caches, ExperimentConfig
from bi_experiments.machine.libraries import preloads
from bi_experiments.records import Arm


def phase_variables(config: ExperimentConfig, arm: Arm, caches: Path) -> dict[str, str]:
    """The parent's variables, with the arm's mode, the backend's own, the preloads and the compile caches.

    Args:
        config: The experiment's configuration.
        arm: The phase's arm.
        caches: Folder of the phase's caches, where these are not the user's.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_BENCH_")}
    variables |= {
        "PYTHONUNBUFFERED": "1",
        "VLLM_NO_USAGE_STATS": "1",  # a reporter thread would share the timed process
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts, which the checks and the clocks are read through
        **set_variables(config, arm),
    }
    if libraries := preloads(config):
        variables["LD_PRELOAD"] = ":".join([*libraries, *filter(None, [variables.get("LD_PRELOAD")])])
    if config.protocol.caches is not Caches.user:
        variables |= private_caches(caches, variables)
    else:
        # By default in the folder for temporary files, which is the phase's own and goes with it.
        variables.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(gettempdir()) / f"torchinductor_{_user()}"))
    return variables


def set_variables(config: ExperimentConfig, arm: Arm) -> dict[str, str]:
    """Those that a user would set to run the arm without this project: the backend's own, and the mode's."""
    return {**config.backend.environment, "VLLM_BATCH_INVARIANT": str(int(arm.batch_invariant))}


def _user() -> str:
    """Name of this user, as torch puts it into the name of its cache; the number where there is no name."""
    try:
        return getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def private_caches(folder: Path, variables: dict[str, str]) -> dict[str, str]:
    """Variables that move the compile caches of vLLM, Inductor and Triton into a folder.

    The model hub's cache stays where it is. So do FlashInfer's (`FLASHINFER_WORKSPACE_BASE`), which also has the
    kernels that it downloads, and the driver's (`CUDA_CACHE_PATH`).

    Args:
        folder: The arm's own cache folder.
        variables: Those so far, which say where the hub's cache is.
    """
    user_caches = variables.get("XDG_CACHE_HOME") or str(Path(variables.get("HOME", "")) / ".cache")
    return {
        **{name: str(folder / below) for name, below in CACHE_FOLDERS.items()},
        "HF_HOME": variables.get("HF_HOME") or str(Path(user_caches) / "huggingface"),
    }
