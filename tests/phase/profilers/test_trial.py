"""Which trial is profiled, and what becomes of traces that are missing, broken or too large."""

import gzip
from pathlib import Path

import pytest

from bi_experiments.phase.profilers import PROFILER, PROFILERS, trial
from bi_experiments.records import Profile, ProfiledStep
from tests.phase.profilers.test_chrome_trace import event, step, written

OBSERVED = Profile(profiler="torch", trial=1, time_s=1.0)


@pytest.mark.parametrize(("sizes", "index"), [((5,), 0), ((9, 1), 1), ((9, 1, 5), 2), ((4, 1, 3, 2), 3)])
def test_the_trial_in_the_middle_stands_for_the_others(sizes: tuple[int, ...], index: int) -> None:
    assert trial.middle(sizes) == index


def test_the_profile_has_the_mean_of_the_workers(tmp_path: Path) -> None:
    for rank in "01":
        (tmp_path / rank).mkdir()
    paths = [
        written(tmp_path / rank, step("decode", 0, 100), event("cpu_op", "aten::mm", 0, time_us))
        for rank, time_us in (("0", 20), ("1", 40))
    ]
    profile = trial.with_traces(OBSERVED, paths)
    assert (profile.stopped, profile.workers, profile.on_device) == (None, 2, False)
    (operation,) = profile.operations
    assert (operation.calls, operation.steps) == (1, ProfiledStep.DECODE)
    assert operation.time_s == pytest.approx(30e-6)
    assert profile.traces == (paths[0].name, paths[1].name)


def test_without_a_trace_the_profile_says_why(tmp_path: Path) -> None:
    assert trial.with_traces(OBSERVED, []).stopped == "the profiler torch wrote no trace: the phase's log says why"
    broken = tmp_path / "broken.json.gz"
    broken.write_bytes(gzip.compress(b"{"))
    profile = trial.with_traces(OBSERVED, [broken])
    assert profile.stopped is not None
    assert profile.stopped.startswith("the trace broken.json.gz cannot be read")
    assert profile.traces == ("broken.json.gz",)


def test_a_trace_too_large_to_keep_is_read_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, step("decode", 0, 100), event("cpu_op", "aten::mm", 0, 20))
    monkeypatch.setattr(trial, "MOST_TRACE_BYTES", 10)
    profile = trial.with_traces(OBSERVED, [path])
    assert profile.traces == ()
    assert profile.traces_left_out == (f"{path.name} (0 MiB)",)
    assert len(profile.operations) == 1
    assert not path.exists()


def test_a_profiler_writes_into_the_folder_it_is_given(tmp_path: Path) -> None:
    profiler = PROFILERS[PROFILER](tmp_path / "profile")
    assert profiler.engine_arguments["torch_profiler_dir"] == str(tmp_path / "profile")
    assert profiler.traces() == []
