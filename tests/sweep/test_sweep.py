"""What a sweep promises, as it is run."""

import csv
import json
from pathlib import Path

import pytest

from bi_experiments.identity import Identity
from bi_experiments.paths import read_result
from bi_experiments.records import from_json, to_json
from tests.sweep.conftest import Sweep

SIZES = "workload.max_batch_size=2,3,4"


def test_every_experiment_is_a_row_of_the_summary(sweep: Sweep) -> None:
    done = sweep(SIZES)
    assert done.returncode == 0, done.stderr
    assert sweep.statuses() == ["done"] * 3
    with sweep.folder.csv.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["workload.max_batch_size"] for row in rows] == ["2", "3", "4"]
    assert all(9 < float(row["change_pct"]) < 11 for row in rows)
    page = sweep.folder.html.read_text()
    assert all(f">max_batch_size={size}<" in page for size in (2, 3, 4))
    assert "+10.05" in done.stdout
    assert (sweep.folder.root / "2" / "result.json").is_file()


def test_the_cheapest_is_measured_again_in_fresh_pairs_before_it_is_called_so(sweep: Sweep) -> None:
    unconfirmed = sweep("workload.max_batch_size=2,3")
    assert "cheapest is" not in unconfirmed.stdout
    assert "sweep.confirm=true" in " ".join(unconfirmed.stdout.split())
    done = sweep("workload.max_batch_size=2,3", "sweep.confirm=true", "sweep.resume=true")
    assert done.returncode == 0, done.stderr
    *once, again = sweep.records()
    assert [record.again for record in once] == [None, None]
    assert again.number == 2
    assert again.again in {0, 1}
    assert again.overrides == once[again.again].overrides
    assert not again.taken_over
    shown = " ".join(done.stdout.split())
    assert f"The lowest is max_batch_size={2 + again.again}: +10." in shown
    assert "That it is the cheapest is not shown: of 1 other to choose from, 1 may cost no more." in shown
    assert "measured again in fresh pairs (+10." in shown
    assert "Sweep of 2: 2 done." in shown
    assert "measured again in fresh pairs" in sweep.folder.html.read_text()
    with sweep.folder.csv.open() as file:
        assert [row["again"] for row in csv.DictReader(file)] == ["", "", str(again.again)]


def test_one_experiment_with_an_interval_is_not_called_the_cheapest(sweep: Sweep) -> None:
    done = sweep("workload.max_batch_size=2,3", "protocol.pairs=1", "sweep.confirm=true")
    assert done.returncode == 0, done.stderr
    assert "fewer than two experiments have an interval" in done.stdout
    assert "The cheapest" not in done.stdout
    assert len(sweep.records()) == 2


def test_a_failing_experiment_is_a_row_and_the_others_run(sweep: Sweep) -> None:
    done = sweep("workload.max_batch_size=2,0,3,4", FAKE_PHASE=json.dumps({"batch_invariant 3": "fails"}))
    assert sweep.statuses() == ["done", "cannot run", "failed", "done"]
    assert "RuntimeError: it broke" in done.stdout
    assert "line that explains the failure" in done.stderr
    assert "workload.max_batch_size=0 is not possible" in sweep.folder.html.read_text()
    assert done.returncode == 1


def test_an_experiment_that_its_budget_ended_is_done_with_the_pairs_it_has_and_says_so(sweep: Sweep) -> None:
    budget = ("workload.max_batch_size=2,3", "protocol.time_budget_min=0.0001", "protocol.caches=private")
    for again in ((), ("sweep.resume=true",)):
        done = sweep(*budget, *again)
        assert done.returncode == 0, done.stderr
        assert sweep.statuses() == ["done"] * 2
        assert "the time budget of 0.0001 min was spent after 1 pair" in done.stdout
        assert not list(sweep.folder.root.glob("*/caches"))
    assert [record.taken_over for record in sweep.records()] == [True, True]
    sweep(*budget, "protocol.time_budget_min=60", "sweep.resume=true")
    assert [record.taken_over for record in sweep.records()] == [False, False]
    assert {read_result(folder.parent).stopped for folder in sweep.folder.root.glob("*/result.json")} == {None}


def test_what_is_finished_on_one_node_is_taken_over_on_another_and_what_is_not_begins_anew(sweep: Sweep) -> None:
    sweep("workload.max_batch_size=2,3", FAKE_PHASE=json.dumps({"batch_invariant 3": "fails"}))
    for file in sweep.folder.root.glob("*/identity.json"):
        there = from_json(file.read_bytes(), Identity, file)
        parts = there.parts | {"environment: host": "the lost node"}
        file.write_bytes(to_json(Identity(digest="of that node", parts=parts)))
    done = sweep("workload.max_batch_size=2,3", "sweep.resume=true")
    assert [record.taken_over for record in sweep.records()] == [True, False]
    assert "environment: host the lost node -> " in done.stdout
    assert len(list(sweep.folder.replaced.glob("*/result.json"))) == 1


def test_a_preset_passes_over_what_cannot_run_here(sweep: Sweep) -> None:
    done = sweep("workload.max_batch_size=2,0", "sweep.skip_impossible=true")
    assert sweep.statuses() == ["done", "cannot run"]
    assert done.returncode == 0
    assert "workload.max_batch_size=0 is not possible" in done.stdout


def test_a_sweep_of_which_nothing_can_run_says_so(sweep: Sweep) -> None:
    done = sweep("workload.max_batch_size=0", "sweep.skip_impossible=true")
    assert done.returncode == 2


