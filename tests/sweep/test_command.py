from pathlib import Path

import pytest

from bi_experiments.files import write_atomically
from bi_experiments.records import to_json
from bi_experiments.sweep.command import lasting, newest_of, swept, typed, typed_sweep
from tests.sweep.test_summary import OF


def test_how_a_sweep_goes_about_it_is_no_part_of_what_is_run() -> None:
    assert lasting(["tp=1,2", "sweep.resume=true", "hydra.sweep.dir=x", "hydra/launcher=joblib"]) == (
        "tp=1,2",
        "hydra/launcher=joblib",
    )


def test_command_lines_can_be_typed_again() -> None:
    assert (
        typed(["tp=2", "workload.needle='a b'"]) == """python -m bi_experiments tp=2 'workload.needle='"'"'a b'"'"''"""
    )
    assert typed_sweep(["tp=1,2"]) == "python -m bi_experiments -m tp=1,2"


def test_what_an_experiment_does_not_share_with_its_sweep() -> None:
    assert swept(["model=demo", "tp=2", "+a.b={x:1}", "sweep.resume=True"], OF.command) == {"tp": "2", "a.b": "{x:1}"}


@pytest.mark.parametrize("depth", ["one", "day/one"])
def test_the_newest_sweep_of_a_command_is_found(tmp_path: Path, depth: str) -> None:
    assert newest_of(OF.command, tmp_path) is None
    for name, started_at, command in (("a", 1.0, OF.command), ("b", 2.0, OF.command), ("c", 3.0, ("tp=3",))):
        record = OF.__class__(
            command=command, started_at=started_at, session_started_at=0.0, pid=1, planned=None, skip_impossible=False
        )
        write_atomically(tmp_path / f"{depth}{name}" / "sweep.json", to_json(record))
    write_atomically(tmp_path / f"{depth}d" / "sweep.json", b"no record")
    assert newest_of(OF.command, tmp_path) == tmp_path / f"{depth}b"
