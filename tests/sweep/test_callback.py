import pickle
from pathlib import Path

from bi_experiments.files import try_lock
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
