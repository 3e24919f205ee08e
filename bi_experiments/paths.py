"""The output folder of an experiment: its files by name, with the reading of its record and logs."""

import argparse
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bi_experiments.errors import ConfigurationError
from bi_experiments.records import Arm, ExperimentResult, RecordError, from_json
from bi_experiments.wording import count

LOG_LINES, LOG_CHARACTERS = 30, 300
"""Lines of an engine's log, and characters of each, that are shown when its phase fails."""
LOG_BYTES = 16 << 20
"""Longest log that is kept, in bytes: its beginning and its end."""


@dataclass(frozen=True)
class PhaseFolder:
    """Files of one phase."""

    root: Path

    @property
    def spec(self) -> Path:
        """What the phase was passed."""
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
    def profile(self) -> Path:
        """Traces of the profiled trial, where there was one."""
        return self.root / "profile"

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
    def identity(self) -> Path:
        """What makes the experiment the one it is: settings and environment."""
        return self.root / "identity.json"

    @property
    def running_lock(self) -> Path:
        """Held by the program that writes into the folder, as long as it lives."""
        return self.root / ".running.lock"

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

    def written_report(self) -> Path | None:
        """The report that is there, the page before the text; None where there is neither."""
        return next((path for path in (self.report_html, self.report_text) if path.is_file()), None)

    @property
    def trials(self) -> Path:
        """Every timed trial as a row."""
        return self.root / "trials.csv"

    @property
    def benchmark(self) -> Path:
        """The numbers that github-action-benchmark draws over the commits."""
        return self.root / "benchmark.json"

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
        """Private compile caches, one folder an arm; kept while there are launches to take over that filled them."""
        return self.root / "caches"

    @property
    def replaced(self) -> Path:
        """What was measured before, of launches that ran again."""
        return self.root / "replaced"

    @property
    def reproduction(self) -> Path:
        """A script that shows a located difference with vLLM alone."""
        return self.root / "repro.py"

    def location_phase(self, level: int) -> PhaseFolder:
        """The folder of the phase that looks for the operator behind a difference, one for each level of compiling."""
        return PhaseFolder(self.root / "location" / f"{level}")

    def phase(self, index: int, arm: Arm) -> PhaseFolder:
        """The folder of the phase at that position of the schedule; below 0: of the uncounted launch."""
        return PhaseFolder(self.root / "phases" / (f"{index:02d}-{arm}" if index >= 0 else f"uncounted-{arm}"))

    def pair_workload(self, pair: int) -> Path:
        """The inputs of the trials of one pair, where every pair has prompts of its own."""
        return self.root / "workloads" / f"{pair:02d}.json"

    @property
    def order(self) -> Path:
        """The seed of the order."""
        return self.root / "order.json"


def folder_argument(text: str) -> Path:
    """The output folder that an argument of a command line names.

    Raises:
        argparse.ArgumentTypeError: It names none.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name is no folder: is a variable of the shell not set?")
    if _is_file(Path(text)):
        raise argparse.ArgumentTypeError(f"{text} is a file: pass the folder that it is in")
    return Path(text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


def with_results(folders: Iterable[Path]) -> tuple[list[Path], str | None]:
    """Those of several folders that have a record, and one line about the others.

    Args:
        folders: As a shell makes them of `outputs/*/*`: also of runs that were refused or killed early.

    Returns:
        The folders, each once by whatever names, and the line; all of them and no line where none has a record, or
        none lacks one.
    """
    places: dict[str, Path] = {}
    for folder in folders:
        places.setdefault(os.path.realpath(folder), folder)  # of a loop of links Path.resolve makes an error
    named = list(places.values())
    without = [folder for folder in named if not _is_file(OutputFolder(folder).result)]
    if not without or len(without) == len(named):
        return named, None
    kept = [folder for folder in named if folder not in without]
    return kept, f"skipped without a result.json: {', '.join(map(str, without))}"


def read_result(folder: Path) -> ExperimentResult:
    """The record in an output folder.

    Raises:
        ConfigurationError: There is none, or it cannot be read.
    """
    path = OutputFolder(folder).result
    try:
        result = from_json(path.read_bytes(), ExperimentResult, path)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigurationError(f"{folder} has no {path.name}: pass the output folder of an experiment") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except RecordError as error:
        raise ConfigurationError(str(error)) from error
    for key in _NEEDED:
        group, _, name = key.partition(".")
        settings = result.configuration.get(group)
        if not isinstance(settings, dict) or settings.get(name) is None:
            raise ConfigurationError(f"{path} has no {key} in its configuration: it is not as it was written")
    measured = Counter(phase.pair for phase in result.phases if phase.trials)
    if result.comparison is not None and result.comparison.pairs and not any(arms > 1 for arms in measured.values()):
        raise ConfigurationError(
            f"{path} compares {count(result.comparison.pairs, 'pair')} and has the trials of none: it is not as it was "
            "written"
        )
    return result


_NEEDED = ("workload.num_trials", "protocol.equivalence_pct", "tracking.uri", "tracking.experiment", "tracking.enabled")
"""Settings that have been in every record, and without which none can be reported or logged."""


def log_tail(log: Path, lines: int = LOG_LINES, characters: int = LOG_CHARACTERS) -> list[str]:
    """The last lines of a log file as a terminal may show them; empty if there is no such file.

    Args:
        log: The file; only its end is read, however long it is.
        lines: Most lines.
        characters: Most characters of each; control characters and colours are left out.
    """
    most = 4 * lines * characters
    try:
        with log.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - most)
            file.seek(start)
            text = file.read(most).decode(errors="replace")
    except OSError:
        return []
    plain = [_CONTROL.sub("", line).rstrip() for line in text.replace("\r", "\n").split("\n")]
    shown = [line if len(line) <= characters else f"{line[: characters - 3]}..." for line in plain if line]
    return shown[-lines:]


_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Escape sequences (ECMA-48) and control characters other than the tab."""


def bound_log(log: Path, most_bytes: int = LOG_BYTES) -> None:
    """Cut the middle out of a log file that is too long to keep and to upload.

    Args:
        log: The file, which no process writes to any more.
        most_bytes: Its longest size.
    """
    try:
        size = log.stat().st_size
        if size <= most_bytes:
            return
        half = most_bytes // 2
        with log.open("r+b") as file:
            file.seek(size - half)
            end = file.read()
            file.seek(half)
            file.write(f"\n[{size - 2 * half} bytes left out]\n".encode() + end)
            file.truncate()
    except OSError:
        return  # a log is not what a phase is for
