import subprocess
import sys
import time
from pathlib import Path

import pytest

from bi_experiments.paths import OutputFolder
from bi_experiments.records import Arm, RecordError
from bi_experiments.tracking.system_metrics import Reading, readings, stored, write
from tests import factories


def test_mlflows_monitors_are_read_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    before = time.time()
    with readings(enabled=True) as taken:
        while len(taken) < 2:
            time.sleep(0.01)
    after, number = time.time(), len(taken)
    time.sleep(0.05)
    assert len(taken) == number
    assert all(before <= reading.time <= after for reading in taken)
    assert {"cpu_utilization_percentage", "system_memory_usage_megabytes"} <= taken[0].values.keys()
    assert taken[0].values["system_memory_usage_megabytes"] > 0


def test_nothing_is_read_and_mlflow_not_imported_when_tracking_is_off() -> None:
    code = (
        "import sys, threading\n"
        "from bi_experiments.tracking.system_metrics import readings\n"
        "with readings(enabled=False) as taken:\n"
        "    print(taken, threading.active_count(), 'mlflow' in sys.modules)\n"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[] 1 False\n"
    )


def test_each_phase_gets_what_was_read_while_it_ran(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    phases = factories.phases([7.0])
    assert [phase.started_at for phase in phases] == [factories.START, factories.START + 60]
    taken = [Reading(time=factories.START + after, values={"x": after}) for after in (-1.0, 1.0, 59.0, 61.0)]
    write(taken, folder, phases)
    assert stored(folder.phase(0, Arm.BASELINE).system_metrics) == taken[1:3]
    assert stored(folder.phase(1, Arm.BATCH_INVARIANT).system_metrics) == taken[3:]
    write([], OutputFolder(tmp_path / "none"), phases)
    assert not (tmp_path / "none").exists()
    assert stored(folder.phase(7, Arm.BASELINE).system_metrics) == []


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(RecordError, match="not readings of system metrics"):
        stored(tmp_path / "x.jsonl")
