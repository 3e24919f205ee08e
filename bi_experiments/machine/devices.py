"""The NVIDIA devices that a process started here would see, read through NVML: no torch, no CUDA context."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from bi_experiments.records import Device


@dataclass(frozen=True)
class Nvidia:
    """What NVML says."""

    devices: tuple[Device, ...] = ()
    """In the order of `CUDA_VISIBLE_DEVICES`, and no others than it names; slices of a device (MIG) where it names
    these, of which CUDA shows a process the first."""
    uuids: tuple[str, ...] = ()
    """Of the devices, in their order: within a container or a job, every first device has the index 0."""
    driver: str | None = None
    cuda: str | None = None
    """Newest CUDA version that the driver supports."""
    sliced: bool = False
    """Whether `devices` are slices."""
    mig_devices: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Visible devices that can be used by the slice alone, by index, with the UUIDs of their slices."""
    unknown: str | None = None
    """The first entry of `CUDA_VISIBLE_DEVICES` that names no device, from which on CUDA shows none; None: there is
    none, or it hides all on purpose."""
    problem: str | None = None
    """Why NVML cannot be used here; None when it can."""


def equal_to_first(devices: Sequence[Device]) -> list[int]:
    """Where the devices stand that are of the first one's kind: an experiment runs on those alone."""
    return [place for place, device in enumerate(devices) if device.name == devices[0].name]


def read_nvidia() -> Nvidia:
    """Read the visible devices; a machine without the NVIDIA driver is an answer, not an error."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Nvidia(problem=str(error))
    try:
        handles, uuids = _all_handles()
        value = os.environ.get("CUDA_VISIBLE_DEVICES")
        sliced = (value or "").lstrip().startswith(SLICE)
        if sliced:
            slices = {uuid: (index, one) for index, handle in enumerate(handles) for uuid, one in _slices(handle)}
            chosen = select_visible(value, list(slices))
            uuids, found = list(slices), [list(slices.values())[place] for place in chosen]
        else:
            chosen = select_visible(value, uuids)
            found = [(index, handles[index]) for index in chosen]
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return Nvidia(
            devices=tuple(
                Device(
                    index=index,
                    name=pynvml.nvmlDeviceGetName(handle),
                    uuid=pynvml.nvmlDeviceGetUUID(handle),
                    memory_bytes=_memory_bytes(handle),
                    compute_capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handles[index])),
                )
                for index, handle in found
            ),
            uuids=tuple(uuids[place] for place in chosen),
            driver=pynvml.nvmlSystemGetDriverVersion(),
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
            sliced=sliced,
            mig_devices={} if sliced else dict(_in_mig_mode(found)),
            unknown=_unknown(value, len(chosen)),
        )
    except pynvml.NVMLError as error:
        return Nvidia(problem=str(error))
    finally:
        pynvml.nvmlShutdown()


def visible_handles() -> dict[int, Any]:
    """NVML's handles of the devices that a process started here would see, by index, in the order of that process.

    None are in it for the slices (MIG) that `CUDA_VISIBLE_DEVICES` names.

    Raises:
        NVMLError: NVML, which the caller has initialised, cannot be used.
    """
    handles, uuids = _all_handles()
    return {index: handles[index] for index in select_visible(os.environ.get("CUDA_VISIBLE_DEVICES"), uuids)}


def _all_handles() -> tuple[list[Any], list[str]]:
    """Handles and UUIDs of all devices, in the order of their indices."""
    import pynvml

    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return handles, [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]


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


SLICE = "MIG-"
"""How the UUID of a slice of a device begins."""


def _unknown(value: str | None, shown: int) -> str | None:
    """The entry that names no device, after so many that do; none where all are hidden, as by an empty value or -1."""
    entries = [entry.strip() for entry in (value or "").split(",")]
    hides = len(entries) <= shown or entries[shown] in {"", "-1", "NoDevFiles", "none", "void"}
    return None if hides else entries[shown]


def _slices(handle: object) -> Iterator[tuple[str, Any]]:
    """UUID and handle of every slice of a device."""
    import pynvml

    try:
        most = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except pynvml.NVMLError:  # it has none
        return
    for place in range(most):
        with contextlib.suppress(pynvml.NVMLError):  # none at that place
            one = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
            yield pynvml.nvmlDeviceGetUUID(one), one


def _in_mig_mode(devices: Sequence[tuple[int, Any]]) -> Iterator[tuple[int, tuple[str, ...]]]:
    import pynvml

    for index, handle in devices:
        with contextlib.suppress(pynvml.NVMLError):  # it does not have the mode
            if pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
                yield index, tuple(uuid for uuid, _ in _slices(handle))


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
