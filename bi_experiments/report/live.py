"""What the terminal shows while an experiment runs: the report's lines as they happen, and below them where it is.

The lines are those of `blocks`, in schedule order; `text.render_end` makes the rest.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bi_experiments.launch.progress import Progress
from bi_experiments.paths import OutputFolder, log_tail
from bi_experiments.records import (
    EngineReady,
    Event,
    ExperimentResult,
    PhaseResult,
    PhaseSpec,
    ProbeDone,
    Started,
    TrialDone,
    TwoStages,
    WarmedUp,
)
from bi_experiments.report import blocks
from bi_experiments.wording import LABELS

_COLOURS = (
    (r"(?m)\b(slower|more|violated|violated: .*|not deterministic|not reproducible)$", "red"),
    (r"(?m)\b(holds|equivalent|faster|less)$", "green"),
    (r"(?m)\b(no control|not probed|no interval|inconclusive|withheld)$", "yellow"),
    (r"(?m)^(VIOLATED|Not deterministic):", "bold red"),
    (r"(?m)^Batch invariance holds:", "bold green"),
    (r"(?m)^(No control|Not probed):", "bold yellow"),
    (r"(?m)^(Batch invariance (costs|saves|changes)|What batch invariance costs)\b", "bold"),
    (r"(?m)^(Total time is|One launch an arm)\b", "bold"),
    (r"(?m)^  [a-z ]+(?=: [A-Z])", "bold"),
)
"""What is coloured on a terminal: verdicts at the ends of rows, the words that sentences open with, findings' names."""


def coloured(text: str) -> Text:
    """The report with its verdicts in colour; a console without colours shows it as it is."""
    shown = Text(text)
    for pattern, style in _COLOURS:
        shown.highlight_regex(pattern, style)
    return shown


@contextmanager
def progress_for(
    console: Console, configuration: Mapping[str, Any], command: str = "", folder: OutputFolder | None = None
) -> Iterator[Progress]:
    """The display that fits the console: live on a terminal, plain lines elsewhere. Leaves the terminal as it was.

    Args:
        console: Where to write.
        configuration: The composed configuration, as in the record: it heads the output.
        command: The command line, whose own settings stand before the rest.
        folder: Where the engines' logs are, whose last line is shown while an engine is loading.
    """
    plain = PlainProgress(console, configuration, command)
    if not console.is_terminal or console.is_dumb_terminal:
        yield plain
        return
    with LiveProgress(console, plain, folder=folder) as live:
        yield live


class PlainProgress(Progress):
    """The report's lines as they happen.

    Of two phases that are alive at once, the later one's lines are held back until the earlier one has ended.

    Args:
        console: Where to write.
        configuration: The composed configuration, as in the record.
        command: The command line, whose own settings stand before the rest.
    """

    def __init__(self, console: Console, configuration: Mapping[str, Any], command: str = "") -> None:
        self._console = console
        self._command = command
        self._configuration = configuration
        self._launches = 0
        self._trials = 0
        self._held: dict[int, list[str]] = {}
        """Lines not written yet of each phase that is not fully written, in schedule order."""
        self._ended: set[int] = set()
        self._kv_cache_tokens: dict[int, int] = {}
        """Capacity of each phase's KV cache."""

    def experiment_started(self, name: str, planned_phases: int, trials_per_phase: int) -> None:
        """Write the head."""
        self._launches = planned_phases // 2
        self._trials = trials_per_phase
        self._write(blocks.head(name, self._configuration, self._command))

    def phase_started(self, spec: PhaseSpec) -> None:
        """Write the title of the phase's block."""
        self._held[spec.index] = blocks.phase_heading(spec.index, spec.arm, spec.launch, self._launches)
        self._write_first()

    def event(self, spec: PhaseSpec, event: Event) -> None:
        """Write the line of the event, if it has one."""
        match event:
            case EngineReady():
                self._held[spec.index].append(blocks.init_line(event.init_time_s))
                self._kv_cache_tokens[spec.index] = event.observed.kv_cache_tokens
            case WarmedUp():
                capacity = self._kv_cache_tokens.get(spec.index, 0)
                self._held[spec.index] += blocks.kv_cache_lines(event.kv_cache_needed_tokens, capacity)
                self._held[spec.index] += blocks.order_lines(spec.index, spec.trial_order)
            case TrialDone():
                self._held[spec.index].append(blocks.trial_line(event.trial, self._trials))
            case _:
                return
        self._write_first()

    def phase_ended(self, spec: PhaseSpec, result: PhaseResult) -> None:
        """Write the phase's totals."""
        self._held[spec.index] += blocks.phase_end(result)
        self._ended.add(spec.index)
        self._write_first()

    def first_stage_ended(self, stages: TwoStages) -> None:
        """Write how many pairs there will be."""
        self._launches = stages.pairs
        self._write(blocks.stages_lines(stages))

    def experiment_ended(self, result: ExperimentResult) -> None:
        """Nothing: the comparison follows, from the record."""

    def _write_first(self) -> None:
        """Write what is held of the first phase; when it has ended, of the next one too."""
        while self._held:
            index = min(self._held)
            self._write(self._held[index])
            self._held[index] = []
            if index not in self._ended:
                return
            del self._held[index]

    def _write(self, lines: list[str]) -> None:
        if lines:
            self._console.out("\n".join(lines), highlight=False)
            self._console.file.flush()


@dataclass
class _RunningPhase:
    """Where a phase is."""

    spec: PhaseSpec
    started: float
    steps: int
    """Engine, warm-up, every trial, every composition of the probes."""
    done: int = 0
    doing: str = "starting"


