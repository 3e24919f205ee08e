"""Two experiments are compared by the change of their overhead, and only if they asked the same of the same machine."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from bi_experiments import compare
from bi_experiments.analysis.changes import changes_between
from bi_experiments.analysis.estimates import Estimate
from bi_experiments.claim import held
from bi_experiments.errors import ConfigurationError, ExitCode
from bi_experiments.files import write_atomically
from bi_experiments.paths import OutputFolder
from bi_experiments.records import Arm, ExperimentResult, Invariance, to_json
from tests import factories
from tests.analysis.test_changes import BEFORE, SLOWER, experiment, with_fresh_prompts


def folder(path: Path, result: ExperimentResult) -> str:
    write_atomically(OutputFolder(path).result, to_json(result))
    return str(path)


# --- The rule -------------------------------------------------------------------------------------------------------


def scaled(result: ExperimentResult, arm: Arm, factor: float) -> ExperimentResult:
    """The experiment with the trial times of one arm multiplied."""
    phases = tuple(
        replace(one, trials=tuple(replace(trial, time_s=factor * trial.time_s) for trial in one.trials))
        if one.arm is arm
        else one
        for one in result.phases
    )
    return replace(result, phases=phases)


def test_a_pure_win_is_no_regression_of_the_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mode gets 8 % faster and the baseline 12 %: the ratio alone calls that a regression."""
    after = scaled(scaled(experiment(BEFORE), Arm.BASELINE, 0.88), Arm.BATCH_INVARIANT, 0.92)
    sides = [folder(tmp_path / "a", experiment(BEFORE)), folder(tmp_path / "b", after)]
    assert compare.main(sides) is ExitCode.DONE
    shown = capsys.readouterr().out
    (overheads,) = (line for line in shown.splitlines() if line.startswith("overhead"))
    assert overheads.split()[1] == "+7.5"
    assert "  +12.4 %" in overheads
    assert "the baseline's total time fell by 12.0 % [" in shown
    assert "the mode's total time fell by 8.0 % [" in shown
    assert "] and the ratio rose by 4.5 % [" in shown
    assert compare.main([*sides, "--gate", "ratio"]) is ExitCode.OVER_GATE


