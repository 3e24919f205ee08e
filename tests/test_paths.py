import argparse
import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from bi_experiments.claim import read_ended
from bi_experiments.errors import ConfigurationError
from bi_experiments.files import write_atomically
from bi_experiments.paths import OutputFolder, bound_log, folder_argument, log_tail, read_result, with_results
from bi_experiments.records import Arm, to_json
from tests import factories


def test_a_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    write_atomically(path, b"first, and longer")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_phase_folders_sort_in_schedule_order(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    names = [folder.phase(index, Arm.BASELINE).root.name for index in range(12)]
    assert names == sorted(names)


def test_the_end_of_a_log_is_plain_and_bounded(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_bytes(b"\x1b[31mred\x1b[0m\x07\n" * 100 + b"y" * 5_000_000 + b"\n\x1b]0;title\x07end \xff\n")
    lines = log_tail(log)
    assert len(lines) <= 30
    assert all(len(line) <= 300 and line.isprintable() for line in lines)
    assert lines[-1] == "end \N{REPLACEMENT CHARACTER}"
    assert log_tail(tmp_path / "missing") == []


def test_a_log_that_is_too_long_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_bytes(b"begin\n" + b"x" * 10_000 + b"\nend\n")
    bound_log(log, most_bytes=100)
    text = log.read_text()
    assert text.startswith("begin\n")
    assert text.endswith("\nend\n")
    assert "bytes left out" in text
    assert len(text) < 200


@pytest.mark.parametrize("key", ["workload", "workload.num_trials", "tracking.uri", "protocol.equivalence_pct"])
@pytest.mark.parametrize("value", [None, "absent"])
def test_a_record_without_its_settings_is_refused_by_name(key: str, value: str | None, tmp_path: Path) -> None:
    record = json.loads(to_json(factories.whole_result()))
    group, _, name = key.partition(".")
    settings, last = (record["configuration"][group], name) if name else (record["configuration"], group)
    settings[last] = None
    if value == "absent":
        del settings[last]
    (tmp_path / "result.json").write_text(json.dumps(record))
    with pytest.raises(ConfigurationError, match=f"has no {key}.* in its configuration"):
        read_result(tmp_path)


def test_a_comparison_of_trials_that_are_not_there_is_refused(tmp_path: Path) -> None:
    result = factories.whole_result()
    emptied = tuple(replace(phase, trials=()) for phase in result.phases)
    (tmp_path / "result.json").write_bytes(to_json(replace(result, phases=emptied)))
    with pytest.raises(ConfigurationError, match="compares 3 pairs and has the trials of none"):
        read_result(tmp_path)


def test_what_names_no_folder_is_refused_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "result.json").touch()
    for text, said in (
        ("", "is a variable of the shell not set"),
        (str(tmp_path / "result.json"), "is a file: pass the folder that it is in"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=said):
            folder_argument(text)
    for text in (str(tmp_path), "not/there", "n" * 300):
        assert folder_argument(text) == Path(text)


def test_a_folder_that_cannot_be_looked_into_has_no_record(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    write_atomically(tmp_path / "there" / "result.json", b"{}")
    broken = [tmp_path / ("n" * 300), loop, tmp_path / "there" / "result.json"]
    assert with_results([tmp_path / "there", *broken])[0] == [tmp_path / "there"]
    for folder in broken:
        with pytest.raises(ConfigurationError, match=r"cannot be read|has no result\.json"):
            read_ended(folder)
