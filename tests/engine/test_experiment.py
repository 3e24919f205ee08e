"""Both arms of one small experiment on real vLLM, as a user runs it; the tests share its two phases."""

import gzip
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bi_experiments.analysis.operation_classes import OperationClass
from bi_experiments.analysis.profiles import KNOWN_PCT, of_phase
from bi_experiments.paths import OutputFolder
from bi_experiments.records import Arm, ExperimentResult, Invariance, PhaseStatus, ProfiledStep, Workload, from_json

pytestmark = pytest.mark.engine

OVERRIDES = (
    "experiment=cpu_demo",
    "protocol=single",
    "protocol.interleave=trial",
    "workload.num_trials=2",
    "workload.max_batch_size=8",
    "workload.max_tokens=8",
    "backend.enforce_eager=true",
    "profile=true",
)


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    result: ExperimentResult
    folder: OutputFolder
    work: Path
    output: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    work = tmp_path_factory.mktemp("work")
    done = subprocess.run(
        [sys.executable, "-m", "bi_experiments", *OVERRIDES, "hydra.run.dir=out"],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = OutputFolder(work / "out")
    result = from_json(folder.result.read_bytes(), ExperimentResult, folder.result)
    return Finished(result, folder, work, done.stdout)


def test_vllm_itself_saw_each_arms_mode(finished: Finished) -> None:
    modes = {phase.arm: phase.observed.batch_invariant for phase in finished.result.phases if phase.observed}
    assert modes == {Arm.BASELINE: False, Arm.BATCH_INVARIANT: True}
    assert {phase.status for phase in finished.result.phases} == {PhaseStatus.OK}


def test_the_record_says_what_it_ran_on(finished: Finished) -> None:
    for phase in finished.result.phases:
        assert phase.observed is not None
        assert phase.observed.attention_backend == "CPU_ATTN"
        assert phase.observed.enforce_eager
        assert phase.observed.dtype == "float32"
        assert phase.observed.kv_cache_tokens > 0
        assert phase.versions["torch"]
        assert phase.init_time_s
        assert phase.peak_memory_bytes
        assert phase.peak_memory_bytes > 100e6


def test_every_trial_did_the_whole_work(finished: Finished) -> None:
    path = finished.folder.workload
    workload = from_json(path.read_bytes(), Workload, path)
    for phase in finished.result.phases:
        assert len(phase.trials) == 2
        assert {trial.index for trial in phase.trials} == {0, 1}
        for trial in phase.trials:
            batch = workload.trials[trial.index]
            assert trial.batch_size == batch.batch_size
            assert trial.output_tokens == 8 * batch.batch_size
            words = sum(len(prompt.split()) for prompt in batch.prompts)
            assert words <= trial.prompt_tokens < 3 * words
            assert trial.time_s > 0
            assert trial.cpu_time_s > 0


def test_the_prompts_that_took_several_steps_are_as_many_as_the_rule_says(finished: Finished) -> None:
    """All are queued before the first step here, as the rule has it."""
    for phase in finished.result.phases:
        by_rule = sum(step.tokens for step in phase.steps if step.composition is None and step.split)
        assert by_rule > 0
        assert sum(len(trial.split or ()) for trial in phase.trials) == by_rule


def test_request_timing_is_inside_its_trial(finished: Finished) -> None:
    for phase in finished.result.phases:
        for trial in phase.trials:
            assert trial.latencies is not None
            assert len(trial.latencies.end_to_end_s) == trial.batch_size
            for first_s, whole_s in zip(
                trial.latencies.time_to_first_token_s, trial.latencies.end_to_end_s, strict=True
            ):
                assert 0 < first_s <= whole_s <= trial.time_s


def test_the_needle_was_compared_in_every_trial(finished: Finished) -> None:
    batch_invariant = next(phase for phase in finished.result.phases if phase.arm is Arm.BATCH_INVARIANT)
    assert len(batch_invariant.needle_token_ids) == 8
    assert all(trial.needle.equal for trial in batch_invariant.trials)
    assert finished.result.invariance is not None
    assert finished.result.invariance.needle_total[Arm.BATCH_INVARIANT] == 2


def test_the_proof_holds_with_the_plugin_and_fails_without_the_mode(finished: Finished) -> None:
    report = finished.result.invariance
    assert report is not None
    assert report.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS
    assert report.verdict(Arm.BASELINE) is Invariance.VIOLATED


def test_the_timed_trials_of_the_two_phases_never_overlap(finished: Finished) -> None:
    spans = sorted(
        (trial.started_at, trial.started_at + trial.time_s)
        for phase in finished.result.phases
        for trial in phase.trials
    )
    assert all(spans[index][1] <= spans[index + 1][0] for index in range(len(spans) - 1))


def test_the_profile_of_each_arm_adds_up_to_its_trial(finished: Finished) -> None:
    for phase in finished.result.phases:
        profile = phase.profile
        assert profile is not None
        assert (profile.stopped, profile.on_device, profile.workers, profile.whole) == (None, False, 1, True)
        same = next(trial for trial in phase.trials if trial.index == profile.trial)
        assert (profile.prompt_tokens, profile.output_tokens) == (same.prompt_tokens, same.output_tokens)
        arm = of_phase(phase)
        assert sum(time.total_s for time in arm.classes.values()) == pytest.approx(profile.time_s, rel=0.02)
        assert arm.known_pct >= KNOWN_PCT
        assert arm.classes[OperationClass.MATRIX_MULTIPLICATION].prefill_s > 0
        assert arm.classes[OperationClass.ATTENTION].decode_s > 0


def test_prefill_and_decode_are_told_apart_by_vllms_own_steps(finished: Finished) -> None:
    for phase in finished.result.phases:
        assert phase.profile is not None
        numbers = {one.steps: one.number for one in phase.profile.steps}
        assert numbers[ProfiledStep.PREFILL] >= 1
        assert sum(numbers.values()) >= 8  # as many as output tokens
        assert numbers[ProfiledStep.DECODE] >= 8 - numbers[ProfiledStep.PREFILL]


def test_the_traces_are_in_chromes_format(finished: Finished) -> None:
    for phase in finished.result.phases:
        assert phase.profile is not None
        (name,) = phase.profile.traces
        path = finished.folder.phase(phase.index, phase.arm).profile / name
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        assert {"ph", "name", "ts"} <= events[-1].keys()


def test_the_terminal_shows_both_phases_and_the_comparison(finished: Finished) -> None:
    for line in (
        "PHASE 1: Running",
        "WITHOUT batch invariance (baseline)",
        "WITH batch invariance",
        "Engine initialization time:",
        "Trial 2/2: batch_size=",
        "COMPARISON: Batch Invariance vs Baseline",
        "Where the time goes",
    ):
        assert line in finished.output


def test_mlflow_has_the_experiment_with_both_phases(finished: Finished) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.work}/mlflow.db")
    experiment = client.get_experiment_by_name("bi_experiments")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert len(runs) == 3
    assert finished.result.comparison is not None
    trial_time = finished.result.comparison.metric("trial_time")
    assert trial_time is not None
    assert parents[0].data.metrics["overhead/trial_time_pct"] == pytest.approx(trial_time.change_pct, rel=1e-3)
    names = {artifact.path for artifact in client.list_artifacts(parents[0].info.run_id)}
    assert {"result.json", "report.txt", "report.html", "report.md", "figures", "workload.json", "phases"} <= names
