import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.outcome import exit_code
from bi_experiments.config.compose import compose
from bi_experiments.config.plain import recorded_configuration
from bi_experiments.errors import ExitCode, PhaseError
from bi_experiments.experiment import busy_s, experiment_name, run_experiment, run_single_phase, workload_of_pair
from bi_experiments.launch.progress import NoProgress
from bi_experiments.machine.placement import Place
from bi_experiments.paths import OutputFolder
from bi_experiments.records import (
    Arm,
    Event,
    ExperimentResult,
    Location,
    PhaseResult,
    PhaseSpec,
    PhaseStatus,
    TrialDone,
    TwoStages,
    from_json,
    to_json,
)
from bi_experiments.report.method import method
from bi_experiments.tracking.runs import of_experiment
from bi_experiments.workload import build_workload
from tests import factories
from tests.test_locate import probe as differing


@pytest.fixture
def run(tmp_path: Path, fake_python: Path, monkeypatch: pytest.MonkeyPatch) -> "Run":
    return Run(tmp_path, fake_python, monkeypatch)


class Run:
    """Runs an experiment on phases without an engine."""

    def __init__(self, tmp_path: Path, fake_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = OutputFolder(tmp_path / "out")
        self._python = fake_python
        self._monkeypatch = monkeypatch

    def overrides(self, *more: str) -> list[str]:
        return [
            "experiment=cpu_demo",
            f"runtime.python={self._python}",
            "workload.num_trials=2",
            "workload.max_batch_size=2",
            "verify=off",
            *more,
        ]

    def __call__(
        self,
        *more: str,
        behaviour: dict[Arm, str] | None = None,
        progress: NoProgress | None = None,
        resumable: bool = False,
        place: Place | None = None,
        pages: bool = False,
    ) -> ExperimentResult:
        self._monkeypatch.setenv("FAKE_PHASE", json.dumps(behaviour or {}))
        config = compose(self.overrides(*more))
        progress = progress or NoProgress()
        return run_experiment(
            config,
            self.folder,
            "python -m bi_experiments",
            progress,
            resumable=resumable,
            place=place,
            pages_from_s=0.0 if pages else math.inf,
        )


def test_an_experiment_runs_its_pairs_and_compares_them(run: Run) -> None:
    result = run("protocol.pairs=2")
    assert result.stopped is None
    assert [phase.status for phase in result.phases] == [PhaseStatus.OK] * 4
    assert result.comparison is not None
    assert result.comparison.pairs == 2
    trial_time = result.comparison.metric("trial_time")
    assert trial_time is not None
    assert trial_time.change_pct == pytest.approx(10.05, abs=0.01)


def test_what_is_on_disk_is_what_was_found(run: Run) -> None:
    result = run("protocol.pairs=1", pages=True)
    assert from_json(run.folder.result.read_bytes(), ExperimentResult, run.folder.result) == result
    assert "COMPARISON" in run.folder.report_text.read_text()
    for report in (run.folder.report_html, run.folder.report_markdown):
        assert result.name.split()[0] in report.read_text()
    assert run.folder.figure("trial_times").exists()
    for phase in result.phases:
        files = {path.name for path in run.folder.phase(phase.index, phase.arm).root.iterdir()}
        assert files == {"spec.json", "events.jsonl", "engine.log", "result.json"}
    assert not run.folder.caches.exists()


def test_a_figure_that_cannot_be_drawn_costs_one_line_and_no_result(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("bi_experiments.report.figures.experiment.draw", broken)
    result = run("protocol.pairs=1", pages=True)
    assert from_json(run.folder.result.read_bytes(), ExperimentResult, run.folder.result) == result
    assert "COMPARISON" in run.folder.report_text.read_text()
    warning = capsys.readouterr().err
    assert warning.startswith("warning: the figures and pages could not be written: RuntimeError: no fonts; ")
    assert warning.endswith(f"python -m bi_experiments.report {run.folder.root}\n")
    assert warning.count("\n") == 1


def test_every_phase_reads_the_same_workload(run: Run) -> None:
    result = run("protocol.pairs=2")
    specs = [run.folder.phase(phase.index, phase.arm).spec for phase in result.phases]
    digests = {from_json(path.read_bytes(), PhaseSpec, path).workload_digest for path in specs}
    assert digests == {result.workload_digest}


def test_a_failed_phase_leaves_the_others_result_and_ends_the_experiment(run: Run) -> None:
    result = run("protocol.pairs=3", "protocol.order=baseline_first", behaviour={Arm.BATCH_INVARIANT: "fails"})
    assert [phase.status for phase in result.phases] == [PhaseStatus.OK, PhaseStatus.FAILED]
    assert result.stopped is not None
    assert "RuntimeError: it broke" in result.stopped
    assert result.comparison is None
    assert len(result.phases[0].trials) == 2


def test_a_failure_of_the_first_phase_still_lets_the_second_run(run: Run) -> None:
    result = run("protocol.order=baseline_first", behaviour={Arm.BASELINE: "dies"})
    assert [phase.status for phase in result.phases] == [PhaseStatus.FAILED, PhaseStatus.OK]


def test_an_interruption_reports_the_complete_pairs(run: Run) -> None:
    result = run("protocol.pairs=3", progress=InterruptInPair(1))
    assert result.stopped == "it was interrupted"
    assert result.comparison is not None
    assert result.comparison.pairs == 1
    assert result.phases[-1].status is PhaseStatus.INTERRUPTED
    assert result.planned_phases == 6


def test_an_interruption_between_two_pairs_is_one_too(run: Run) -> None:
    result = run("protocol.pairs=3", progress=InterruptAfterPhases(2))
    assert [phase.status for phase in result.phases] == [PhaseStatus.OK] * 2
    assert result.stopped == "it was interrupted"
    assert exit_code(result, compose(["experiment=cpu_demo"])) is ExitCode.INTERRUPTED
    assert of_experiment(result).status == "KILLED"


class InterruptAfterPhases(NoProgress):
    """Presses Ctrl-C when that many phases have ended."""

    def __init__(self, number: int) -> None:
        self._left = number

    def phase_ended(self, spec: PhaseSpec, result: PhaseResult) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


class InterruptInPair(NoProgress):
    """Presses Ctrl-C in the first trial of a pair."""

    def __init__(self, pair: int) -> None:
        self._pair = pair

    def event(self, spec: PhaseSpec, event: Event) -> None:
        if spec.pair == self._pair and isinstance(event, TrialDone):
            raise KeyboardInterrupt


def test_the_time_budget_ends_the_experiment_after_whole_pairs(run: Run) -> None:
    result = run("protocol.pairs=50", "protocol.time_budget_min=0.01")
    assert result.stopped is not None
    assert "time budget of 0.01 min" in result.stopped
    assert result.comparison is not None
    assert len(result.phases) == 2 * result.comparison.pairs
    assert len(result.phases) < 100


def test_pairs_are_added_until_the_interval_is_narrow_enough(run: Run) -> None:
    result = run("protocol.pairs=2", "protocol.target_half_width_pct=1", "protocol.max_pairs=5")
    assert result.comparison is not None
    assert result.comparison.sequential
    assert result.comparison.pairs == 2


class SecondStage(NoProgress):
    """Keeps what is said at the end of the first stage, and how many phases had ended by then."""

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self._ended = 0
        self.said: list[tuple[int, TwoStages]] = []
        self.recorded: list[int] = []

    def phase_started(self, spec: PhaseSpec) -> None:
        if self.said:
            record = from_json(self._folder.result.read_bytes(), ExperimentResult, self._folder.result)
            self.recorded.append(record.planned_phases)

    def phase_ended(self, *_: object) -> None:
        self._ended += 1

    def first_stage_ended(self, stages: TwoStages) -> None:
        self.said.append((self._ended, stages))


def test_pairs_are_added_up_to_the_cap_and_how_many_is_said_once_the_first_stage_is_over(run: Run) -> None:
    progress = SecondStage(run.folder)
    result = run("protocol.pairs=2", "protocol.target_half_width_pct=1e-12", "protocol.max_pairs=4", progress=progress)
    assert result.comparison is not None
    assert result.comparison.pairs == 4
    ((ended, stages),) = progress.said
    assert ended == 4
    assert (stages.first_pairs, stages.pairs) == (2, 4)
    assert stages.wanted_pairs > 1000
    assert stages == result.comparison.stages
    assert set(progress.recorded) == {8} == {result.planned_phases}
    report = " ".join(run.folder.report_text.read_text().split())
    assert "First stage over" in report.partition("PHASE 5")[0]
    assert "protocol.max_pairs ends it at 4" in report
    assert "PHASE 4: " in report.partition("First stage over")[0]


def test_a_first_stage_that_is_enough_says_so(run: Run) -> None:
    progress = SecondStage(run.folder)
    run("protocol.pairs=2", "protocol.target_half_width_pct=50", "protocol.max_pairs=2", progress=progress)
    ((_, stages),) = progress.said
    assert stages.wanted_pairs == stages.pairs == 2
    assert "nothing more is run" in " ".join(run.folder.report_text.read_text().split())


def test_taking_turns_gives_the_same_record_and_never_times_two_at_once(run: Run) -> None:
    result = run("protocol.pairs=2", "protocol.interleave=trial", "workload.num_trials=4")
    assert [phase.status for phase in result.phases] == [PhaseStatus.OK] * 4
    for pair in range(2):
        spans = sorted(
            (trial.started_at, trial.started_at + trial.time_s)
            for phase in result.phases
            if phase.pair == pair
            for trial in phase.trials
        )
        assert len(spans) == 8
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_taking_turns_continues_with_one_phase_when_the_other_fails(run: Run) -> None:
    result = run("protocol.interleave=trial", "workload.num_trials=3", behaviour={Arm.BASELINE: "fails"})
    by_arm = {phase.arm: phase for phase in result.phases}
    assert by_arm[Arm.BASELINE].status is PhaseStatus.FAILED
    assert by_arm[Arm.BATCH_INVARIANT].status is PhaseStatus.OK
    assert len(by_arm[Arm.BATCH_INVARIANT].trials) == 3


def specs(run: Run, result: ExperimentResult) -> list[PhaseSpec]:
    """What the phases were passed, in the order of the schedule."""
    files = [run.folder.phase(phase.index, phase.arm).spec for phase in result.phases]
    return [from_json(file.read_bytes(), PhaseSpec, file) for file in files]


def test_the_order_is_the_experiments_own_and_its_record_repeats_it(run: Run) -> None:
    first = run("protocol.pairs=4", "workload.num_trials=4")
    orders = [spec.trial_order for spec in specs(run, first)]
    assert orders[::2] == orders[1::2]  # the same within a pair
    assert len(set(orders)) > 1
    assert first.order_seed is not None
    again = run("protocol.pairs=4", "workload.num_trials=4", f"protocol.seed={first.order_seed}")
    assert [phase.arm for phase in again.phases] == [phase.arm for phase in first.phases]
    assert [spec.trial_order for spec in specs(run, again)] == orders


def test_a_launch_before_the_others_counts_nowhere(run: Run) -> None:
    result = run("protocol.pairs=2", "protocol.discard_first=true")
    assert result.discarded is not None
    assert result.discarded.arm is Arm.BASELINE
    assert [phase.index for phase in result.phases] == [0, 1, 2, 3]
    assert result.planned_phases == 4
    assert "UNCOUNTED" in run.folder.report_text.read_text()


def test_a_launch_before_the_others_that_fails_ends_the_experiment(run: Run) -> None:
    result = run("protocol.pairs=2", "protocol.discard_first=true", behaviour={Arm.BASELINE: "fails"})
    assert result.phases == ()
    assert result.stopped is not None
    assert "the uncounted launch failed" in result.stopped


def test_launches_share_new_caches_as_often_as_asked(run: Run) -> None:
    result = run("protocol.pairs=4", "protocol.caches=fresh", "protocol.launches_per_cache=2")
    assert result.comparison is not None
    names = {metric.name: metric.pairs for metric in result.comparison.metrics}
    assert (names["init_time_cold"], names["init_time_warm"]) == (2, 2)
    assert result.comparison.sentence.endswith("4 pairs, every 2 launches of an arm with compile caches of their own.")


def test_fresh_prompts_are_the_same_within_a_pair_only(run: Run) -> None:
    result = run("protocol.pairs=3", "workload.fresh_prompts=true", "workload.max_batch_size=8")
    digests = [spec.trials_digest for spec in specs(run, result)]
    assert digests[::2] == digests[1::2]
    assert len(set(digests)) == 3


def test_with_fresh_prompts_every_launch_proves_what_the_first_pair_timed(run: Run) -> None:
    result = run("protocol.pairs=2", "protocol.discard_first=true", "workload.fresh_prompts=true")
    first, *_ = specs(run, result)
    assert {spec.workload_digest for spec in specs(run, result)} == {first.trials_digest} == {result.workload_digest}
    assert run.folder.workload.read_bytes() == run.folder.pair_workload(0).read_bytes()
    assert f"of the first pair's {result.workload_digest[:12]}" in dict(method(result))["trials"]


def test_the_same_prompts_in_all_pairs_are_those_of_the_seed(run: Run) -> None:
    config = compose(run.overrides("seed=5"))
    assert workload_of_pair(config, 0) == workload_of_pair(config, 1) == build_workload(config.workload, 5)


def test_a_slow_down_on_purpose_is_the_second_arms_alone(run: Run) -> None:
    result = run("protocol.pairs=2", "protocol.inject_pct=5")
    assert {(spec.arm, spec.inject_pct) for spec in specs(run, result)} == {
        (Arm.BASELINE, 0.0),
        (Arm.BATCH_INVARIANT, 5.0),
    }
    assert result.comparison is not None
    assert result.comparison.findings[0].kind == "injected"


def test_control_compares_two_baselines(run: Run) -> None:
    result = run("protocol=control", "protocol.pairs=2")
    assert {phase.arm for phase in result.phases} == {Arm.BASELINE, Arm.CONTROL}
    assert result.comparison is not None
    assert result.comparison.sentence.startswith("Two baselines differ by ")


def test_a_single_phase_returns_its_result(run: Run) -> None:
    phase = run_single_phase(compose(run.overrides()), Arm.BATCH_INVARIANT)
    assert phase.arm is Arm.BATCH_INVARIANT
    assert len(phase.trials) == 2


def test_a_single_phase_that_fails_shows_its_log(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PHASE", json.dumps({Arm.BASELINE: "fails"}))
    with pytest.raises(PhaseError, match="it broke\nline that explains the failure"):
        run_single_phase(compose(run.overrides()), Arm.BASELINE)


def test_the_name_says_model_backend_parallelism_and_workload() -> None:
    assert experiment_name(compose([])) == "qwen3-1.7b FLASH_ATTN tp1 needle"
    assert experiment_name(compose(["backend=auto", "tp=2"])) == "qwen3-1.7b auto tp2 needle"


def test_the_record_has_no_password(run: Run) -> None:
    config = compose(run.overrides("tracking=server"))
    config.tracking.uri = "http://ada:secret@host:5000"  # as MLFLOW_TRACKING_URI has it
    assert "secret" not in json.dumps(recorded_configuration(config))


# --- Resuming an experiment ----------------------------------------------------------------------------------------


def resumed(run: Run, *more: str, behaviour: dict[Arm, str] | None = None) -> ExperimentResult:
    return run(*more, behaviour=behaviour, resumable=True)


def starts(result: ExperimentResult) -> dict[int, float]:
    return {phase.index: phase.started_at for phase in result.phases if phase.status is PhaseStatus.OK}


def test_finished_phases_are_taken_over(run: Run) -> None:
    first = resumed(
        run, "protocol.interleave=launch", "protocol.order=baseline_first", behaviour={Arm.BATCH_INVARIANT: "fails"}
    )
    assert first.stopped is not None
    second = resumed(run, "protocol.interleave=launch", "protocol.order=baseline_first")
    assert second.stopped is None
    assert second.comparison is not None
    assert second.comparison.pairs == 4
    assert starts(second).items() >= starts(first).items()
    assert second.started_at == first.started_at
    assert not run.folder.caches.exists()


@pytest.mark.parametrize("announced", [True, False])  # whether the first start was to be resumed
@pytest.mark.parametrize("interleave", ["launch", "trial"])
def test_after_an_interruption_whole_pairs_are_taken_over_and_the_half_done_one_runs_again(
    run: Run, interleave: str, announced: bool
) -> None:
    arguments = f"protocol.interleave={interleave}", "protocol.pairs=3", "protocol.caches=private", "protocol.seed=0"
    first = run(*arguments, progress=InterruptInPair(1), resumable=announced)
    assert first.stopped == "it was interrupted"
    assert run.folder.caches.is_dir()
    whole = {index: at for index, at in starts(first).items() if index < 2}
    assert len(whole) == 2
    second = resumed(run, *arguments)
    assert second.stopped is None
    assert [phase.index for phase in second.phases] == list(range(6))
    assert {index: at for index, at in starts(second).items() if index < 2} == whole
    assert second.taken_over == len(starts(first))
    assert not run.folder.caches.exists()
    assert second.comparison is not None
    assert second.comparison.pairs == 3
    assert dict(method(second))["resumed"] == f"{len(starts(first))} launches of an earlier start, taken over and " + (
        "not run again"
    )
    assert [phase.launch for phase in second.phases if phase.init_time_s == 2.0] == [0, 0]  # none is cold again


def test_phases_that_were_alive_together_count_once() -> None:
    first, second, third = (factories.phase(started_at=at, wall_time_s=10.0) for at in (100.0, 104.0, 200.0))
    inside = factories.phase(started_at=105.0, wall_time_s=1.0)
    assert busy_s([third, second, inside, first]) == 14.0 + 10.0
    assert busy_s([]) == 0.0


def test_a_phase_that_was_passed_something_else_is_not_taken_over(run: Run) -> None:
    first = resumed(
        run, "protocol.interleave=launch", "protocol.order=baseline_first", behaviour={Arm.BATCH_INVARIANT: "fails"}
    )
    second = resumed(run, "protocol.interleave=launch", "protocol.order=baseline_first", "workload.max_tokens=65")
    assert not starts(second).items() & starts(first).items()


COLD_FIRST = "protocol.caches=private", "protocol.interleave=launch", "protocol.order=baseline_first"


def test_without_its_caches_a_launch_is_not_taken_over_since_the_next_would_be_cold(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    first = resumed(run, *COLD_FIRST, behaviour={Arm.BATCH_INVARIANT: "fails"})
    shutil.rmtree(run.folder.caches)
    second = resumed(run, *COLD_FIRST)
    assert not starts(second).items() & starts(first).items()
    assert second.taken_over == 0
    assert "are gone: 1 finished launch will run again" in capsys.readouterr().err
    (kept,) = run.folder.replaced.iterdir()
    assert from_json((kept / "result.json").read_bytes(), ExperimentResult, kept) == first
    assert (kept / "00-baseline" / "result.json").exists()


def test_a_launch_that_took_turns_with_one_whose_caches_are_gone_is_set_aside_too(run: Run) -> None:
    settings = "protocol.caches=private", "protocol.interleave=trial", "protocol.pairs=2"
    run(*settings, progress=InterruptInPair(1))
    shutil.rmtree(run.folder.caches / Arm.BASELINE)
    assert resumed(run, *settings).taken_over == 0
    (kept,) = run.folder.replaced.iterdir()
    assert {path.name[2:] for path in kept.iterdir() if path.is_dir()} == {"-baseline", "-batch_invariant"}


def test_a_launch_of_caches_that_are_gone_is_not_taken_over_later_either(run: Run) -> None:
    first = run(*COLD_FIRST, "protocol.pairs=3", progress=InterruptInPair(2))
    shutil.rmtree(run.folder.caches)
    run(*COLD_FIRST, "protocol.pairs=3", progress=InterruptInPair(1), resumable=True)
    third = resumed(run, *COLD_FIRST, "protocol.pairs=3")
    assert third.stopped is None
    assert third.taken_over == 2
    assert not starts(third).items() & starts(first).items()


@pytest.mark.parametrize("pair", [0, 1])
def test_the_operator_that_was_named_stays_with_the_probe_that_it_is_about(run: Run, pair: int) -> None:
    """A probe of the first pair, which is taken over, or of the second, which runs again."""
    first = run(*COLD_FIRST, "protocol.pairs=2", progress=InterruptInPair(1))
    result = next(phase for phase in first.phases if phase.arm is Arm.BATCH_INVARIANT and phase.pair == 0)
    if pair == 0:
        file = run.folder.phase(result.index, result.arm).result
        file.write_bytes(to_json(replace(result, probes=(differing(),))))
    found = Location(arm=Arm.BATCH_INVARIANT, composition="batch_8", batch=0, position=3, sample=0)
    run.folder.result.write_bytes(to_json(replace(first, location=found)))
    run.folder.reproduction.touch()
    second = resumed(run, *COLD_FIRST, "protocol.pairs=2")
    assert second.location == (found if pair == 0 else None)
    assert run.folder.reproduction.exists() == (pair == 0)


def test_what_belongs_to_no_pair_is_kept_when_an_experiment_is_resumed(run: Run) -> None:
    """The launch before the others, and the experiments that ran on other parts of the machine."""
    first = run(*COLD_FIRST, "protocol.pairs=2", "protocol.discard_first=true", progress=InterruptInPair(1))
    assert first.discarded is not None
    run.folder.result.write_bytes(to_json(replace(first, beside=("another",))))
    second = resumed(run, *COLD_FIRST, "protocol.pairs=2", "protocol.discard_first=true")
    assert second.taken_over > 0
    assert second.discarded == first.discarded
    assert second.beside == ("another",)


class Beside(Place):
    """A part of the machine beside which another experiment is seen at every look from one of them on."""

    def __init__(self, from_look: int) -> None:
        super().__init__(Path(), (), ())
        self._from_look, self.looks = from_look, 0

    def beside(self) -> tuple[str, ...]:
        self.looks += 1
        return ("another",) if self.looks >= self._from_look else ()


@pytest.mark.parametrize("interleave", ["launch", "trial"])
def test_who_runs_on_another_part_of_the_machine_is_looked_for_before_and_after_what_runs(
    run: Run, interleave: str
) -> None:
    """One that starts during the last pair is seen; beside a pair that is taken over, nobody runs."""
    settings = f"protocol.interleave={interleave}", "protocol.pairs=1"
    place = Beside(from_look=2)
    assert run(*settings, place=place).beside == ("another",)
    looks = place.looks
    assert run(*settings, place=place, resumable=True).taken_over == 2
    assert place.looks == looks


def test_a_fault_of_the_statistics_between_two_pairs_does_not_end_the_experiment(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no numbers")

    monkeypatch.setattr("bi_experiments.experiment.compare_experiment", broken)
    with pytest.raises(PhaseError, match=r"the measurements cannot be analysed \(ValueError: no numbers\)"):
        run("protocol.pairs=2")
    result = from_json(run.folder.result.read_bytes(), ExperimentResult, run.folder.result)
    assert [phase.status for phase in result.phases] == [PhaseStatus.OK] * 4


def test_the_caches_of_a_cold_launch_that_was_cut_short_are_emptied(run: Run) -> None:
    resumed(run, *COLD_FIRST, behaviour={Arm.BATCH_INVARIANT: "fails"})
    half_filled = run.folder.caches / Arm.BATCH_INVARIANT / "half filled"
    half_filled.touch()
    kept = run.folder.caches / Arm.BASELINE / "kept"
    kept.touch()
    resumed(run, *COLD_FIRST, behaviour={Arm.BATCH_INVARIANT: "fails"})
    assert not half_filled.exists()
    assert kept.exists()


def test_phases_that_take_turns_are_taken_over_in_pairs(run: Run) -> None:
    arguments = "protocol.interleave=trial", "protocol.pairs=1"
    first = resumed(run, *arguments, behaviour={Arm.BATCH_INVARIANT: "fails"})
    assert len(starts(first)) == 1
    second = resumed(run, *arguments)
    assert not starts(second).items() & starts(first).items()


def test_the_first_launch_of_each_arm_is_profiled_and_no_other(run: Run) -> None:
    result = run("protocol.pairs=2", "profile=true", pages=True)
    profiled = {(phase.arm, phase.launch): phase.profile is not None for phase in result.phases}
    assert profiled == {
        (Arm.BASELINE, 0): True,
        (Arm.BATCH_INVARIANT, 0): True,
        (Arm.BASELINE, 1): False,
        (Arm.BATCH_INVARIANT, 1): False,
    }
    assert [len(phase.trials) for phase in result.phases] == [2] * 4  # the profiled trial counts nowhere
    assert "Where the time goes" in run.folder.report_text.read_text()
    assert run.folder.figure("profile").exists()


def test_what_the_log_says_of_an_untuned_path_is_a_finding(run: Run) -> None:
    result = run("protocol.pairs=1", behaviour={Arm.BASELINE: "untuned"})
    assert {phase.arm: len(phase.untuned) for phase in result.phases} == {Arm.BASELINE: 1, Arm.BATCH_INVARIANT: 0}
    assert result.comparison is not None
    (finding,) = (one for one in result.comparison.findings if one.kind == "untuned")
    assert "Config file not found at E=8,N=64.json" in finding.message
