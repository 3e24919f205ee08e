import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import gone, wait_for
from tests.sweep.launchers.local_ray import local_ray, why_not
from tests.sweep.launchers.programs import Sweep, interpreter

pytestmark = [pytest.mark.system, pytest.mark.skipif(why_not() is not None, reason=f"no Ray: {why_not()}")]


@pytest.fixture(scope="module")
def on_ray() -> Iterator[tuple[dict[str, str], str, str]]:
    """The variables, and what is typed, to run on the cluster."""
    with local_ray() as (address, variables):
        yield variables, "hydra/launcher=ray", f"hydra.launcher.address={address}"


def test_failing_and_killed_experiments_are_rows_and_the_others_run(
    on_ray: tuple[dict[str, str], str, str], tmp_path: Path, fake_python: Path
) -> None:
    fails = interpreter(tmp_path / "fails", fake_python, 'export FAKE_PHASE=\'{"baseline":"fails"}\'')
    kills = interpreter(tmp_path / "kills", fake_python, 'case "$*" in */phases/*) kill -9 $PPID;; esac')
    pythons = f"runtime.python={kills},{fails},{fake_python},/no/python"
    sweep = Sweep(tmp_path, *on_ray, "hydra.launcher.max_retries=0", pythons)
    output = sweep.end()
    assert sweep.process.returncode == 1, output
    rows = sweep.rows()
    assert [row["status"] for row in rows] == ["failed", "failed", "done", "cannot run"]
    assert [row["exit_code"] for row in rows] == [1, 1, 0, 2]
    assert "it broke" in rows[1]["reason"]
    assert 9.5 < rows[2]["change_pct"] < 11
    result = json.loads((sweep.root / "2" / "result.json").read_text())
    assert [phase["status"] for phase in result["phases"]] == ["ok"] * 4


def test_an_experiment_whose_process_is_lost_resumes_where_it_was(
    on_ray: tuple[dict[str, str], str, str], tmp_path: Path, fake_python: Path
) -> None:
    marker = tmp_path / "killed"
    kill = f'case "$*" in */phases/02-*) [ -e {marker} ] || {{ touch {marker}; kill -9 $PPID; }};; esac'
    sweep = Sweep(tmp_path, *on_ray, f"runtime.python={interpreter(tmp_path / 'kills', fake_python, kill)}")
    output = sweep.end()
    assert sweep.process.returncode == 0, output
    assert marker.exists()
    phases = sweep.phases()
    assert [phases[index]["status"] for index in range(4)] == ["ok"] * 4
    assert max(phases[index]["started_at"] for index in (0, 1)) < marker.stat().st_mtime < phases[2]["started_at"]


def test_interrupting_the_sweep_ends_its_phases(
    on_ray: tuple[dict[str, str], str, str], tmp_path: Path, fake_python: Path
) -> None:
    child = tmp_path / "child"
    behaviour = json.dumps({"baseline": "child", "batch_invariant": "child"})
    hangs = interpreter(
        tmp_path / "hangs", fake_python, f"export FAKE_PHASE='{behaviour}'", f"export CHILD_PID={child}"
    )
    # A suite that was itself started in the background ignores SIGINT, and would hand that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sweep = Sweep(tmp_path, *on_ray, f"runtime.python={hangs}")
    wait_for(child.exists, 60)
    os.kill(sweep.process.pid, signal.SIGINT)
    output = sweep.end()
    assert sweep.process.returncode == 130, output
    assert [row["exit_code"] for row in sweep.rows()] == [130]
    # They end with their task's process, which is Ray's: a moment later than the sweep.
    wait_for(lambda: gone(int(child.read_text())), 90)


def test_a_cluster_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {}, "hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:1")
    output = sweep.end()
    assert sweep.process.returncode == 2
    assert [line for line in output.splitlines() if line.startswith("error: no Ray cluster was found at")]
    assert "Traceback" not in output
