import pytest

from bi_experiments.machine.devices import read_nvidia, select_visible

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


def test_this_machine_has_devices_and_a_driver_or_a_reason_why_not() -> None:
    nvidia = read_nvidia()
    if nvidia.problem is None:
        assert nvidia.driver
        assert nvidia.cuda
    else:
        assert not nvidia.devices


def test_hidden_devices_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert read_nvidia().devices == ()
