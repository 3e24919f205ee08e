import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import msgspec
import psutil
import pytest

from bi_experiments import __version__
from bi_experiments.config.compose import compose
from bi_experiments.errors import MachineError
from bi_experiments.launch.process import LaunchSettings, PhaseProcess, StepLimits, fold, follow
from bi_experiments.launch.progress import NoProgress
from bi_experiments.launch.spec import engine_spec
from bi_experiments.machine.clocks import ClockReader
from bi_experiments.paths import PhaseFolder, log_tail
from bi_experiments.records import Arm, PhaseResult, PhaseSpec, PhaseStatus, ProbeDone, event_from_line, from_json
from bi_experiments.workload import build_workload, write_workload
from tests import factories
from tests.fake_nvml import FakeDevice, FakeNvml
from tests.processes import gone, wait_for

MakePhase = Callable[..., PhaseProcess]


@pytest.fixture
def make_phase(tmp_path: Path, fake_python: Path) -> MakePhase:
    config = compose(["experiment=cpu_demo", "workload.max_batch_size=2", "workload.num_trials=3"])
    path = tmp_path / "workload.json"
    digest = write_workload(build_workload(config.workload, config.seed), path)

    def make(
        behaviour: str = "",
        arm: Arm = Arm.BASELINE,
        timeout_s: float = 30,
        mode: str | None = None,
        clocks: ClockReader | None = None,
        python: str | None = None,
        limits: StepLimits | None = None,
    ) -> PhaseProcess:
        spec = PhaseSpec(
            project_version=__version__,
            index=0,
            pair=0,
            arm=arm,
            launch=0,
            engine=engine_spec(config, "/nowhere"),
            workload_path=str(path),
            workload_digest=digest,
            warmup_batches=1,
            wait_for_turn=False,
        )
        variables = {
            **os.environ,
            "VLLM_BATCH_INVARIANT": mode or str(int(arm.batch_invariant)),
            "FAKE_PHASE": json.dumps({arm: behaviour}),
            "CHILD_PID": str(tmp_path / "child"),
        }
        settings = LaunchSettings(
            python=python or str(fake_python),
            variables=variables,
            timeout_s=timeout_s,
            num_trials=3,
            step_limits=limits or StepLimits(),
        )
        clocks = clocks or ClockReader(enabled=False)
        return PhaseProcess(spec, PhaseFolder(tmp_path / "phase"), settings, NoProgress(), clocks)

    return make


def run(phase: PhaseProcess) -> PhaseResult:
    with phase:
        follow(phase)
    return phase.result


def test_clocks_are_read_around_every_trial(
    make_phase: MakePhase, tmp_path: Path, nvml: Callable[..., FakeNvml]
) -> None:
    nvml(FakeDevice(sm_clock_mhz=1500))
    with ClockReader(enabled=True) as clocks:
        result = run(make_phase(clocks=clocks))
    assert [(reading.trial, reading.device, reading.sm_clock_mhz) for reading in result.clocks] == [
        (0, 0, 1500),
        (1, 0, 1500),
        (2, 0, 1500),
    ]
    stored = tmp_path / "phase" / "result.json"
    assert from_json(stored.read_bytes(), PhaseResult, stored) == result


def test_a_phase_that_does_its_work_is_recorded_whole(make_phase: MakePhase, tmp_path: Path) -> None:
    result = run(make_phase())
    assert result.status is PhaseStatus.OK
    assert result.error is None
    assert [trial.index for trial in result.trials] == [0, 1, 2]
    assert result.init_time_s == 2.0
    assert result.needle_token_ids == (1, 2, 3)
    assert result.warmup_step_sizes == 4
    assert result.wall_time_s > sum(trial.time_s for trial in result.trials)
    stored = tmp_path / "phase" / "result.json"
    assert from_json(stored.read_bytes(), PhaseResult, stored) == result


def test_a_phase_begins_when_its_process_does(make_phase: MakePhase) -> None:
    planned = make_phase()
    before = run(make_phase())
    assert before.started_at + before.wall_time_s <= run(planned).started_at


def test_every_event_is_on_disk_in_order(make_phase: MakePhase, tmp_path: Path) -> None:
    run(make_phase())
    lines = (tmp_path / "phase" / "events.jsonl").read_bytes().splitlines()
    names = [type(event_from_line(line)).__name__ for line in lines]
    assert names == ["Started", "EngineReady", "WarmedUp", *["TrialDone"] * 3, "Done"]


