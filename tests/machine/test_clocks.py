from collections.abc import Callable

import pynvml
import pytest

from bi_experiments.machine.clocks import ClockReader
from tests.fake_nvml import FakeDevice, FakeNvml


def test_a_reading_says_clock_temperature_power_and_what_held_the_device_back(nvml: Callable[..., FakeNvml]) -> None:
    fake = nvml(
        FakeDevice(
            sm_clock_mhz=1410,
            temperature_c=71,
            energy_step_mj=350_000,
            held_step_ns={"power limit": 1_500_000_000},
            bits=pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonGpuIdle,
        )
    )
    with ClockReader(enabled=True) as clocks:
        (reading,) = clocks.readings(3, clocks.counters())
        assert fake.open == 1
    assert fake.open == 0
    assert (reading.trial, reading.device, reading.sm_clock_mhz, reading.temperature_c) == (3, 0, 1410, 71)
    assert reading.highest_sm_clock_mhz == 1980
    assert reading.reasons == ("power limit",)  # an idle device is not a slowed one
    assert reading.throttled_s == {"power limit": 1.5}
    assert reading.power_w is not None
    assert reading.power_w > 0


def test_what_a_device_does_not_support_is_left_out(nvml: Callable[..., FakeNvml]) -> None:
    nvml(FakeDevice(sm_clock_mhz=None, temperature_c=None, energy_step_mj=None))
    with ClockReader(enabled=True) as clocks:
        (reading,) = clocks.readings(0, clocks.counters())
    assert (reading.sm_clock_mhz, reading.temperature_c, reading.power_w) == (None, None, None)
    assert reading.reasons == ()
    assert reading.throttled_s == {}


def test_only_visible_devices_are_read(nvml: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch) -> None:
    nvml(FakeDevice(sm_clock_mhz=1), FakeDevice(sm_clock_mhz=2), FakeDevice(sm_clock_mhz=3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    with ClockReader(enabled=True) as clocks:
        readings = clocks.readings(0, clocks.counters())
    assert [(reading.device, reading.sm_clock_mhz) for reading in readings] == [(2, 3), (0, 1)]


def test_nothing_is_read_of_devices_that_the_phases_do_not_use(nvml: Callable[..., FakeNvml]) -> None:
    fake = nvml(FakeDevice())
    with ClockReader(enabled=False) as clocks:
        assert clocks.readings(0, clocks.counters()) == ()
    assert fake.devices[0].readings == 0


def test_a_machine_without_nvml_is_measured_without_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    with ClockReader(enabled=True) as clocks:
        assert clocks.readings(0, clocks.counters()) == ()
