import os
from collections.abc import Callable

import pytest

from bi_experiments.machine import memory
from bi_experiments.machine.memory import wait_for_memory
from tests.fake_nvml import FakeDevice, FakeNvml


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "POLL_S", 0.0)
    monkeypatch.setattr(memory, "SAY_AFTER_S", 0.0)


def test_memory_that_becomes_free_is_waited_for(nvml: Callable[..., FakeNvml]) -> None:
    device = FakeDevice(held_gb=[60.0, 60.0, 60.0, 1.0], holders=(os.getpid(),))
    said: list[str] = []
    fake = nvml(device)
    wait_for_memory(0.4, 1, said.append)
    assert device.held_gb == [1.0]
    (line,) = said
    assert "device 0 has 19.5 of 79.5 GB free, 31.8 GB are needed" in line
    assert f"process {os.getpid()} (" in line
    assert fake.open == 0


def test_memory_that_stays_held_is_said_and_not_waited_for_for_ever(
    nvml: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LIMIT_S", 0.05)
    said: list[str] = []
    nvml(FakeDevice(held_gb=[60.0], holders=(2**22 + 1,)))
    wait_for_memory(0.4, 1, said.append)
    assert said[-1].startswith("warning: device 0 has")
    assert "of another container or user" in said[-1]


def test_only_the_devices_of_the_phase_are_looked_at(
    nvml: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml(FakeDevice(held_gb=[60.0]), FakeDevice(), FakeDevice(held_gb=[60.0]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    said: list[str] = []
    wait_for_memory(0.4, 1, said.append)
    assert said == []