def test_one_experiment_does_not_count_twice_on_a_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As two it would agree with itself: an interval of no width, from one pair."""
    one = folder(tmp_path / "a", experiment(BEFORE))
    other = folder(tmp_path / "b", experiment(SLOWER))
    for sides, where in (
        ([f"{one},{one}", other], "twice in A"),
        ([other, f"{one},{tmp_path}/b/../a"], "twice in B"),
    ):
        assert compare.main([*sides, "--anyway"]) is ExitCode.CANNOT_RUN
        error = capsys.readouterr().err
        assert error == f"error: the same experiment (demo CPU_ATTN tp1 needle) is {where}: name it once\n"


def test_a_mode_that_is_violated_since_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = {
        name: folder(tmp_path / name, with_verdict(verdict, costs))
        for name, verdict, costs in (
            ("holds", Invariance.HOLDS, BEFORE),
            ("violated", Invariance.VIOLATED, [cost + 0.01 for cost in BEFORE]),
            ("violated before", Invariance.VIOLATED, [cost - 0.01 for cost in BEFORE]),
        )
    }
    accepted = ["--max-change-pct", "50"]
    assert compare.main([sides["holds"], sides["violated"], *accepted]) is ExitCode.INVARIANCE_VIOLATED
    assert "Batch invariance: holds in A, violated in B." in capsys.readouterr().out
    assert compare.main([sides["violated before"], sides["violated"], *accepted]) is ExitCode.DONE
    assert "Batch invariance: violated in A, violated in B." in capsys.readouterr().out
    assert compare.main([sides["violated"], sides["holds"], *accepted]) is ExitCode.DONE
    unprobed = replace(with_verdict(Invariance.HOLDS, BEFORE), invariance=None)
    sides["unprobed"] = folder(tmp_path / "unprobed", unprobed)
    capsys.readouterr()
    assert compare.main([sides["unprobed"], sides["violated"], *accepted]) is ExitCode.DONE
    assert "Batch invariance: not probed in A, violated in B." in capsys.readouterr().out


def with_verdict(verdict: Invariance, costs_pct: Sequence[float]) -> ExperimentResult:
    result = factories.whole_result(factories.phases(costs_pct))
    assert result.invariance is not None
    arms = tuple(replace(one, verdict=verdict) if one.arm.batch_invariant else one for one in result.invariance.arms)
    return replace(result, invariance=replace(result.invariance, arms=arms))


def test_several_experiments_a_side_are_given_with_commas(tmp_path: Path) -> None:
    before = [folder(tmp_path / f"a{n}", experiment([7.0 + n, 7.5 + n, 8.0 + n])) for n in range(3)]
    after = [folder(tmp_path / f"b{n}", experiment([8.0 + n, 8.5 + n, 9.0 + n], started_at=1.0)) for n in range(3)]
    assert compare.main([",".join(before), ",".join(after)]) is ExitCode.GATE_UNDECIDED


@pytest.mark.parametrize(
    ("gate", "instead"), [("mode", "several a side, or --gate ratio."), ("ratio", "several a side.")]
)
@pytest.mark.parametrize(("of_a", "of_b", "said"), [(1, 1, True), (1, 2, True), (2, 1, True), (2, 2, False)])
def test_one_experiment_on_a_side_is_said_to_leave_their_spread_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], of_a: int, of_b: int, said: bool, gate: str, instead: str
) -> None:
    sides = [
        ",".join(folder(tmp_path / f"{side}{n}", experiment(BEFORE, started_at=start + n)) for n in range(count))
        for side, count, start in (("a", of_a, 0.0), ("b", of_b, 10.0))
    ]
    compare.main([*sides, "--gate", gate])
    lines = [line for line in capsys.readouterr().out.splitlines() if "from one to the next is not known" in line]
    assert [line.endswith(instead) for line in lines] == [True] * said


def test_different_numbers_of_tokens_decide_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slower = experiment(SLOWER)
    phases = (*slower.phases[:-1], factories.with_trial(slower.phases[-1], 0, output_tokens=1))
    sides = [folder(tmp_path / "a", experiment(BEFORE)), folder(tmp_path / "b", replace(slower, phases=phases))]
    assert compare.main(sides) is ExitCode.GATE_UNDECIDED
    assert "not all of them generated the same number of tokens" in capsys.readouterr().out


def test_fresh_prompts_are_compared_by_the_number_of_the_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = folder(tmp_path / "a", with_fresh_prompts((7.0, 7.5, 8.0, 7.2)))
    slower = folder(tmp_path / "b", with_fresh_prompts((7.1, 7.5, 8.0), factor=1.1))
    assert compare.main([before, slower]) is ExitCode.OVER_GATE
    assert compare.main([before, slower, "--gate", "ratio"]) is ExitCode.DONE
    again = replace(with_fresh_prompts((7.1, 7.5, 8.0), factor=1.1), started_at=1.0)
    twice = folder(tmp_path / "c", again)
    assert compare.main([before, f"{slower},{twice}"]) is ExitCode.OVER_GATE
    capsys.readouterr()
    other = folder(tmp_path / "d", with_fresh_prompts((7.0, 7.5, 8.0), tokens=101))
    assert compare.main([before, other]) is ExitCode.GATE_UNDECIDED
    assert "not all of them generated the same number of tokens" in capsys.readouterr().out


def test_prompts_of_every_pair_and_prompts_of_all_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh, shared = folder(tmp_path / "a", with_fresh_prompts(BEFORE)), folder(tmp_path / "b", experiment(BEFORE))
    assert compare.main([fresh, shared]) is ExitCode.CANNOT_RUN
    assert "differ in fresh prompts (True and False)" in capsys.readouterr().err


def test_settings_that_differ_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = {**experiment(BEFORE).configuration, "backend": {"async_scheduling": True}}
    sides = [
        folder(tmp_path / "a", experiment(BEFORE)),
        folder(tmp_path / "b", experiment(BEFORE, configuration=configuration)),
    ]
    compare.main(sides)
    assert "backend.async_scheduling: A -, B true" in capsys.readouterr().out


def test_what_vllm_chose_otherwise_is_listed_where_the_settings_are_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = experiment(BEFORE)
    ahead = tuple(replace(phase, observed=factories.observed(async_scheduling=True)) for phase in before.phases)
    compare.main([folder(tmp_path / "a", before), folder(tmp_path / "b", replace(before, phases=ahead))])
    out = capsys.readouterr().out
    assert "Settings that differ" not in out
    assert "Engines that differ:\n  async scheduling: A false, B true\n\n" in out


@pytest.mark.parametrize(
    ("low", "high", "max_change_pct", "expected"),
    [
        (1.5, 4.0, 0.0, ExitCode.OVER_GATE),
        (0.2, 4.0, 0.0, ExitCode.OVER_GATE),
        (0.2, 0.9, 0.0, ExitCode.DONE),
        (-0.5, 0.5, 0.0, ExitCode.DONE),
        (-4.0, -2.0, 0.0, ExitCode.DONE),
        (-0.5, 1.5, 0.0, ExitCode.GATE_UNDECIDED),
        (-0.5, 1.5, 2.0, ExitCode.DONE),
        (1.5, 4.0, 2.0, ExitCode.GATE_UNDECIDED),
        (2.5, 4.0, 2.0, ExitCode.OVER_GATE),
        (None, None, 2.0, ExitCode.GATE_UNDECIDED),
    ],
)
def test_exit_code(low: float | None, high: float | None, max_change_pct: float, expected: ExitCode) -> None:
    assert compare.decide(Estimate(1.0, low, high), max_change_pct, equivalence_pct=1.0) is expected


def test_one_launch_an_arm_decides_nothing() -> None:
    changes = changes_between([experiment(BEFORE[:1])], [experiment(SLOWER)])
    assert "undecided" in compare.describe(changes)
    assert compare.decide(changes.mode, 0.0, 1.0) is ExitCode.GATE_UNDECIDED


def test_without_an_interval_the_gate_asks_for_pairs_and_nested_settings_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = []
    for name, size in (("a", 64), ("b", 128)):
        configuration = experiment(BEFORE).configuration
        model = {**configuration["model"], "seeded": {"hidden_size": size, "vocab_size": 100}}
        one = experiment(BEFORE[:1], configuration={**configuration, "model": model})
        sides.append(folder(tmp_path / name, one))
    assert compare.main(sides) is ExitCode.GATE_UNDECIDED
    shown = capsys.readouterr().out
    assert "Gate (mode): undecided without an interval: run both with protocol.pairs=4 or more." in shown
    assert "model.seeded.hidden_size: A 64, B 128" in shown
    assert "vocab_size" not in shown


def test_what_did_not_move_is_a_list() -> None:
    changes = changes_between([experiment(BEFORE)], [experiment(BEFORE)])
    assert compare.describe(changes) == "From A to B no change is shown in the baseline, the mode or the ratio."


# --- The refusal ----------------------------------------------------------------------------------------------------


OTHER_MODEL = {
    "model": {"name": "another", "dtype": "bfloat16"},
    "workload": {"num_trials": 5},
    "protocol": {"equivalence_pct": 1.0},
    "tracking": {"enabled": False, "uri": "sqlite:///mlflow.db", "experiment": "bi_experiments"},
    "tp": 1,
    "pp": 1,
}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (experiment(SLOWER, workload_digest="e" * 64), "workload (dddddddddddd and eeeeeeeeeeee)"),
        (experiment(SLOWER, configuration=OTHER_MODEL), "model (demo and another)"),
        (experiment(SLOWER, environment=factories.environment(devices=(factories.device(),))), "H100"),
        (experiment(SLOWER, environment=factories.environment(cpu="Another CPU")), "2 x Another CPU"),
        (experiment(SLOWER, version=1), "record version (2 and 1)"),
        (factories.experiment_result(factories.phases(SLOWER, second=Arm.CONTROL)), "batch_invariant and control"),
    ],
)
def test_unlike_experiments_are_refused(other: ExperimentResult, words: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        compare.require_alike(experiment(BEFORE), other)
    assert words in str(refusal.value)
    assert "--anyway" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_another_commit_or_another_vllm_is_what_it_is_for() -> None:
    newer = tuple(replace(phase, versions={"vllm": "0.33.0"}) for phase in factories.phases(SLOWER))
    other = factories.experiment_result(newer, environment=factories.environment(commit="f" * 40, dirty=True))
    compare.require_alike(experiment(BEFORE), other)


def test_refusal_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = folder(tmp_path / "a", experiment(BEFORE))
    second = folder(tmp_path / "b", experiment(SLOWER, workload_digest="e" * 64))
    assert compare.main([first, second]) is ExitCode.CANNOT_RUN
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert compare.main([first, second, "--anyway"]) is ExitCode.OVER_GATE


def test_an_experiment_that_still_runs_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = [folder(tmp_path / name, experiment(cost)) for name, cost in (("a", BEFORE), ("b", SLOWER))]
    with held(OutputFolder(tmp_path / "b")):
        assert compare.main(sides) is ExitCode.CANNOT_RUN
    shown = capsys.readouterr()
    assert shown.err == f"error: the experiment in {sides[1]} is still running: wait until it has ended\n"
    assert not shown.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no result.json"),
        (b"{}", "is not a record (ExperimentResult)"),
        (b"\x00", "is not a record (ExperimentResult)"),
    ],
)
def test_a_folder_without_a_result(
    content: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "result.json").write_bytes(content)
    assert compare.main([str(tmp_path), str(tmp_path)]) is ExitCode.CANNOT_RUN
    assert words in capsys.readouterr().err


def test_what_is_neither_a_folder_nor_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(tmp_path / "nowhere"), str(tmp_path)]) is ExitCode.CANNOT_RUN
    assert "is neither a folder nor an MLflow run id" in capsys.readouterr().err


def test_a_run_id_without_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compare.main(["0" * 32, "1" * 32]) is ExitCode.CANNOT_RUN
    said = "error: the MLflow database mlflow.db does not exist: pass --tracking-uri or a folder\n"
    assert capsys.readouterr().err == said
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_without_a_complete_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = folder(tmp_path / "a", experiment(BEFORE))
    lonely = factories.phases((7.0,))[:1]
    second = folder(tmp_path / "b", factories.experiment_result(lonely, comparison=None))
    assert compare.main([first, second, "--anyway"]) is ExitCode.CANNOT_RUN
    assert "B (demo CPU_ATTN tp1 needle) has no complete pair" in capsys.readouterr().err


# --- The program ----------------------------------------------------------------------------------------------------


def test_the_program_shows_both_sides_and_ends_with_the_code(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a", experiment(BEFORE)), folder(tmp_path / "b", experiment(SLOWER))
    command = [sys.executable, "-m", "bi_experiments.compare", first, second]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (4, "")
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines[:7]] == ["A", "name", "machine", "vLLM", "commit", "pairs", "overhead"]
    assert "+7.5 % [+6.3 %, +8.7 %]" in lines[6]
    assert "the mode's total time rose by 4.7 % [" in lines[-3]
    assert lines[-2].startswith("With one experiment on a side, how much experiments differ")
    assert lines[-1] == "Gate (mode): B takes longer than A."


def test_a_limit_below_zero_is_refused() -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main(["a", "b", "--max-change-pct", "-1"])
    assert ended.value.code == ExitCode.CANNOT_RUN


def test_a_server_that_is_down_is_an_error_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        uri = f"http://someone:hush@127.0.0.1:{listener.getsockname()[1]}"
    assert compare.main(["0" * 32, "1" * 32, "--tracking-uri", uri]) is ExitCode.CANNOT_RUN
    captured = capsys.readouterr()
    assert captured.err.endswith(": [Errno 111] Connection refused; pass --tracking-uri or a folder\n")
    assert captured.err.count("\n") == 1
    assert "hush" not in captured.err


def test_runs_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    uri = "sqlite:///mlflow.db"  # MLflow keeps a store by its address, even from another folder
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment_id = client.create_experiment("overheads", artifact_location=(tmp_path / "artifacts").as_uri())
    runs = []
    for name, costs_pct in (("a", BEFORE), ("b", SLOWER)):
        run_id = client.create_run(experiment_id).info.run_id
        client.log_artifact(run_id, str(OutputFolder(Path(folder(tmp_path / name, experiment(costs_pct)))).result))
        runs.append(run_id)
    capsys.readouterr()
    assert compare.main(runs) is ExitCode.OVER_GATE
    shown = capsys.readouterr()
    assert "the mode's total time rose by 4.7 %" in shown.out
    assert shown.err == ""
    assert compare.main([runs[0], "0" * 32, "--tracking-uri", uri]) is ExitCode.CANNOT_RUN
    assert f"result.json of run {'0' * 32} cannot be downloaded from {uri}" in capsys.readouterr().err


def test_an_experiment_is_not_compared_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    side = folder(tmp_path / "a", experiment(BEFORE))
    assert compare.main([side, f"{side}/"]) is ExitCode.CANNOT_RUN
    assert "is in A and in B" in capsys.readouterr().err


@pytest.mark.parametrize("side", ["", " ", "{},"])
def test_an_empty_name_is_not_the_current_folder(
    side: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = folder(tmp_path / "a", experiment(BEFORE))
    monkeypatch.chdir(folder(tmp_path / "b", experiment(SLOWER)))
    assert compare.main([side.format(other), other]) is ExitCode.CANNOT_RUN
    assert "is a variable of the shell not set?" in capsys.readouterr().err


def test_of_arms_that_did_unequal_work_no_change_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline, *others = experiment(BEFORE).phases
    unequal = experiment(BEFORE, phases=(factories.with_trial(baseline, 0, output_tokens=7), *others))
    sides = [folder(tmp_path / "a", experiment(BEFORE)), folder(tmp_path / "b", unequal)]
    assert compare.main(sides) is ExitCode.GATE_UNDECIDED
    shown = capsys.readouterr().out
    assert "Changes in time are withheld: the arms generated different numbers of tokens." in shown
    assert "Change of total time from A to B" not in shown
    (overheads,) = (line for line in shown.splitlines() if line.startswith("overhead"))
    assert overheads.endswith("withheld")
