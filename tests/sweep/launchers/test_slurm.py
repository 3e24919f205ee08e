import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import gone, wait_for
from tests.sweep.launchers.one_node_slurm import OneNodeSlurm, one_node_slurm, why_not
from tests.sweep.launchers.programs import Sweep, interpreter

pytestmark = [pytest.mark.system, pytest.mark.skipif(why_not() is not None, reason=f"no Slurm: {why_not()}")]

ON_SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_rank=1", "hydra.launcher.poll_s=1")
HANGS = json.dumps({"baseline": "hangs", "batch_invariant": "hangs"})


@pytest.fixture(scope="module")
def slurm() -> Iterator[OneNodeSlurm]:
    with one_node_slurm() as cluster:
        yield cluster


@pytest.fixture
def hangs_once(tmp_path: Path, fake_python: Path) -> Path:
    """An interpreter whose third phase hangs the first time."""
    marker = tmp_path / "hung"
    hang = f"case \"$*\" in */phases/02-*) [ -e {marker} ] || {{ touch {marker}; export FAKE_PHASE='{HANGS}'; }};; esac"
    return interpreter(tmp_path / "hangs_once", fake_python, hang)


def test_experiments_are_jobs_with_the_cpus_of_their_ranks(
    slurm: OneNodeSlurm, tmp_path: Path, fake_python: Path
) -> None:
    sweep = Sweep(tmp_path, slurm.variables, *ON_SLURM, f"runtime.python={fake_python}", "tp=1,2,1")
    output = sweep.end()
    assert sweep.process.returncode == 0, output
    assert [row["status"] for row in sweep.rows()] == ["done"] * 3
    assert [row["exit_code"] for row in sweep.rows()] == [0] * 3
    for number in range(3):
        result = json.loads((sweep.root / str(number) / "result.json").read_text())
        assert [phase["status"] for phase in result["phases"]] == ["ok"] * 4
        assert 9.5 < sweep.rows()[number]["change_pct"] < 11
    jobs = slurm.ask("scontrol", "show", "job", "--oneliner").splitlines()
    assert sorted(re.findall(r"NumCPUs=(\d+)", "\n".join(jobs))) == ["1", "1", "2"]
    assert "0" in output
    assert (sweep.root / "sweep.html").is_file()


def test_a_failing_and_a_killed_experiment_are_rows_and_the_others_run(
    slurm: OneNodeSlurm, tmp_path: Path, fake_python: Path
) -> None:
    fails = interpreter(tmp_path / "fails", fake_python, 'export FAKE_PHASE=\'{"baseline":"fails"}\'')
    kills = interpreter(tmp_path / "kills", fake_python, 'case "$*" in */phases/*) kill -9 $PPID;; esac')
    sweep = Sweep(tmp_path, slurm.variables, *ON_SLURM, f"runtime.python={kills},{fails},{fake_python},/no/python")
    output = sweep.end()
    assert sweep.process.returncode == 1, output
    rows = sweep.rows()
    assert [row["status"] for row in rows] == ["failed", "failed", "done", "cannot run"]
    assert [row["exit_code"] for row in rows] == [1, 1, 0, 2]
    assert "Slurm ended its job" in rows[0]["reason"]
    assert "it broke" in rows[1]["reason"]


def test_a_cancelled_job_leaves_no_process_and_says_so(slurm: OneNodeSlurm, tmp_path: Path, fake_python: Path) -> None:
    child = tmp_path / "child"
    variables = {"FAKE_PHASE": json.dumps({"baseline": "child", "batch_invariant": "child"}), "CHILD_PID": str(child)}
    sweep = Sweep(tmp_path, slurm.variables | variables, *ON_SLURM, f"runtime.python={fake_python}")
    wait_for(child.exists, 60)
    slurm.ask("scancel", *slurm.jobs())
    output = sweep.end()
    assert sweep.process.returncode == 130, output
    assert [row["exit_code"] for row in sweep.rows()] == [130]
    assert gone(int(child.read_text()))
    assert not [process for process in slurm.leftovers() if "fake_phase" in " ".join(process.cmdline())]


def test_interrupting_the_sweep_cancels_its_jobs(slurm: OneNodeSlurm, tmp_path: Path, fake_python: Path) -> None:
    child = tmp_path / "child"
    variables = {"FAKE_PHASE": json.dumps({"baseline": "child", "batch_invariant": "child"}), "CHILD_PID": str(child)}
    # A suite that was itself started in the background ignores SIGINT, and would hand that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sweep = Sweep(tmp_path, slurm.variables | variables, *ON_SLURM, f"runtime.python={fake_python}", "seed=1,2,3")
    wait_for(child.exists, 60)
    os.kill(sweep.process.pid, signal.SIGINT)
    output = sweep.end()
    assert sweep.process.returncode == 130, output
    wait_for(lambda: not slurm.jobs())
    assert gone(int(child.read_text()))


def test_a_requeued_job_resumes_where_it_was(slurm: OneNodeSlurm, tmp_path: Path, hangs_once: Path) -> None:
    """`scontrol requeue` does what a preemption by requeue does: SIGTERM, SIGKILL, and the job in the queue again."""
    sweep = Sweep(tmp_path, slurm.variables, *ON_SLURM, f"runtime.python={hangs_once}")
    before = _finished_before_it_hangs(sweep, tmp_path)
    slurm.ask("scontrol", "requeue", *slurm.jobs())
    _resumes(sweep, before)


def test_a_job_at_its_time_limit_is_requeued_and_resumes(slurm: OneNodeSlurm, tmp_path: Path, hangs_once: Path) -> None:
    """By Slurm's own timer, at the shortest limit that is taken: the signal comes 1 to 2 minutes after the start."""
    limit = ("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=5")
    sweep = Sweep(tmp_path, slurm.variables, *ON_SLURM, *limit, f"runtime.python={hangs_once}")
    before = _finished_before_it_hangs(sweep, tmp_path)
    _resumes(sweep, before, limit_s=240)
    (log,) = sweep.root.glob("slurm/*/*_log.err")
    assert "this job is timed-out" in log.read_text()


def _finished_before_it_hangs(sweep: Sweep, folder: Path) -> dict[int, float]:
    """When the phases started that had ended before the third one hung."""
    wait_for((folder / "hung").exists, 60)
    before = {index: phase["started_at"] for index, phase in sweep.phases().items()}
    assert sorted(before) == [0, 1]
    return before


def _resumes(sweep: Sweep, before: dict[int, float], limit_s: float = 120) -> None:
    """The job runs again: what had ended is taken over, what hung is run, and the sweep ends well."""
    requeued = time.time()
    output = sweep.end(limit_s)
    assert sweep.process.returncode == 0, output
    phases = sweep.phases()
    assert [phases[index]["status"] for index in range(4)] == ["ok"] * 4
    assert {index: phases[index]["started_at"] for index in before} == before
    assert phases[2]["started_at"] > requeued
    assert [row["status"] for row in sweep.rows()] == ["done"]