@dataclass
class _Clock:
    """When the experiment and its phases began, and how long the phases took, in seconds of `now`."""

    now: Callable[[], float]
    started: float = 0.0
    first_phase: float = 0.0
    """Of those that count."""
    phases: list[float] = field(default_factory=list)


class LiveProgress(Progress):
    """The lines of `PlainProgress`, and below them a display that is redrawn once a second.

    A context manager: the display is there from the experiment's start to the manager's exit.

    Args:
        console: The terminal.
        lines: Writes the lines to the same terminal, or is silent.
        now: Clock, in seconds.
        folder: Where the engines' logs are; None: nothing is shown of them.
    """

    def __init__(
        self,
        console: Console,
        lines: Progress,
        now: Callable[[], float] = time.monotonic,
        folder: OutputFolder | None = None,
    ) -> None:
        self._lines = lines
        self._folder = folder
        self._clock = _Clock(now)
        self._name = ""
        self._planned = 0
        self._trials = 0
        self._taken_over: int | None = None
        self._running: dict[int, _RunningPhase] = {}
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=1, transient=True, redirect_stdout=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def experiment_started(self, name: str, planned_phases: int, trials_per_phase: int) -> None:
        """Write the head and start the display."""
        self._name, self._planned, self._trials = name, planned_phases, trials_per_phase
        self._clock.started = self._clock.now()
        self._lines.experiment_started(name, planned_phases, trials_per_phase)
        self._live.start(refresh=True)

    def phase_started(self, spec: PhaseSpec) -> None:
        """Show the phase."""
        probes = len(spec.probes.compositions) if spec.probes else 0
        steps = 2 + self._trials + probes
        self._running = {**self._running, spec.index: _RunningPhase(spec, self._clock.now(), steps)}
        self._planned = max(self._planned, spec.index + 1)
        if self._taken_over is None and spec.index >= 0:  # an earlier start has finished those before it
            self._taken_over, self._clock.first_phase = spec.index, self._clock.now()
        self._lines.phase_started(spec)

    def event(self, spec: PhaseSpec, event: Event) -> None:
        """Show what the phase does next."""
        phase = self._running[spec.index]
        match event:
            case Started():
                phase.doing = "loading the engine"
            case EngineReady():
                phase.done, phase.doing = 1, "warming up"
            case WarmedUp():
                phase.done, phase.doing = 2, f"trial 1 of {self._trials}"
            case TrialDone():
                phase.done += 1
                trials = phase.done - 2
                after = "probing" if spec.probes else "ending"
                phase.doing = f"trial {trials + 1} of {self._trials}" if trials < self._trials else after
            case ProbeDone():
                phase.done = min(phase.done + 1, phase.steps)
                phase.doing = "probing"
            case _:
                phase.doing = "ending"
        self._lines.event(spec, event)

    def phase_ended(self, spec: PhaseSpec, result: PhaseResult) -> None:
        """Show the phase's totals above the display."""
        if spec.index >= 0:
            self._clock.phases.append(self._clock.now() - self._running[spec.index].started)
        self._running = {index: phase for index, phase in self._running.items() if index != spec.index}
        self._lines.phase_ended(spec, result)

    def first_stage_ended(self, stages: TwoStages) -> None:
        """Expect the pairs of the second stage too."""
        self._planned = max(self._planned, 2 * stages.pairs)
        self._lines.first_stage_ended(stages)

    def experiment_ended(self, result: ExperimentResult) -> None:
        """Take the display away."""
        self._live.stop()

    def render(self) -> RenderableType:
        """The display: experiment, phases, trials, elapsed and expected time. Called by rich's thread once a second."""
        running = tuple(self._running.values())
        grid = Table.grid(padding=(0, 2))
        for phase in running:
            number = phase.spec.index + 1
            which = f"phase {number} of {self._planned}" if number else "uncounted launch"
            grid.add_row(Text(which, "bold"), LABELS[phase.spec.arm], phase.doing)
        logs = [Text(line, "dim", no_wrap=True, overflow="ellipsis") for one in running if (line := self._log(one))]
        counted = tuple(phase for phase in running if phase.spec.index >= 0)
        done = (self._taken_over or 0) + len(self._clock.phases) + sum(phase.done / phase.steps for phase in counted)
        footer = Table.grid(padding=(0, 2))
        footer.add_row(
            ProgressBar(total=self._planned or 1, completed=done, width=30),
            f"elapsed {_duration(self._clock.now() - self._clock.started)}",
            self._expected(counted),
        )
        return Group(Text(self._name, "dim"), grid, *logs, footer)

    def _log(self, phase: _RunningPhase) -> str:
        """What an engine that is being built said last: it may take minutes."""
        if self._folder is None or phase.done:
            return ""
        return "".join(log_tail(self._folder.phase(phase.spec.index, phase.spec.arm).log, lines=1)[-1:])

    def _expected(self, running: tuple[_RunningPhase, ...]) -> str:
        """The time left, by how long the phases took so far."""
        if not self._clock.phases:
            return "time left: after the first phase"
        now, typical = self._clock.now(), fmean(self._clock.phases)
        ages = sum(min((now - phase.started) / typical, 0.95) for phase in running)
        equivalent = len(self._clock.phases) + ages
        left = (self._planned - (self._taken_over or 0) - equivalent) * (now - self._clock.first_phase) / equivalent
        return f"about {_duration(left)} left"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds: `1:02:03`, `2:03`."""
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
