import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event as EventType
from pathlib import Path

import pytest

from bi_experiments.config.compose import compose
from bi_experiments.errors import MachineError
from bi_experiments.files import try_lock
from bi_experiments.machine.devices import Nvidia, read_nvidia
from bi_experiments.machine.placement import Units, by_core, hold, needed_units, own_devices, placed
from tests.factories import device
from tests.fake_nvml import FakeDevice, FakeNvml
from tests.processes import wait_for

SPAWN = multiprocessing.get_context("spawn")
TWO = Units("core", (0, 1), 1)


def ignore(_: str) -> None:
    """Nobody is told."""


def holder(folder: Path, needed: int, name: str, holding: EventType, release: EventType) -> None:
    with hold(Units("core", (0, 1), needed), folder, name, ignore):
        holding.set()
        release.wait(60)


def start(folder: Path, needed: int, name: str) -> tuple[multiprocessing.process.BaseProcess, EventType, EventType]:
    holding, release = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=holder, args=(folder, needed, name, holding, release))
    process.start()
    return process, holding, release


def test_each_takes_its_own_and_sees_the_others(tmp_path: Path) -> None:
    with hold(TWO, tmp_path, "first", ignore) as first, hold(TWO, tmp_path, "second", ignore) as second:
        assert {*first.units, *second.units} == {0, 1}
        assert first.beside() == ("second",)
        assert second.beside() == ("first",)
    with hold(TWO, tmp_path, "third", ignore) as third:
        assert third.beside() == ()


def test_an_experiment_that_finds_none_free_waits_and_says_so(tmp_path: Path) -> None:
    process, holding, release = start(tmp_path, 2, "large")
    assert holding.wait(60)
    said: list[str] = []

    def waiting(what: str) -> None:
        said.append(what)
        release.set()

    with hold(TWO, tmp_path, "small", waiting) as place:
        assert len(place.units) == 1
    assert said == ["waiting for 1 of 2 CPU cores: 0 free, in use by large"]
    process.join(60)