def test_a_failure_keeps_the_trials_before_it_and_says_why(make_phase: MakePhase, tmp_path: Path) -> None:
    result = run(make_phase("fails"))
    assert result.status is PhaseStatus.FAILED
    assert result.error == "RuntimeError: it broke"
    assert len(result.trials) == 1
    assert log_tail(tmp_path / "phase" / "engine.log") == ["line that explains the failure"]


def test_an_end_without_a_report_is_a_failure(make_phase: MakePhase) -> None:
    result = run(make_phase("dies"))
    assert result.status is PhaseStatus.FAILED
    assert result.error is not None
    assert "exit status 7" in result.error


def test_a_phase_over_its_time_limit_is_ended(make_phase: MakePhase) -> None:
    result = run(make_phase("hangs", timeout_s=2))
    assert result.status is PhaseStatus.TIMED_OUT
    assert result.error is not None
    assert "runtime.phase_timeout_s" in result.error
    assert len(result.trials) == 1


@pytest.mark.parametrize(
    ("behaviour", "limits", "why"),
    [
        ("hangs_at_start", StepLimits(init=3), "the engine's start took longer than runtime.init_timeout_s=3 s"),
        ("hangs_in_warm_up", StepLimits(warmup=1.5), "the warm-up took longer than runtime.warmup_timeout_s=1.5 s"),
        ("hangs", StepLimits(trial=2), "trial 2 took longer than runtime.trial_timeout_s=2 s"),
        (
            "hangs_in_probes",
            StepLimits(probe=1),
            "a composition of probes took longer than runtime.probe_timeout_s=1 s",
        ),
    ],
)
def test_a_step_over_its_time_limit_ends_the_phase_by_name(
    make_phase: MakePhase, behaviour: str, limits: StepLimits, why: str
) -> None:
    result = run(make_phase(behaviour, limits=limits))
    assert result.status is PhaseStatus.TIMED_OUT
    assert str(result.error).startswith(why)


def test_a_profiled_trial_over_the_time_limit_of_a_trial_is_named(make_phase: MakePhase) -> None:
    phase = make_phase("hangs_in_profile", limits=StepLimits(trial=2))
    phase.spec = msgspec.structs.replace(phase.spec, profiler="torch")
    result = run(phase)
    assert result.status is PhaseStatus.TIMED_OUT
    assert str(result.error).startswith("the profiled trial took longer than runtime.trial_timeout_s=2 s")


def test_a_phase_that_hangs_after_its_last_report_has_done_its_work(
    make_phase: MakePhase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bi_experiments.launch.process.EXIT_GRACE_S", 1.0)
    result = run(make_phase("hangs_after_done"))
    assert result.status is PhaseStatus.OK
    assert result.wall_time_s < 20


def test_a_mode_that_vllm_does_not_see_is_an_error(make_phase: MakePhase) -> None:
    result = run(make_phase("ignores_mode", Arm.BATCH_INVARIANT))
    assert result.status is PhaseStatus.FAILED
    assert result.error is not None
    assert "VLLM_BATCH_INVARIANT=0 in the batch-invariant arm" in result.error
    assert result.trials == ()


def test_a_mode_that_leaks_into_the_baseline_is_an_error(make_phase: MakePhase) -> None:
    result = run(make_phase(mode="1"))
    assert result.status is PhaseStatus.FAILED
    assert result.error is not None
    assert "VLLM_BATCH_INVARIANT=1 in the baseline arm" in result.error


def test_another_attention_backend_than_the_one_asked_for_is_an_error(make_phase: MakePhase) -> None:
    result = run(make_phase("other_backend"))
    assert result.error is not None
    assert "OTHER_ATTN, not CPU_ATTN" in result.error


def test_another_version_of_this_project_in_the_phase_is_an_error(make_phase: MakePhase) -> None:
    result = run(make_phase("other_version"))
    assert result.error is not None
    assert "0.0.1-other" in result.error
    assert __version__ in result.error


def test_an_interruption_leaves_no_process_and_keeps_what_is_known(make_phase: MakePhase, tmp_path: Path) -> None:
    phase = make_phase("child")
    with pytest.raises(KeyboardInterrupt), phase:  # noqa: PT012  the interruption is what is tested
        follow(phase, until=lambda result: len(result.trials) == 1)
        raise KeyboardInterrupt
    assert phase.result.status is PhaseStatus.INTERRUPTED
    assert len(phase.result.trials) == 1
    assert gone(int((tmp_path / "child").read_text()))


def test_what_a_phase_started_dies_with_it(make_phase: MakePhase, tmp_path: Path) -> None:
    run(make_phase("child", timeout_s=2))
    assert gone(int((tmp_path / "child").read_text()))


def test_phases_die_when_their_parent_is_killed(make_phase: MakePhase, tmp_path: Path) -> None:
    phase = make_phase("child")
    parent = os.fork()
    if parent == 0:
        with phase:
            follow(phase)
        os._exit(0)
    child = tmp_path / "child"
    wait_for(child.exists)
    wait_for(lambda: child.read_text() != "")
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    assert gone(int(child.read_text()))


# --- The plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("one_trial_less", "it reported 1 of 3 trials"),
        ("trials_twice", "it reported trial 1 where trial 2 was expected"),
        ("done_first", "it reported 0 of 3 trials"),
        ("no_time", "trial 1 took 0 s"),
        ("dies_after_done", "exit status 3"),
    ],
)
def test_a_phase_that_does_not_keep_to_its_plan_does_not_count(
    make_phase: MakePhase, behaviour: str, said: str
) -> None:
    result = run(make_phase(behaviour))
    assert result.status is PhaseStatus.FAILED
    assert result.error is not None
    assert said in result.error


