import pickle
from pathlib import Path
from unittest.mock import Mock

import pytest
from omegaconf import OmegaConf

from bi_experiments.errors import ExitCode
from bi_experiments.files import try_lock
from bi_experiments.sweep import callback as module
from bi_experiments.sweep.callback import SweepCallback


def test_a_launchers_worker_gets_the_callback_without_the_lock(tmp_path: Path) -> None:
    callback = SweepCallback()
    callback._running = (tmp_path / ".running.lock").open("ab")
    assert try_lock(callback._running)
    copied = pickle.loads(pickle.dumps(callback))
    assert copied._running is None
    with (tmp_path / ".running.lock").open("ab") as other:
        assert not try_lock(other), "the program that the user started still holds it"
    callback._running.close()


def test_an_error_at_the_end_of_a_sweep_is_one_line_and_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_finish", Mock(side_effect=OSError(28, "No space left on device")))
    config = OmegaConf.create({"sweep": {"confirm": False}, "hydra": {"sweep": {"dir": str(tmp_path)}}})
    with pytest.raises(SystemExit) as ended:
        SweepCallback().on_multirun_end(config)
    assert ended.value.code == ExitCode.PHASE_FAILED
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "No space left on device" in said