def test_a_killed_holder_gives_everything_back(tmp_path: Path) -> None:
    process, holding, _ = start(tmp_path, 2, "killed")
    assert holding.wait(60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with hold(Units("core", (0, 1), 2), tmp_path, "next", ignore) as place:
        assert place.units == (0, 1)
    process.join(60)


def test_a_large_one_is_not_passed_by_small_ones(tmp_path: Path) -> None:
    with hold(TWO, tmp_path, "first", ignore):
        large, large_holds, release_large = start(tmp_path, 2, "large")
        wait_for(lambda: "large" in "".join(path.read_text() for path in tmp_path.glob("core-*.lock")), limit_s=60)
        small, small_holds, release_small = start(tmp_path, 1, "small")
        time.sleep(0.5)
        assert not small_holds.is_set()
    assert large_holds.wait(60)
    assert not small_holds.is_set()
    release_large.set()
    assert small_holds.wait(60)
    release_small.set()
    large.join(60)
    small.join(60)


def test_on_gpus_it_needs_a_device_for_each_rank() -> None:
    nvidia = Nvidia(devices=tuple(device(index=index) for index in range(4)))
    config = compose(["tp=2", "pp=2"])
    assert needed_units(config, nvidia, [0]) == Units("device", (0, 1, 2, 3), 4)


def test_on_the_cpu_it_takes_all_cores_by_default() -> None:
    assert needed_units(compose(["experiment=cpu_demo"]), Nvidia(), [4, 5]) == Units("core", (4, 5), 2)
    assert needed_units(compose(["experiment=cpu_demo", "sweep.cores=1"]), Nvidia(), [4, 5]) == Units("core", (4, 5), 1)
    with pytest.raises(MachineError, match="this machine has 2"):
        needed_units(compose(["experiment=cpu_demo", "sweep.cores=3"]), Nvidia(), [4, 5])


@pytest.mark.parametrize("overrides", [["backend.distributed_executor_backend=ray"], []])
def test_nothing_is_taken_where_it_is_not_known_what(overrides: list[str]) -> None:
    devices = (device(),) if overrides else ()
    assert needed_units(compose(overrides), Nvidia(devices=devices), [0]) is None


def test_devices_reach_the_processes_and_only_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(
        "bi_experiments.machine.placement.read_nvidia", lambda: Nvidia(devices=(device(), device(index=1)))
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = compose([])
    with placed(config, "first", ignore) as first, placed(config, "second", ignore) as second:
        assert first is not None
        assert second is not None
        assert os.environ["CUDA_VISIBLE_DEVICES"] == str(second.units[0])
        assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert first.units != second.units
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_two_commands_on_one_device_wait_for_each_other_and_say_for_whom(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nvml: Callable[..., FakeNvml]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("bi_experiments.machine.placement.LONGEST_WAIT_S", 0.0)
    nvml(FakeDevice())
    said: list[str] = []
    with (
        own_devices(compose([]), "first", ignore),
        pytest.raises(MachineError, match=r"1 of 1 devices did not become free .*in use by first"),
        own_devices(compose([]), "second", said.append),
    ):
        pass
    assert said == ["waiting for 1 of 1 devices: 0 free, in use by first"]
    with own_devices(compose(["experiment=cpu_demo"]), "demo", ignore) as place:
        assert place is None


def test_more_devices_than_there_are_is_refused_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nvml: Callable[..., FakeNvml]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    nvml(FakeDevice(), FakeDevice(name="NVIDIA L4"))
    with (
        pytest.raises(MachineError, match=r"2 devices .* are needed, .* sees 1: use"),
        placed(compose(["tp=2"]), "first", ignore),
    ):
        pass


def test_the_experiments_of_a_sweep_run_on_equal_devices(nvml: Callable[..., FakeNvml]) -> None:
    nvml(FakeDevice(), FakeDevice(name="NVIDIA L4"), FakeDevice())
    assert needed_units(compose([]), read_nvidia(), [0]) == Units("device", (0, 2), 1, ("GPU-0", "GPU-2"))


def test_each_experiment_has_a_slice_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nvml: Callable[..., FakeNvml]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    nvml(FakeDevice(slices=(FakeDevice(), FakeDevice())))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-01,MIG-00")
    with placed(compose([]), "first", ignore):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "MIG-01"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "MIG-01,MIG-00"
    units = needed_units(compose([]), read_nvidia(), [0])
    assert units == Units("device", (0, 1), 1, ("MIG-01", "MIG-00"))


def test_cores_reach_the_processes_and_only_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    all_cores = os.sched_getaffinity(0)
    with placed(compose(["experiment=cpu_demo", "sweep.cores=1"]), "one", ignore) as place:
        assert place is not None
        assert os.sched_getaffinity(0) == set(place.units)
        assert len(place.units) == 1
    assert os.sched_getaffinity(0) == all_cores


def test_the_threads_of_one_core_stand_together(tmp_path: Path) -> None:
    for cpu, core in enumerate((0, 1, 0, 1)):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "core_id").write_text(f"{core}\n")
        (topology / "physical_package_id").write_text("0\n")
    assert by_core({0, 1, 2, 3}, tmp_path) == [0, 2, 1, 3]


def test_the_first_devices_of_two_jobs_are_not_one_device(tmp_path: Path) -> None:
    """In a Slurm job or a container every first device has the number 0; the lock folder may be one."""
    one, other = (Units("device", (0,), 1, (uuid,)) for uuid in ("GPU-aaaa", "GPU-bbbb"))
    with hold(one, tmp_path, "one", ignore), hold(other, tmp_path, "other", ignore) as second:
        assert second.beside() == ("one",)


def test_a_job_does_not_queue_behind_another_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with (tmp_path / "devices.queue").open("ab") as queue:
        assert try_lock(queue)
        with hold(Units("device", (0,), 1, ("GPU-aaaa",)), tmp_path, "one", pytest.fail):
            pass


def test_waiting_has_an_end_that_names_what_was_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bi_experiments.machine.placement.LONGEST_WAIT_S", 0.0)
    unit = Units("device", (0,), 1, ("GPU-aaaa",))
    with (
        hold(unit, tmp_path, "the first", ignore),
        pytest.raises(MachineError, match=r"1 of 1 devices .*in use by the first"),
        hold(unit, tmp_path, "the second", ignore),
    ):
        pass