def test_of_two_failures_the_first_is_told(make_phase: MakePhase) -> None:
    result = run(make_phase("fails_twice"))
    assert result.status is PhaseStatus.FAILED
    assert result.error == "RuntimeError: it broke"


# --- The cause --------------------------------------------------------------------------------------------------------


def test_the_cause_of_a_failed_core_is_its_own_error_whole_with_a_remedy(make_phase: MakePhase) -> None:
    result = run(make_phase("core_fails"))
    assert result.error == (
        "ValueError: No available memory for the cache blocks. Try it with more of it; "
        "raise model.gpu_memory_utilization, or use a smaller model or a larger tp"
    )


# --- What is left and what waits --------------------------------------------------------------------------------------


def test_a_child_that_left_the_session_dies_with_its_phase(make_phase: MakePhase, tmp_path: Path) -> None:
    run(make_phase("setsid", timeout_s=3))
    assert gone(int((tmp_path / "child").read_text()))


def test_a_finished_phase_does_not_wait_for_a_child_that_holds_its_pipe(make_phase: MakePhase, tmp_path: Path) -> None:
    result = run(make_phase("leaves_a_child"))
    assert result.status is PhaseStatus.OK
    assert gone(int((tmp_path / "child").read_text()))


def test_a_child_that_left_the_session_dies_when_the_parent_is_killed(make_phase: MakePhase, tmp_path: Path) -> None:
    phase = make_phase("setsid")
    parent = os.fork()
    if parent == 0:
        with phase:
            follow(phase)
        os._exit(0)
    child = tmp_path / "child"
    wait_for(lambda: child.exists() and child.read_text() != "")
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    assert gone(int(child.read_text()))


def test_a_phase_leaves_no_temporary_file(
    make_phase: MakePhase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for behaviour in ("", "dies", "leaves_a_child"):
        run(make_phase(behaviour))
    assert list(temporary.iterdir()) == []


def test_an_event_without_an_end_is_bounded(make_phase: MakePhase) -> None:
    result = run(make_phase("endless_event"))
    assert result.status is PhaseStatus.FAILED
    assert "64 MiB" in str(result.error)


def test_a_wild_log_is_bounded_and_plain(make_phase: MakePhase, tmp_path: Path) -> None:
    result = run(make_phase("wild_log"))
    assert result.error == "RuntimeError: \\x1b[31mit broke badly"
    log = tmp_path / "phase" / "engine.log"
    assert log.stat().st_size < 17 << 20
    assert log_tail(log)[-1] == "the end"
    assert all(len(line) <= 300 and line.isprintable() for line in log_tail(log))


def test_what_is_not_an_interpreter_is_refused_in_one_line(make_phase: MakePhase, tmp_path: Path) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(MachineError, match=r"runtime.python=/nowhere cannot be started"):
        run(make_phase(python="/nowhere"))
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_phase_of_which_a_step_of_the_start_fails_leaves_nothing(
    make_phase: MakePhase, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors, children = len(list(Path("/proc/self/fd").iterdir())), psutil.Process().children()
    monkeypatch.setattr(os, "pidfd_open", Mock(side_effect=OSError("no such system call")))
    with pytest.raises(OSError, match="no such system call"):
        run(make_phase())
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert psutil.Process().children() == children


def test_the_steps_that_probe_batches_were_made_for_are_kept(make_phase: MakePhase) -> None:
    done = ProbeDone(results=(), graph_sizes=(8,), borders=(8, 64))
    kept, problem = fold(factories.phase(), done, make_phase().spec)
    assert (kept.graph_sizes, kept.borders, problem) == ((8,), (8, 64), None)
