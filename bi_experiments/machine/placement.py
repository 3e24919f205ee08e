"""Where an experiment runs when several share a machine: devices or CPU cores that it takes by lock, for itself alone.

Each device and each core has a lock file in a folder of this user. A lock belongs to an open file (flock(2)), so the
kernel releases it when its process ends, however that ends. An experiment that finds too few free units waits in a
queue, which is a lock too: only the first in it holds a part of what it needs, and later ones cannot overtake it.
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bi_experiments.config.backends import Platform
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import MachineError
from bi_experiments.files import try_lock
from bi_experiments.machine.devices import Nvidia, equal_to_first, read_nvidia

POLL_S = 0.2
"""How often a waiting experiment looks for free units, in seconds."""
LONGEST_WAIT_S = 24 * 3600.0
"""Longest time that it waits for them, in seconds."""


@dataclass(frozen=True)
class Units:
    """What an experiment needs of its machine."""

    kind: str
    """`device` or `core`."""
    candidates: tuple[int, ...]
    """Numbers of those that this process may use, in order of preference."""
    needed: int
    names: tuple[str, ...] = ()
    """What they are called machine-wide, in the same order; empty: by their numbers."""

    def lock_name(self, unit: int) -> str:
        """Name of the lock file of one of them."""
        name = self.names[self.candidates.index(unit)] if self.names else unit
        return f"{self.kind}-{name}.lock"


class Place:
    """Units that are held.

    Attributes:
        units: Their numbers.

    Args:
        folder: The lock files.
        locks: Names of those that are held.
        units: The units' numbers.
    """

    def __init__(self, folder: Path, locks: Iterable[str], units: Sequence[int]) -> None:
        self._folder = folder
        self._own = set(locks)
        self.units = tuple(units)

    def beside(self) -> tuple[str, ...]:
        """The experiments that hold other units of this machine now, by name."""
        found = set()
        for path in self._folder.glob("*-*.lock"):
            if path.name in self._own:
                continue
            with path.open("rb") as file:
                if not try_lock(file, shared=True):
                    with contextlib.suppress(ValueError, KeyError):
                        found.add(str(json.loads(file.read())["experiment"]))
        return tuple(sorted(found))


def needed_units(config: ExperimentConfig, nvidia: Nvidia, cores: Sequence[int]) -> Units | None:
    """What an experiment takes for itself: `tp * pp` devices, or on the CPU `sweep.cores` cores.

    Args:
        config: The experiment's configuration.
        nvidia: The devices that this process sees.
        cores: The CPUs that this process may run on.

    Returns:
        The units; None where they are not known: a Ray cluster chooses by itself. Of devices only those that are equal
        to the first, so that the experiments of a sweep can be compared.

    Raises:
        MachineError: There are not as many cores.
    """
    if config.backend.platform is Platform.cpu:
        needed = config.sweep.cores or len(cores)
        if not 1 <= needed <= len(cores):
            raise MachineError(f"sweep.cores={needed} is not possible: this machine has {len(cores)}; use at most that")
        return Units("core", tuple(cores), needed)
    if config.backend.distributed_executor_backend == "ray" or not nvidia.devices:
        return None
    equal = equal_to_first(nvidia.devices)
    # Several slices may be of the device of the same number.
    candidates = tuple(place if nvidia.sliced else nvidia.devices[place].index for place in equal)
    names = tuple(nvidia.uuids[place] for place in equal) if nvidia.uuids else ()
    return Units("device", candidates, config.tp * config.pp, names)


@contextlib.contextmanager
def placed(config: ExperimentConfig, experiment: str, waiting: Callable[[str], None]) -> Iterator[Place | None]:
    """Take what an experiment needs of this machine, waiting until it is free, and run on it alone inside the context.

    This process, and so every process that it starts, sees the devices in `CUDA_VISIBLE_DEVICES`, or runs on the cores.

    Args:
        config: The experiment's configuration.
        experiment: Its name, for those that run concurrently.
        waiting: Called with one line when too little is free at once.

    Raises:
        MachineError: The machine has not as many.
    """
    affinity = os.sched_getaffinity(0)
    nvidia = read_nvidia()
    units = needed_units(config, nvidia, by_core(affinity))
    if units is None:
        yield None
        return
    if units.needed > len(units.candidates):
        raise MachineError(
            f"{units.needed} devices (tp * pp) are needed, and of those like the first this process sees "
            f"{len(units.candidates)}: use a smaller tp or pp"
        )
    with hold(units, lock_folder(), experiment, waiting) as place:
        if units.kind == "core":
            os.sched_setaffinity(0, place.units)
            try:
                yield place
            finally:
                os.sched_setaffinity(0, affinity)
        else:
            # NVML counts in the order of the PCI bus; CUDA does so only when set to.
            visible = ",".join(nvidia.uuids[unit] if nvidia.sliced else str(unit) for unit in place.units)
            with _variables({"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}):
                yield place


def own_devices(
    config: ExperimentConfig, experiment: str, waiting: Callable[[str], None]
) -> contextlib.AbstractContextManager[Place | None]:
    """What a single experiment takes: its devices, so that two commands do not share one; on the CPU nothing.

    Args:
        config: The experiment's configuration.
        experiment: Its name, for those that run concurrently.
        waiting: Called with one line when too little is free at once.
    """
    on_devices = config.backend.platform is not Platform.cpu
    return placed(config, experiment, waiting) if on_devices else contextlib.nullcontext()


@contextlib.contextmanager
def hold(units: Units, folder: Path, experiment: str, waiting: Callable[[str], None]) -> Iterator[Place]:
    """Hold as many units as are needed, waiting for them.

    Args:
        units: What is needed.
        folder: The lock files.
        experiment: Name of the experiment that holds them.
        waiting: Called with one line when too little is free at once.
    """
    with contextlib.ExitStack() as held:
        taken: list[int] = []
        deadline = time.monotonic() + LONGEST_WAIT_S
        with (folder / _queue_name(units.kind)).open("ab") as queue:
            at_once = try_lock(queue)
            if not at_once:
                waiting(f"waiting in the queue for {_count(units)}")
                while not try_lock(queue):
                    _sleep(deadline, units, folder)
            while True:
                for unit in units.candidates:
                    if unit not in taken and len(taken) < units.needed:
                        taken += _take(folder / units.lock_name(unit), unit, experiment, held)
                if len(taken) == units.needed:
                    break
                if at_once:
                    users = ", ".join(Place(folder, map(units.lock_name, taken), taken).beside())
                    waiting(
                        f"waiting for {_count(units)}: {len(taken)} free" + (f", in use by {users}" if users else "")
                    )
                    at_once = False
                _sleep(deadline, units, folder)
        held_units = sorted(taken, key=units.candidates.index)
        yield Place(folder, map(units.lock_name, held_units), held_units)


def lock_folder() -> Path:
    """The folder of this user's lock files, in the machine's folder for temporary files; created if it is missing."""
    folder = Path(tempfile.gettempdir()) / f"bi_experiments-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise MachineError(f"{folder} belongs to another user: set TMPDIR to a folder of your own")
    return folder


def by_core(cpus: set[int], system: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """CPUs in such an order that those of one physical core, and of one socket, stand together.

    Args:
        cpus: Numbers as Linux counts them.
        system: Folder in which Linux describes them.
    """

    def position(cpu: int) -> tuple[int, ...]:
        topology = system / f"cpu{cpu}" / "topology"
        try:
            names = "physical_package_id", "core_id"
            return (*(int((topology / name).read_text()) for name in names), cpu)
        except (OSError, ValueError):
            return (0, cpu, cpu)

    return sorted(cpus, key=position)


def _take(path: Path, unit: int, experiment: str, held: contextlib.ExitStack) -> list[int]:
    """Take one unit if it is free, until the stack is left; returns it, or nothing."""
    file = path.open("ab")
    if not try_lock(file):
        file.close()
        return []
    held.enter_context(file)
    file.truncate(0)
    file.write(json.dumps({"experiment": experiment}).encode())
    file.flush()
    return [unit]


def _queue_name(kind: str) -> str:
    """The queue's file: within a Slurm job its own, whose devices no other job can take."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return f"{kind}s{f'-{job}' if job.isalnum() else ''}.queue"


def _sleep(deadline: float, units: Units, folder: Path) -> None:
    """Sleep until it is time to look again.

    Raises:
        MachineError: It has waited for too long.
    """
    if time.monotonic() > deadline:
        users = ", ".join(Place(folder, (), ()).beside()) or "programs that are not listed"
        raise MachineError(
            f"{_count(units)} did not become free within {LONGEST_WAIT_S / 3600:g} h (in use by {users}): "
            "wait for it or stop it, then run this again"
        )
    time.sleep(POLL_S)


def _count(units: Units) -> str:
    return f"{units.needed} of {len(units.candidates)} {'CPU cores' if units.kind == 'core' else 'devices'}"


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
