"""The file names under an output folder, and the atomic write that all of them go through."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bi_experiments.records import Arm


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or the next start after a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class PhaseFolder:
    """Files of one phase."""

    root: Path

    @property
    def spec(self) -> Path:
        """What the phase was told."""
        return self.root / "spec.json"

    @property
    def events(self) -> Path:
        """What the phase reported, one event a line."""
        return self.root / "events.jsonl"

    @property
    def log(self) -> Path:
        """The engine's stdout and stderr."""
        return self.root / "engine.log"

    @property
    def system_metrics(self) -> Path:
        """CPU, memory and GPUs while it ran, one reading a line; only when the experiment is tracked."""
        return self.root / "system_metrics.jsonl"

    @property
    def result(self) -> Path:
        """What is known of the phase."""
        return self.root / "result.json"


@dataclass(frozen=True)
class OutputFolder:
    """Files of one experiment."""

    root: Path

    @property
    def result(self) -> Path:
        """The experiment's record."""
        return self.root / "result.json"

    @property
    def report_text(self) -> Path:
        """The terminal's report."""
        return self.root / "report.txt"

    @property
    def report_html(self) -> Path:
        """The report as one page."""
        return self.root / "report.html"

    @property
    def report_markdown(self) -> Path:
        """The report in GitHub's markdown."""
        return self.root / "report.md"

    @property
    def figures(self) -> Path:
        """The report's figures, one PNG file each."""
        return self.root / "figures"

    def figure(self, name: str) -> Path:
        """The figure of that name."""
        return self.figures / f"{name}.png"

    @property
    def workload(self) -> Path:
        """The inputs of all trials."""
        return self.root / "workload.json"

    @property
    def caches(self) -> Path:
        """Private compile caches, one folder an arm; removed when the experiment ends."""
        return self.root / "caches"

    def phase(self, index: int, arm: Arm) -> PhaseFolder:
        """The folder of the phase at that position of the schedule."""
        return PhaseFolder(self.root / "phases" / f"{index:02d}-{arm}")
