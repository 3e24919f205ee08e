"""The NVIDIA devices that a process started here would see, read through NVML: no torch, no CUDA context."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from bi_experiments.records import Device


@dataclass(frozen=True)
class Nvidia:
    """What NVML says."""

    devices: tuple[Device, ...] = ()
    """In the order of `CUDA_VISIBLE_DEVICES`, and no others than it names."""
    uuids: tuple[str, ...] = ()
    """Of the devices, in their order: within a container or a job, every first device has the index 0."""
    driver: str | None = None
    cuda: str | None = None
    """Newest CUDA version that the driver supports."""
    sliced: bool = False
    """Whether `CUDA_VISIBLE_DEVICES` names slices of a device (MIG), which `devices` does not describe."""
    problem: str | None = None
    """Why NVML cannot be used here; None when it can."""


def read_nvidia() -> Nvidia:
    """Read the visible devices; a machine without the NVIDIA driver is an answer, not an error."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Nvidia(problem=str(error))
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        value = os.environ.get("CUDA_VISIBLE_DEVICES")
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        visible = select_visible(value, uuids)
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return Nvidia(
            devices=tuple(
                Device(
                    index=index,
                    name=pynvml.nvmlDeviceGetName(handles[index]),
                    uuid=pynvml.nvmlDeviceGetUUID(handles[index]),
                    memory_bytes=_memory_bytes(handles[index]),
                    compute_capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handles[index])),
                )
                for index in visible
            ),
            uuids=tuple(uuids[index] for index in visible),
            driver=pynvml.nvmlSystemGetDriverVersion(),
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
            sliced="MIG-" in (value or ""),
        )
    except pynvml.NVMLError as error:
        return Nvidia(problem=str(error))
    finally:
        pynvml.nvmlShutdown()


def select_visible(value: str | None, uuids: Sequence[str]) -> list[int]:
    """Indices of the devices that `CUDA_VISIBLE_DEVICES` lets a process see, in its order.

    As CUDA reads it: indices or the beginnings of UUIDs, up to the first entry that names no device.

    Args:
        value: The variable's value; None when it is not set, which hides nothing.
        uuids: The UUIDs of all devices, in the order of their indices.
    """
    if value is None:
        return list(range(len(uuids)))
    selected: list[int] = []
    for entry in (part.strip() for part in value.split(",")):
        if entry.isdecimal():
            named = [int(entry)] if int(entry) < len(uuids) else []
        else:
            named = [index for index, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(named) != 1:
            break
        selected += named
    return selected


def named_twice(value: str | None, uuids: Sequence[str] = ()) -> bool:
    """Whether `CUDA_VISIBLE_DEVICES` names a device more than once, for which CUDA shows none at all.

    Args:
        value: The variable's value.
        uuids: The UUIDs of the devices that it was read to name: an index and a UUID may be of the same one.
    """
    entries = [entry.strip() for entry in (value or "").split(",") if entry.strip()]
    return any(len(set(names)) < len(names) for names in (entries, uuids))


def _memory_bytes(handle: object) -> int:
    """Total memory of a device; the machine's where the device has none of its own (NVIDIA GB10)."""
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError_NotSupported:
        return int(psutil.virtual_memory().total)
