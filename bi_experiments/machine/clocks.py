"""What slows the NVIDIA devices while a phase is timed, read through NVML around every trial and never within one.

Clock and temperature are those right after a trial; power and throttled time are differences of NVML's own
counters, so that they cover the whole trial although this module asks nothing while it runs.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from bi_experiments.machine.devices import visible_handles
from bi_experiments.records import ClockReading

REASONS = {
    "power limit": ("nvmlClocksEventReasonSwPowerCap", "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP"),
    "temperature": ("nvmlClocksEventReasonSwThermalSlowdown", "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN"),
    "temperature (hardware)": (
        "nvmlClocksEventReasonHwThermalSlowdown",
        "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
    ),
    "power brake": (
        "nvmlClocksEventReasonHwPowerBrakeSlowdown",
        "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
    ),
}
"""Why a busy device runs below its highest clock: our word, NVML's bit of the moment, NVML's counter in ns."""


@dataclass(frozen=True)
class Counters:
    """Counters of one device at one moment."""

    at_s: float
    """Monotonic clock."""
    energy_mj: int | None = None
    """Energy used since the driver was loaded, in millijoules; None where the device does not count it."""
    throttled_ns: dict[str, int] = field(default_factory=dict)
    """Time throttled so far for each reason that the device counts, in nanoseconds."""


class ClockReader:
    """A context manager that reads the devices that a phase sees; without NVML it reads nothing.

    Args:
        enabled: Whether the phases run on NVIDIA devices.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._handles: dict[int, Any] = {}
        self._initialised = False

    def __enter__(self) -> Self:
        if not self._enabled:
            return self
        import pynvml

        try:
            pynvml.nvmlInit()
            self._initialised = True
            self._handles = visible_handles()
        except pynvml.NVMLError:
            pass  # preflight reports it where it matters
        return self

    def __exit__(self, *_: object) -> None:
        if self._initialised:
            import pynvml

            pynvml.nvmlShutdown()

    def counters(self) -> dict[int, Counters]:
        """Counters of every device, by its index."""
        return {
            index: Counters(time.monotonic(), _energy_mj(handle), _throttled_ns(handle))
            for index, handle in self._handles.items()
        }

    def readings(self, trial: int, before: dict[int, Counters]) -> tuple[ClockReading, ...]:
        """What a trial that has just ended did to the devices.

        Args:
            trial: Index of the trial.
            before: Counters as they were before it.
        """
        import pynvml

        after = self.counters()
        return tuple(
            ClockReading(
                trial=trial,
                device=index,
                sm_clock_mhz=_ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
                highest_sm_clock_mhz=_ask(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM),
                temperature_c=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
                power_w=_mean_power_w(before[index], after[index]),
                reasons=_reasons(handle),
                throttled_s={
                    reason: max(0, held - before[index].throttled_ns[reason]) / 1e9
                    for reason, held in after[index].throttled_ns.items()
                    if reason in before[index].throttled_ns
                },
            )
            for index, handle in (self._handles.items() if before else ())
        )


def _ask(function: Callable[..., Any], *arguments: object) -> int | None:
    """What NVML answers; None where the device or the driver does not know it."""
    import pynvml

    try:
        return int(function(*arguments))
    except pynvml.NVMLError:
        return None


def _energy_mj(handle: object) -> int | None:
    import pynvml

    return _ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)


def _mean_power_w(before: Counters, after: Counters) -> float | None:
    if before.energy_mj is None or after.energy_mj is None or after.at_s <= before.at_s:
        return None
    return (after.energy_mj - before.energy_mj) / 1000 / (after.at_s - before.at_s)


def _reasons(handle: object) -> tuple[str, ...]:
    import pynvml

    active = _ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle) or 0
    return tuple(reason for reason, (bit, _) in REASONS.items() if active & getattr(pynvml, bit))


def _throttled_ns(handle: object) -> dict[str, int]:
    import pynvml

    try:
        values: Sequence[Any] = pynvml.nvmlDeviceGetFieldValues(
            handle, [getattr(pynvml, counter) for _, counter in REASONS.values()]
        )
    except pynvml.NVMLError:
        return {}
    return {
        reason: int(value.value.ullVal)
        for reason, value in zip(REASONS, values, strict=True)
        if value.nvmlReturn == pynvml.NVML_SUCCESS
    }