def test_fail_fast_runs_nothing_after_the_first_failure(sweep: Sweep) -> None:
    done = sweep(SIZES, "sweep.fail_fast=true", FAKE_PHASE=json.dumps({"baseline 3": "fails"}))
    assert sweep.statuses() == ["done", "failed", "missing"]
    assert done.returncode == 1
    assert not (sweep.folder.root / "2" / "phases").exists()


def test_the_summary_is_written_after_every_experiment(sweep: Sweep) -> None:
    """The second experiment's phase looks at the summary of the first."""
    look = sweep.working_folder / "look"
    look.write_text(
        f'#!/bin/sh\ncp sweep/sweep.csv seen-$$.csv 2>/dev/null\nexec {sweep.fake[1].partition("=")[2]} "$@"\n'
    )
    look.chmod(0o755)
    sweep("workload.max_batch_size=2,3", f"runtime.python={look}")
    seen = [path.read_text() for path in sweep.working_folder.glob("seen-*.csv")]
    assert any(",done," in text for text in seen)


def test_a_wrong_command_ends_with_2_and_one_line_before_anything_runs(sweep: Sweep) -> None:
    done = sweep("backend=cpu,nonsense")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert not sweep.records()


@pytest.mark.parametrize(
    "subdir", ["../outside/${tp}", "/tmp/outside/${tp}", "inside/../../outside-${tp}", "${model.name}"]
)
def test_no_experiment_leaves_the_sweeps_folder(sweep: Sweep, subdir: str) -> None:
    done = sweep("tp=1,2", "model.name=/outside", f"hydra.sweep.subdir={subdir}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "leads out of the sweep's folder: use a relative path without .." in done.stderr
    assert not list(sweep.working_folder.parent.rglob("*outside*"))
    assert not sweep.folder.root.exists()


def test_the_experiments_folders_are_named_by_their_number(sweep: Sweep) -> None:
    sweep("tp=0,-1", "hydra.sweep.subdir=of/${hydra.job.num}")
    assert [record.folder for record in sweep.records()] == ["of/0", "of/1"]


def test_resuming_runs_what_is_missing_or_failed_alone(sweep: Sweep) -> None:
    sweep(SIZES, FAKE_PHASE=json.dumps({"batch_invariant 3": "fails"}))
    before = phase_files(sweep)
    done = sweep(SIZES, "sweep.resume=true")
    assert done.returncode == 0, done.stderr
    assert sweep.statuses() == ["done"] * 3
    assert [record.taken_over for record in sweep.records()] == [True, False, True]
    changed = {path for path, written in phase_files(sweep).items() if before.get(path) != written}
    assert {path.parts[0] for path in changed} == {"1"}
    assert not [path for path in changed if path.match("phases/*-baseline/*") and path.parts[2].startswith("00")]


def phase_files(sweep: Sweep) -> dict[Path, int]:
    root = sweep.folder.root
    return {path.relative_to(root): path.stat().st_mtime_ns for path in root.glob("*/phases/*/result.json")}


def test_resuming_finds_the_newest_sweep_of_the_same_command(sweep: Sweep) -> None:
    assert sweep("workload.max_batch_size=2,3", folder=False).returncode == 0
    assert sweep("workload.max_batch_size=4", folder=False).returncode == 0
    done = sweep("workload.max_batch_size=2,3", "sweep.resume=true", folder=False)
    assert done.stdout.count("(finished earlier)") == 2
    assert len(list(sweep.working_folder.glob("multirun/*/*/sweep.json"))) == 2


def test_resuming_names_what_does_not_match_and_runs_it_again(sweep: Sweep) -> None:
    sweep("workload.max_batch_size=2,3")
    changed = sweep("workload.max_batch_size=2,4", "sweep.resume=true")
    assert "workload.max_batch_size 3 -> 4" in changed.stdout
    assert [record.taken_over for record in sweep.records()] == [True, False]
    newer = sweep("workload.max_batch_size=2,4", "sweep.resume=true", FAKE_VLLM="0.33.0")
    assert newer.stdout.count("environment: vllm 0.32.0+fake -> 0.33.0") == 2
    assert [record.taken_over for record in sweep.records()] == [False, False]
    assert len(list(sweep.folder.replaced.glob("*/result.json"))) == 3


def test_nothing_to_resume_is_an_error(sweep: Sweep) -> None:
    done = sweep(SIZES, "sweep.resume=true", folder=False)
    assert done.returncode == 2
    assert "found no sweep of this command" in done.stderr


def test_a_folder_that_holds_a_sweep_is_not_overwritten(sweep: Sweep) -> None:
    sweep("workload.max_batch_size=2")
    done = sweep("workload.max_batch_size=2")
    assert done.returncode == 2
    assert "sweep.resume=true" in done.stderr


def test_the_experiments_runs_are_under_the_sweeps_run(sweep: Sweep) -> None:
    mlflow = pytest.importorskip("mlflow")
    done = sweep("workload.max_batch_size=2", "tracking=sqlite", "protocol.pairs=1")
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(f"sqlite:///{sweep.working_folder}/mlflow.db")
    runs = client.search_runs([found.experiment_id for found in client.search_experiments()])
    (parent,) = [run for run in runs if run.data.tags.get("kind") == "sweep"]
    (experiment,) = [run for run in runs if run.data.tags.get("kind") == "experiment"]
    assert experiment.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["experiments/done"] == 1
    assert {"sweep.html", "sweep.csv"} <= {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
