import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from bi_experiments.config.compose import compose
from bi_experiments.launch.progress import Progress
from bi_experiments.launch.spec import engine_spec, probe_plan
from bi_experiments.paths import OutputFolder
from bi_experiments.records import (
    Done,
    EngineReady,
    Event,
    ExperimentResult,
    PhaseResult,
    PhaseSpec,
    PhaseStatus,
    Started,
    TrialDone,
    TwoStages,
    WarmedUp,
)
from bi_experiments.report.live import LiveProgress, PlainProgress, coloured, progress_for
from bi_experiments.report.text import render, render_end
from tests import factories
from tests.conftest import as_on_a_terminal

CONFIG = compose(["experiment=cpu_demo", "workload.num_trials=4", "verify=standard"])
CONFIGURATION: dict[str, Any] = msgspec.to_builtins(CONFIG)


def result_of(phases: Sequence[PhaseResult]) -> ExperimentResult:
    return factories.experiment_result(phases, configuration=CONFIGURATION)


def spec_of(phase: PhaseResult) -> PhaseSpec:
    return PhaseSpec(
        project_version="0",
        index=phase.index,
        pair=phase.pair,
        arm=phase.arm,
        launch=phase.launch,
        engine=engine_spec(CONFIG, "demo"),
        workload_path="workload.json",
        workload_digest="d" * 64,
        warmup_batches=1,
        wait_for_turn=False,
        probes=probe_plan(CONFIG),
    )


def events_of(phase: PhaseResult) -> Iterator[Event]:
    """What the phase reported, as far as it came."""
    yield Started(pid=1, project_version="0", versions={})
    if phase.init_time_s is not None and phase.observed is not None:
        yield EngineReady(init_time_s=phase.init_time_s, import_time_s=1.0, observed=phase.observed)
        yield WarmedUp(time_s=1.0, needle_token_ids=())
    for trial in phase.trials:
        yield TrialDone(trial=trial)
    if phase.status is PhaseStatus.OK:
        yield Done(peak_memory_bytes=1, probe_time_s=0.0)


def display(progress: LiveProgress, console: Console) -> str:
    """What stands below the lines."""
    with console.capture() as capture:
        console.print(progress.render())
    return capture.get()


def one_after_the_other(progress: Progress, result: ExperimentResult) -> None:
    stages = result.comparison.stages if result.comparison else None
    progress.experiment_started(result.name, 2 * stages.first_pairs if stages else result.planned_phases, 4)
    for phase in result.phases:
        spec = spec_of(phase)
        progress.phase_started(spec)
        for event in events_of(phase):
            progress.event(spec, event)
        progress.phase_ended(spec, phase)
        if stages is not None and phase.index == 2 * stages.first_pairs - 1:
            progress.first_stage_ended(stages)
    progress.experiment_ended(result)


def by_turns(progress: Progress, result: ExperimentResult) -> None:
    """Both phases of a pair alive, the later one ending first."""
    progress.experiment_started(result.name, result.planned_phases, 4)
    for first, second in zip(result.phases[::2], result.phases[1::2], strict=True):
        progress.phase_started(spec_of(first))
        progress.phase_started(spec_of(second))
        for one, other in zip(events_of(first), events_of(second), strict=True):
            progress.event(spec_of(first), one)
            progress.event(spec_of(second), other)
        progress.phase_ended(spec_of(second), second)
        progress.phase_ended(spec_of(first), first)
    progress.experiment_ended(result)


FAILED = factories.phase(init_time_s=None, trials=(), status=PhaseStatus.FAILED, error="it broke")


@pytest.mark.parametrize(
    ("play", "phases"),
    [
        (one_after_the_other, factories.phases([7.0])),
        (one_after_the_other, factories.phases([7.0, 8.0, 9.0])),
        (by_turns, factories.phases([7.0, 8.0])),
        (one_after_the_other, (FAILED,)),
    ],
    ids=["one pair", "three pairs", "taking turns", "failed"],
)
def test_plain_lines_and_the_comparison_are_the_report(
    play: Callable[[Progress, ExperimentResult], None], phases: Sequence[PhaseResult]
) -> None:
    result = result_of(phases)
    output = io.StringIO()
    play(PlainProgress(Console(file=output), CONFIGURATION, result.command), result)
    assert output.getvalue() + render_end(result) == as_on_a_terminal(render(result))


def test_the_number_of_pairs_is_said_between_the_two_stages() -> None:
    stages = TwoStages(
        first_pairs=2,
        deviation_pct=1.5,
        target_half_width_pct=1.0,
        wanted_pairs=5,
        pairs=3,
        half_width_pct=1.3,
        pair_s=120.0,
    )
    result = result_of(factories.phases([7.0, 8.0, 9.0]))
    result = replace(result, comparison=factories.comparison(stages=stages))
    output = io.StringIO()
    one_after_the_other(PlainProgress(Console(file=output), CONFIGURATION, result.command), result)
    assert output.getvalue() + render_end(result) == as_on_a_terminal(render(result))
    said = " ".join(output.getvalue().partition("PHASE 5")[0].split())
    assert "takes 5 pairs in all. protocol.max_pairs ends it at 3, with about ±1.3 points to be expected" in said
    assert "The second stage is 1 pair, 2 min." in said


