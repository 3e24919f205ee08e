"""The folder of a sweep: its files by name, with the list of its experiments that grows while it runs."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bi_experiments.errors import ConfigurationError
from bi_experiments.files import lock
from bi_experiments.sweep.records import ExperimentRecord


@dataclass(frozen=True)
class SweepFolder:
    """Files of one sweep; its experiments have folders of their own in it."""

    root: Path

    @property
    def record(self) -> Path:
        """The sweep's command, and when it ran."""
        return self.root / "sweep.json"

    @property
    def experiments(self) -> Path:
        """What became of the experiments, one event a line."""
        return self.root / "experiments.jsonl"

    @property
    def csv(self) -> Path:
        """The summary, one row an experiment."""
        return self.root / "sweep.csv"

    @property
    def html(self) -> Path:
        """The summary as a page."""
        return self.root / "sweep.html"

    @property
    def figures(self) -> Path:
        """The summary's figures."""
        return self.root / "figures"

    @property
    def summary_stamp(self) -> Path:
        """When the summary was last written, and how long that took."""
        return self.root / ".summary.json"

    @property
    def summary_lock(self) -> Path:
        """Held by the process that writes the summary."""
        return self.root / ".summary.lock"

    @property
    def run_id_lock(self) -> Path:
        """Held by the process that asks for the id of the sweep's MLflow run; the others wait for its answer."""
        return self.root / ".run.lock"

    @property
    def mlflow_lock(self) -> Path:
        """Held by the process that makes the sweep's MLflow run or brings it up to date; taken within `run_id_lock`."""
        return self.root / ".mlflow.lock"

    @property
    def running_lock(self) -> Path:
        """Held by the process that the user started, as long as it lives."""
        return self.root / ".running.lock"

    @property
    def replaced(self) -> Path:
        """Results of experiments that had another identity."""
        return self.root / "replaced"

    def append(self, record: ExperimentRecord) -> None:
        """Add a line; one write under a lock, so that it is whole, whichever other process writes."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self.experiments.open("ab+") as file:
            lock(file)
            end = file.seek(0, os.SEEK_END)
            torn = b""  # a process that was killed while it wrote left a part of a line
            if end:
                file.seek(end - 1)
                torn = b"" if file.read(1) == b"\n" else b"\n"
            file.write(torn + msgspec.json.encode(record) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[ExperimentRecord]:
        """The last record of every experiment, by number; a line that a killed process left torn does not count."""
        last: dict[int, ExperimentRecord] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self.experiments.read_bytes().splitlines():
                with contextlib.suppress(msgspec.DecodeError):
                    record = _DECODER.decode(line)
                    last[record.number] = record
        return [last[number] for number in sorted(last)]


def refuse_outside(subdir: str) -> None:
    """Refuse a folder for an experiment that is not in its sweep's.

    Args:
        subdir: `hydra.sweep.subdir`, resolved or not.

    Raises:
        ConfigurationError: It is absolute, or has `..` in it.
    """
    path = Path(subdir)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigurationError(
            f"hydra.sweep.subdir={subdir} leads out of the sweep's folder: use a relative path without .., or move the "
            "sweep with hydra.sweep.dir=FOLDER"
        )


_DECODER = msgspec.json.Decoder(ExperimentRecord)
