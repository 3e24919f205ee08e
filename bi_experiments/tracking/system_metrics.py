"""CPU, memory and GPUs of the machine while phases run, as MLflow's own system metrics monitors read them.

MLflow's monitor would log to the tracking server concurrently with the timed trials. Here its collectors are read every
few seconds, the readings are kept until no phase runs, then written to the phases' folders and logged from there.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bi_experiments.files import write_atomically
from bi_experiments.paths import OutputFolder
from bi_experiments.records import PhaseResult, Record, RecordError
from bi_experiments.signals import held_back
from bi_experiments.tracking.store import mlflow_settings

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

INTERVAL_S = 5.0
"""Between two readings, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise."""


class Reading(Record, frozen=True, kw_only=True):
    """What the monitors said at one moment."""

    time: float
    """Unix time in seconds."""
    values: dict[str, float]
    """By MLflow's names, which have the units."""


@contextlib.contextmanager
def readings(enabled: bool) -> Iterator[list[Reading]]:
    """Read the monitors in a thread that sleeps in between, for as long as the context lasts.

    Args:
        enabled: Whether to; without, nothing is imported and the list stays empty.

    Yields:
        The list that the readings are added to.
    """
    taken: list[Reading] = []
    if not enabled:
        yield taken
        return
    read_by = monitors()
    interval_s = _interval_s()
    over = threading.Event()

    def follow() -> None:
        while not over.wait(interval_s):
            taken.append(read(read_by))

    read(read_by)  # the CPU's share is of the time since the reading before
    thread = threading.Thread(target=follow, name="system metrics", daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def read(read_by: Sequence["BaseMetricsMonitor"]) -> Reading:
    """Read all monitors once."""
    values: dict[str, float] = {}
    for monitor in read_by:
        monitor.collect_metrics()
        values |= monitor.aggregate_metrics()
        monitor.clear_metrics()
    return Reading(time=time.time(), values=values)


def write(taken: Sequence[Reading], folder: OutputFolder, phases: Iterable[PhaseResult]) -> None:
    """Write to each phase's folder what was read while it ran, one reading a line; no file where there is none."""
    encoder = msgspec.json.Encoder()
    for phase in phases:
        end = phase.started_at + phase.wall_time_s
        own = [reading for reading in taken if phase.started_at <= reading.time <= end]
        if own:
            write_atomically(folder.phase(phase.index, phase.arm).system_metrics, encoder.encode_lines(own))


def stored(path: Path) -> list[Reading]:
    """The readings of one phase; none when there is no such file.

    Raises:
        RecordError: The file holds something else.
    """
    try:
        return msgspec.json.Decoder(Reading).decode_lines(path.read_bytes())
    except FileNotFoundError:
        return []
    except msgspec.DecodeError as error:
        raise RecordError(f"{path}: not readings of system metrics: {error}") from error


def monitors() -> "list[BaseMetricsMonitor]":
    """MLflow's monitors of the CPU, the memory and, where there are any, NVIDIA's GPUs."""
    with mlflow_settings(), held_back():  # what was imported by half cannot be imported again
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        found: list[BaseMetricsMonitor] = [CPUMonitor()]
        with contextlib.suppress(RuntimeError):  # there is no NVIDIA driver
            found.append(GPUMonitor())
    return found


def _interval_s() -> float:
    from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL

    return float(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL_S)