def test_plain_lines_come_as_they_happen() -> None:
    output = io.StringIO()
    progress = PlainProgress(Console(file=output), CONFIGURATION)
    phase = factories.phase()
    progress.experiment_started("demo", 2, 4)
    progress.phase_started(spec_of(phase))
    progress.event(spec_of(phase), TrialDone(trial=phase.trials[0]))
    assert output.getvalue().endswith("Trial 1/4: batch_size=8, time=2.00s\n")


def test_a_terminal_gets_the_live_display_and_anything_else_plain_lines() -> None:
    with progress_for(Console(file=io.StringIO(), force_terminal=True), CONFIGURATION) as progress:
        assert isinstance(progress, LiveProgress)
    with progress_for(Console(file=io.StringIO()), CONFIGURATION) as progress:
        assert isinstance(progress, PlainProgress)


def test_the_live_display_leaves_the_report_and_the_cursor_behind() -> None:
    result = result_of(factories.phases([7.0]))
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, color_system=None, width=100)
    with progress_for(console, CONFIGURATION) as progress:
        one_after_the_other(progress, result)
    written = iter(output.getvalue().replace("\r", "\n").splitlines())
    plain = io.StringIO()
    one_after_the_other(PlainProgress(Console(file=plain), CONFIGURATION), result)
    for line in plain.getvalue().splitlines():
        assert any(shown.endswith(line) for shown in written), line
    assert output.getvalue().rindex("\x1b[?25h") > output.getvalue().rindex("\x1b[?25l")


def test_verdicts_are_coloured_on_a_terminal_alone() -> None:
    result = factories.whole_result()
    text = render_end(result)
    plain, colours = io.StringIO(), io.StringIO()
    Console(file=plain).print(coloured(text), soft_wrap=True, end="")
    Console(file=colours, force_terminal=True, color_system="standard").print(coloured(text), soft_wrap=True, end="")
    assert plain.getvalue() == text
    assert "\x1b[31mslower\x1b[0m" in colours.getvalue()


def test_the_last_line_of_the_log_is_shown_while_an_engine_loads(tmp_path: Path) -> None:
    phase = factories.phase()
    folder = OutputFolder(tmp_path)
    log = folder.phase(phase.index, phase.arm).log
    log.parent.mkdir(parents=True)
    log.write_text("starting\nLoading safetensors: 3 of 8\r\n\n")
    console = Console(file=io.StringIO(), width=100)
    progress = LiveProgress(console, PlainProgress(console, CONFIGURATION), folder=folder)
    shown = partial(display, progress, console)

    with progress:
        progress.experiment_started("demo", 2, 4)
        progress.phase_started(spec_of(phase))
        assert "Loading safetensors: 3 of 8" in shown()
        for event in list(events_of(phase))[:2]:
            progress.event(spec_of(phase), event)
        assert "Loading" not in shown()


def test_the_launch_that_does_not_count_and_phases_of_an_earlier_start_are_told_apart() -> None:
    seconds = [0.0]
    console = Console(file=io.StringIO(), width=100)
    progress = LiveProgress(console, PlainProgress(console, CONFIGURATION), now=lambda: seconds[0])
    shown = partial(display, progress, console)

    uncounted = replace(spec_of(factories.phase()), index=-1, pair=-1, launch=-1)
    third, fourth = (replace(spec_of(phase), index=2 + phase.index) for phase in factories.phases([7.0]))
    with progress:
        progress.experiment_started("demo", 4, 4)
        progress.phase_started(uncounted)
        assert "uncounted launch  baseline  starting" in shown()
        seconds[0] = 100.0
        progress.phase_ended(uncounted, factories.phase())
        assert "time left: after the first phase" in shown()
        progress.phase_started(third)
        assert "phase 3 of 4" in shown()
        seconds[0] = 130.0
        progress.phase_ended(third, factories.phase())
        progress.phase_started(fourth)
        seconds[0] = 145.0
        # One and a half of the two phases that are left took 45 s.
        assert "elapsed 2:25  about 0:15 left" in shown()


def test_an_interruption_gives_the_cursor_back() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True)

    def interrupted() -> None:
        with progress_for(console, CONFIGURATION) as progress:
            progress.experiment_started("demo", 2, 4)
            assert "\x1b[?25h" not in output.getvalue()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "\x1b[?25h" in output.getvalue()


def test_the_display_says_where_it_is_and_how_long_it_takes() -> None:
    seconds = [0.0]
    console = Console(file=io.StringIO(), width=100)
    progress = LiveProgress(console, PlainProgress(console, CONFIGURATION), now=lambda: seconds[0])
    shown = partial(display, progress, console)

    first, second = factories.phases([7.0])
    with progress:
        progress.experiment_started("demo CPU_ATTN", 4, 4)
        progress.phase_started(spec_of(first))
        for event in list(events_of(first))[:4]:  # as far as its first trial
            progress.event(spec_of(first), event)
        seconds[0] = 40.0
        assert "demo CPU_ATTN" in shown()
        assert "phase 1 of 4  baseline  trial 2 of 4" in shown()
        assert "elapsed 0:40  time left: after the first phase" in shown()

        seconds[0] = 60.0
        progress.phase_ended(spec_of(first), first)
        progress.phase_started(spec_of(second))
        seconds[0] = 90.0
        assert "phase 2 of 4  batch invariant  starting" in shown()
        # One and a half of four phases in 90 s: two and a half more take 150 s.
        assert "elapsed 1:30  about 2:30 left" in shown()
