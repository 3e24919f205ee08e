"""The wait for the memory that an engine is about to take on its devices: one that finds too little fails.

Mostly it is still held by a process that is ending.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil

from bi_experiments.files import SAY_AFTER_S
from bi_experiments.machine.devices import visible_handles

LIMIT_S = 120.0
"""Longest wait, in seconds; then the engine starts anyway, and reports itself what it lacks."""
POLL_S = 0.5

GB = 1e9


def wait_for_memory(share: float, ranks: int, say: Callable[[str], object]) -> None:
    """Wait until a share of the memory of each device that a phase will use is free; without NVML there is no wait.

    Args:
        share: Share of a device's memory, 0 to 1.
        ranks: Devices that the phase uses, the first of those that it sees.
        say: Called with one line when it takes long, and with one when it was in vain.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return
    try:
        _wait(dict(list(visible_handles().items())[:ranks]), share, say)
    except pynvml.NVMLError:
        return  # a device that does not report its memory
    finally:
        pynvml.nvmlShutdown()


def _wait(handles: dict[int, Any], share: float, say: Callable[[str], object]) -> None:
    started, said = time.monotonic(), False
    while short := list(_short(handles, share)):
        waited_s = time.monotonic() - started
        if waited_s > LIMIT_S:
            say(f"warning: {'; '.join(short)}; the engine starts anyway after {LIMIT_S:g} s")
            return
        if waited_s > SAY_AFTER_S and not said:
            said = True
            say(f"waiting for memory: {'; '.join(short)}")
        time.sleep(POLL_S)


def _short(handles: dict[int, Any], share: float) -> Iterator[str]:
    """What is said of each device that has less free memory than that share."""
    for index, handle in handles.items():
        free, usable = _free_and_usable_bytes(handle)
        if free < share * usable:
            yield (
                f"device {index} has {free / GB:.1f} of {usable / GB:.1f} GB free, {share * usable / GB:.1f} GB "
                f"are needed; held by {', '.join(_holders(handle)) or 'a process that is not visible here'}"
            )


def _free_and_usable_bytes(handle: object) -> tuple[int, int]:
    """Free memory of a device, and what processes can have of it."""
    import pynvml

    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return int(memory.free), int(memory.total - memory.reserved)
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_InvalidArgument):  # an older driver
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.free), int(memory.total)


def _holders(handle: object) -> Sequence[str]:
    import pynvml

    try:
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return ()
    return [f"process {one.pid} ({_name(one.pid)}{_size(one.usedGpuMemory)})" for one in processes]


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "of another container or user"


def _size(used_bytes: int | None) -> str:
    return "" if used_bytes is None else f", {used_bytes / GB:.1f} GB"
