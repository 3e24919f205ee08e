"""Several experiments at once on one machine, with the CPU as the device."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from bi_experiments.records import ExperimentResult, from_json
from tests.processes import wait_for
from tests.sweep.conftest import Sweep
from tests.sweep.test_kills import left_over

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra `joblib` is not installed")

FOUR_AT_ONCE = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=4", "sweep.cores=1", "workload.max_batch_size=2,3,4,5")


@pytest.fixture
def two_cores() -> Iterator[None]:
    """Processes that are started meanwhile may run on two cores."""
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("needs two CPUs")
    os.sched_setaffinity(0, sorted(cores)[:2])
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("two_cores")
def test_four_experiments_share_two_cores(sweep: Sweep) -> None:
    done = sweep(*FOUR_AT_ONCE)
    assert done.returncode == 0, done.stderr
    assert sweep.statuses() == ["done"] * 4
    assert "waiting" in done.stdout
    results = [read(sweep, number) for number in range(4)]
    assert all(result.environment.cpu_count == 1 for result in results)
    assert most_at_once(results) == 2
    assert any(result.beside for result in results)
    for number, result in enumerate(results):
        said = re.search(r"shared: Other experiments ran on\s+this\s+machine", report(sweep, number))
        assert bool(said) == bool(result.beside)
        assert not [name for name in result.beside if name.startswith(f"sweep/{number} ")]


@pytest.mark.usefixtures("two_cores")
def test_killed_workers_leave_no_process_and_no_lock(sweep: Sweep) -> None:
    process = subprocess.Popen(
        sweep.command(*FOUR_AT_ONCE),
        cwd=sweep.working_folder,
        env={
            **sweep.environment,
            "TEST_SWEEP": str(sweep.working_folder),
            "FAKE_PHASE": '{"baseline": "hangs", "batch_invariant": "hangs"}',
        },
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: len(list(sweep.folder.root.glob("*/phases/*/events.jsonl"))) == 2, limit_s=120)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not left_over(sweep), limit_s=60)
    assert sweep(*FOUR_AT_ONCE, "sweep.resume=true").returncode == 0
    assert sweep.statuses() == ["done"] * 4


def test_the_summary_says_what_an_interruption_of_the_program_cut_short(sweep: Sweep) -> None:
    """The signal reaches the program alone, not the workers, which therefore write nothing."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        sweep.command("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "workload.max_batch_size=2,3"),
        cwd=sweep.working_folder,
        env={**sweep.environment, "FAKE_PHASE": '{"baseline": "hangs", "batch_invariant": "hangs"}'},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: bool(list(sweep.folder.root.glob("*/phases/*/events.jsonl"))), limit_s=120)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert " interrupted\n" in output
    assert "Summary: " in output
    assert set(sweep.statuses()) == {"interrupted"}
    assert ",running," not in sweep.folder.csv.read_text()


def read(sweep: Sweep, number: int) -> ExperimentResult:
    path = sweep.folder.root / str(number) / "result.json"
    return from_json(path.read_bytes(), ExperimentResult, path)


def report(sweep: Sweep, number: int) -> str:
    return (sweep.folder.root / str(number) / "report.txt").read_text()


def most_at_once(results: list[ExperimentResult]) -> int:
    """Most phases that were alive at the same time."""
    starts = [(phase.started_at, 1) for result in results for phase in result.phases]
    ends = [(phase.started_at + phase.wall_time_s, -1) for result in results for phase in result.phases]
    alive = most = 0
    for _, change in sorted(starts + ends):
        alive += change
        most = max(most, alive)
    return most
