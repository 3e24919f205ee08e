from collections.abc import Callable

import pynvml
import pytest

from bi_experiments.machine.devices import read_nvidia, select_visible
from tests.fake_nvml import FakeDevice, FakeNvml

UUIDS = ["GPU-aaaa1111", "GPU-aaaa2222", "GPU-bbbb3333"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("0,7,1", [0]),  # CUDA stops at the first that does not exist
        ("GPU-bbbb", [2]),
        ("GPU-aaaa2222,GPU-bbbb3333", [1, 2]),
        ("GPU-aaaa", []),  # begins two of them
        ("NoDevFiles", []),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(value: str | None, expected: list[int]) -> None:
    assert select_visible(value, UUIDS) == expected


@pytest.mark.parametrize(
    ("visible", "seen"),
    [(None, ["first", "second"]), ("1", ["second"]), ("1,0", ["second", "first"]), ("", []), ("-1", [])],
)
def test_the_devices_that_cuda_shows_are_seen_in_its_order(
    monkeypatch: pytest.MonkeyPatch, nvml: Callable[..., FakeNvml], visible: str | None, seen: list[str]
) -> None:
    fake = nvml(FakeDevice(name="first"), FakeDevice(name="second"))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvidia = read_nvidia()
    assert [device.name for device in nvidia.devices] == seen
    assert (nvidia.driver, nvidia.cuda, nvidia.problem) == ("580.95", "13.0", None)
    assert fake.open == 0


def test_a_machine_without_the_driver_has_no_devices_and_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    nvidia = read_nvidia()
    assert nvidia.devices == ()
    assert nvidia.problem == "NVML Shared Library Not Found"
