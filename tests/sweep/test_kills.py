"""Sweeps that are killed, and resumed."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil

from bi_experiments.files import try_lock
from bi_experiments.paths import OutputFolder
from bi_experiments.records import ExperimentResult, from_json
from tests.processes import wait_for
from tests.sweep.conftest import Sweep

ARGUMENTS = ("workload.max_batch_size=2,3", "protocol.pairs=4", "protocol.seed=0")
KILLS = 4


def start(sweep: Sweep, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    """A sweep in a session of its own, by which its processes are found; its phases have sessions of theirs."""
    return subprocess.Popen(
        sweep.command(*ARGUMENTS, *arguments),
        cwd=sweep.working_folder,
        env={**sweep.environment, "TEST_SWEEP": str(sweep.working_folder), **variables},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def left_over(sweep: Sweep) -> list[psutil.Process]:
    """Processes that carry this sweep's mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("TEST_SWEEP") == str(sweep.working_folder)
        except psutil.Error:
            continue
        if marked and process.pid != os.getpid():
            found.append(process)
    return found


def results(sweep: Sweep) -> dict[str, ExperimentResult]:
    paths = sorted(sweep.folder.root.glob("*/result.json"))
    return {path.parent.name: from_json(path.read_bytes(), ExperimentResult, path) for path in paths}


def content(result: ExperimentResult) -> object:
    """What does not depend on when it was run."""
    comparison = result.comparison
    assert comparison is not None
    return (
        result.name,
        result.workload_digest,
        [(phase.index, phase.arm, phase.launch, phase.status, len(phase.trials)) for phase in result.phases],
        [(metric.name, metric.change_pct, metric.pairs) for metric in comparison.metrics],
    )


def test_a_sweep_that_is_killed_again_and_again_ends_with_the_same_results(sweep: Sweep, tmp_path: Path) -> None:
    rng = random.Random(20251123)
    finished: dict[str, int] = {}
    for kill in range(KILLS):
        process = start(sweep, "sweep.resume=true")
        before = phases_done(sweep)
        wait_for(lambda before=before: phases_done(sweep).keys() > before.keys(), limit_s=120)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, "it was over before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: not left_over(sweep), limit_s=60)
        done = phases_done(sweep)
        assert all(done.get(name) == written for name, written in finished.items()), f"lost at kill {kill}"
        finished = done
    assert start(sweep, "sweep.resume=true").wait(timeout=120) == 0
    assert sweep.statuses() == ["done", "done"]
    assert all(phases_done(sweep)[name] == written for name, written in finished.items())

    folder = tmp_path / "undisturbed"
    folder.mkdir()
    undisturbed = Sweep(folder, Path(sweep.fake[1].partition("=")[2]))
    assert undisturbed(*ARGUMENTS).returncode == 0
    expected = {name: content(result) for name, result in results(undisturbed).items()}
    assert {name: content(result) for name, result in results(sweep).items()} == expected
    assert not left_over(sweep)


def phases_done(sweep: Sweep) -> dict[str, int]:
    """When the result of each finished phase was written."""
    return {
        str(path.relative_to(sweep.folder.root)): path.stat().st_mtime_ns
        for path in sweep.folder.root.glob("*/phases/*/result.json")
        if json.loads(path.read_bytes())["status"] == "ok"
    }


def test_an_interrupted_sweep_ends_at_once_and_is_resumed(sweep: Sweep) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(sweep, FAKE_PHASE=json.dumps({"batch_invariant 2": "hangs"}))
    wait_for(lambda: any('"trial"' in path.read_text() for path in hanging(sweep)), limit_s=120)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert sweep.statuses() == ["interrupted"]
    assert sweep.folder.html.is_file()
    assert not left_over(sweep)
    whole = phases_done(sweep)
    assert start(sweep, "sweep.resume=true").wait(timeout=120) == 0
    assert sweep.statuses() == ["done", "done"]
    assert phases_done(sweep).items() >= whole.items()  # taken over, not run again
    resumed = results(sweep)["0"]
    assert resumed.taken_over == len(whole)
    assert [phase.index for phase in resumed.phases] == list(range(8))  # and none counts twice
    assert not list(sweep.folder.root.glob("*/caches"))


def hanging(sweep: Sweep) -> list[Path]:
    return list(sweep.folder.root.glob("0/phases/*-batch_invariant/events.jsonl"))


def test_a_sweep_that_runs_cannot_be_started_twice(sweep: Sweep) -> None:
    process = start(sweep, FAKE_PHASE=json.dumps({"baseline": "hangs", "batch_invariant": "hangs"}))
    wait_for(lambda: bool(sweep.records()), limit_s=120)
    second = sweep(*ARGUMENTS, "sweep.resume=true")
    assert second.returncode == 2
    assert "still running" in second.stderr
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not left_over(sweep), limit_s=60)


def test_an_experiment_waits_for_one_that_outlived_its_sweep(sweep: Sweep) -> None:
    """As Slurm's jobs do: two of them must not write into one folder."""
    folder = OutputFolder(sweep.folder.root / "0")
    folder.root.mkdir(parents=True)
    with folder.running_lock.open("ab") as file:
        assert try_lock(file)
        process = start(sweep)
        wait_for(lambda: process.poll() is not None or opened(process.pid, folder.running_lock), limit_s=60)
        time.sleep(0.5)
        assert process.poll() is None
        assert not sweep.records()
    assert process.wait(timeout=120) == 0
    assert sweep.statuses() == ["done", "done"]


def opened(pid: int, path: Path) -> bool:
    return str(path) in {file.path for file in psutil.Process(pid).open_files()}
