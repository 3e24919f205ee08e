"""A stand-in for NVML: devices whose counters go up by a fixed amount whenever they are read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml
import pytest

COUNTED = {
    pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP: "power limit",
    pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN: "temperature",
}


@dataclass(eq=False)
class FakeDevice:
    """One device; None stands for what it does not support."""

    sm_clock_mhz: int | None = 1980
    temperature_c: int | None = 40
    energy_step_mj: int | None = 1000
    """Energy used between two readings."""
    held_step_ns: dict[str, int] = field(default_factory=dict)
    """Time throttled between two readings, by reason; a reason that is missing is not counted."""
    bits: int = 0
    readings: int = 0
    memory_gb: float = 80.0
    held_gb: list[float] = field(default_factory=list)
    """Memory that processes hold, at one look after the other; the last stays."""
    holders: tuple[int, ...] = ()
    """Their process ids."""
    name: str = "NVIDIA H100"
    compute_capability: tuple[int, int] = (9, 0)
    slices: tuple["FakeDevice", ...] | None = None
    """Those of a device in MIG mode; None: it is not."""


class FakeNvml:
    """Takes the place of the functions that are used of `pynvml`."""

    def __init__(self, devices: tuple[FakeDevice, ...]) -> None:
        self.devices = devices
        self.open = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        functions: dict[str, Callable[..., object]] = {
            "nvmlInit": self.init,
            "nvmlShutdown": self.shutdown,
            "nvmlDeviceGetCount": self.count,
            "nvmlDeviceGetHandleByIndex": self.handle,
            "nvmlDeviceGetUUID": self.uuid,
            "nvmlDeviceGetClockInfo": self.clock,
            "nvmlDeviceGetMaxClockInfo": self.highest_clock,
            "nvmlDeviceGetTemperature": self.temperature,
            "nvmlDeviceGetCurrentClocksEventReasons": self.event_reasons,
            "nvmlDeviceGetTotalEnergyConsumption": self.energy,
            "nvmlDeviceGetFieldValues": self.fields,
            "nvmlDeviceGetMemoryInfo": self.memory,
            "nvmlDeviceGetComputeRunningProcesses": self.processes,
            "nvmlDeviceGetMigMode": lambda device: (int(device.slices is not None),) * 2,
            "nvmlDeviceGetMaxMigDeviceCount": lambda device: 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": self.slice,
            "nvmlDeviceGetName": lambda device: device.name,
            "nvmlDeviceGetCudaComputeCapability": lambda device: device.compute_capability,
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
            "nvmlSystemGetDriverVersion": lambda: "580.95",
        }
        for name, function in functions.items():
            monkeypatch.setattr(pynvml, name, function)

    def init(self) -> None:
        self.open += 1

    def shutdown(self) -> None:
        self.open -= 1

    def count(self) -> int:
        return len(self.devices)

    def handle(self, index: int) -> FakeDevice:
        return self.devices[index]

    def uuid(self, device: FakeDevice) -> str:
        if device in self.devices:
            return f"GPU-{self.devices.index(device)}"
        whole, place = next(
            (one, one.slices.index(device)) for one in self.devices if one.slices and device in one.slices
        )
        return f"MIG-{self.devices.index(whole)}{place}"

    def slice(self, device: FakeDevice, place: int) -> FakeDevice:
        if place >= len(device.slices or ()):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        assert device.slices is not None
        return device.slices[place]

    def clock(self, device: FakeDevice, kind: int) -> int:
        assert kind == pynvml.NVML_CLOCK_SM
        return _supported(device.sm_clock_mhz)

    def highest_clock(self, device: FakeDevice, kind: int) -> int:
        assert kind == pynvml.NVML_CLOCK_SM
        return _supported(device.sm_clock_mhz and 1980)

    def temperature(self, device: FakeDevice, sensor: int) -> int:
        return _supported(device.temperature_c)

    def event_reasons(self, device: FakeDevice) -> int:
        return device.bits

    def energy(self, device: FakeDevice) -> int:
        return _supported(device.energy_step_mj) * device.readings

    def memory(self, device: FakeDevice, version: object = None) -> SimpleNamespace:
        held = device.held_gb.pop(0) if len(device.held_gb) > 1 else sum(device.held_gb)
        total, used, reserved = (int(gb * 1e9) for gb in (device.memory_gb, held, 0.5))
        return SimpleNamespace(total=total, free=total - used - reserved, used=used, reserved=reserved)

    def processes(self, device: FakeDevice) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=int(1e9 * device.held_gb[-1])) for pid in device.holders]

    def fields(self, device: FakeDevice, wanted: list[int]) -> list[SimpleNamespace]:
        device.readings += 1
        return [self._field(device, COUNTED.get(number, "")) for number in wanted]

    def _field(self, device: FakeDevice, reason: str) -> SimpleNamespace:
        if reason not in device.held_step_ns:
            return SimpleNamespace(nvmlReturn=pynvml.NVML_ERROR_NOT_SUPPORTED)
        held_ns = device.held_step_ns[reason] * device.readings
        return SimpleNamespace(nvmlReturn=pynvml.NVML_SUCCESS, value=SimpleNamespace(ullVal=held_ns))


def _supported(value: int | None) -> int:
    if value is None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return value
