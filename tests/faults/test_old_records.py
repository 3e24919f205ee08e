"""What was written before stays readable: records of earlier versions are reported, compared, tracked and resumed."""

import gzip
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from omegaconf import MISSING

from bi_experiments import compare, plan, track
from bi_experiments.analysis.invariance import judged_anew
from bi_experiments.claim import refuse_claimed
from bi_experiments.config.compose import compose, defaults_then, with_defaults
from bi_experiments.config.plain import changes, deciding, leaves, recorded_configuration
from bi_experiments.errors import ConfigurationError, ExitCode
from bi_experiments.files import write_atomically
from bi_experiments.launch.location import recorded_config
from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.records import to_json
from bi_experiments.report import __main__ as report
from bi_experiments.report import output
from bi_experiments.report.planning import planning
from tests.conftest import REPOSITORY

STORED = sorted((REPOSITORY / "docs" / "results").glob("*.result.json.gz"))
"""Records of the table of results, as earlier versions wrote them."""


def representatives(stored: list[Path]) -> list[Path]:
    """A few records that stand for all: each name that only some have is in one of them, and missing in another.

    The time that tests of these take goes with the versions of the format, not with the table's length.
    """
    names = {path: frozenset(re.findall(rb'"(\w+)": ', gzip.decompress(path.read_bytes()))) for path in stored}
    every = frozenset().union(*names.values())
    features = {path: {(name, name in own) for name in every} for path, own in names.items()}
    kept: list[Path] = []
    left = set().union(*features.values())
    while left:
        kept.append(max(stored, key=lambda path: len(left & features[path])))
        left -= features[kept[-1]]
    return kept


VERSION_1 = REPOSITORY / "tests" / "analysis" / "version_1_result.json"
"""A record of version 1, without most of its configuration."""
FEW = [VERSION_1, *representatives(STORED)]
LATER = {
    "protocol": ("discard_first", "inject_pct", "launches_per_cache"),
    "runtime": ("init_timeout_s", "probe_timeout_s", "trial_timeout_s", "warmup_timeout_s"),
    "sweep": ("confirm",),
    "verify": ("later_launches", "locate", "strict_launches", "time_share", "trial_prompts"),
    "workload": ("fresh_prompts",),
}
"""Settings that version 1 did not have, nor `profile`."""


def folder_of(stored: Path, root: Path) -> Path:
    """An output folder in which a stored record is all that is left."""
    folder = root / stored.stem
    folder.mkdir()
    data = stored.read_bytes()
    (folder / "result.json").write_bytes(gzip.decompress(data) if stored.suffix == ".gz" else version_1(data))
    return folder


def version_1(data: bytes) -> bytes:
    """The record with a configuration as version 1 had it."""
    record: dict[str, Any] = json.loads(data)
    configuration = recorded_configuration(compose(["experiment=cpu_demo"]))
    del configuration["profile"]
    for group, names in LATER.items():
        for name in names:
            del configuration[group][name]
        configuration[group] |= record["configuration"].get(group, {})
    return json.dumps(record | {"configuration": configuration}).encode()


def test_there_are_stored_records() -> None:
    assert len(STORED) >= 3
    assert 3 <= len(FEW) < len(STORED)


@pytest.mark.parametrize("stored", FEW, ids=lambda path: path.name)
def test_its_pages_are_written(stored: Path, tmp_path: Path) -> None:
    folder = folder_of(stored, tmp_path)
    assert report.main([str(folder)]) == ExitCode.DONE
    for page in (OutputFolder(folder).report_html, OutputFolder(folder).report_markdown):
        assert page.is_file()


@pytest.mark.parametrize("stored", [VERSION_1, *STORED], ids=lambda path: path.name)
def test_it_is_reported_and_compared(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(stored, tmp_path)
    result = read_result(folder)
    output.write_text(judged_anew(result), OutputFolder(folder))
    assert OutputFolder(folder).report_text.is_file()
    again = OutputFolder(tmp_path / "again")
    write_atomically(again.result, to_json(replace(result, started_at=1.0)))
    assert compare.main([str(folder), str(again.root)]) is not ExitCode.CANNOT_RUN
    plan.main([str(folder)])
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "has no two complete pairs" not in line] == []


def test_they_are_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [str(folder_of(stored, tmp_path)) for stored in FEW]
    assert track.main([*folders, "--uri", "sqlite:///later.db"]) == ExitCode.DONE


@pytest.mark.parametrize("stored", STORED, ids=lambda path: path.name)
def test_it_is_resumed_by_its_command_and_the_defaults_that_were_others_then(stored: Path, tmp_path: Path) -> None:
    folder = folder_of(stored, tmp_path)
    result = read_result(folder)
    _, _, _, *settings = shlex.split(result.command)
    settings += [
        "sweep.resume=true",
        f"verify.compositions=[{','.join(result.configuration['verify']['compositions'])}]",
    ]
    if result.configuration["backend"]["async_scheduling"] is False:
        with pytest.raises(
            ConfigurationError, match=r"\(backend.async_scheduling false -> null\).* set back what differs"
        ):
            refuse_claimed(OutputFolder(folder), compose(settings))
        settings.append("backend.async_scheduling=false")
    refuse_claimed(OutputFolder(folder), compose(settings))
    with pytest.raises(ConfigurationError, match=r"has another experiment \(seed"):
        refuse_claimed(OutputFolder(folder), compose([*settings, "seed=7"]))


@pytest.mark.parametrize("stored", STORED, ids=lambda path: path.name)
def test_what_it_recommends_to_run_is_the_same_experiment_today(stored: Path, tmp_path: Path) -> None:
    result = read_result(folder_of(stored, tmp_path))
    then = defaults_then(result.command, result.configuration)
    commands = [line.removeprefix("Run: ") for line in planning(result) if line.startswith("Run: ")]
    for command in commands:
        assert [part for part in shlex.split(command) if part in then] == list(then)
    _, _, _, *settings = shlex.split(result.command)
    composed = recorded_configuration(compose([*settings, *then]))
    assert changes(deciding(with_defaults(result.configuration)), deciding(composed)) == []


@pytest.mark.parametrize("lacks", ["profile", "protocol", "runtime.init_timeout_s"])
def test_a_setting_that_it_does_not_know_is_as_by_default_where_it_is_located(lacks: str, tmp_path: Path) -> None:
    result = read_result(folder_of(STORED[0], tmp_path))
    group, _, name = lacks.partition(".")
    if name:
        del result.configuration[group][name]
    else:
        del result.configuration[group]
    found = leaves(recorded_configuration(recorded_config(result)))
    assert MISSING not in found.values()
    expected = leaves(recorded_configuration(compose([])))
    assert {key: text for key, text in found.items() if key.startswith(lacks)} == {
        key: text for key, text in expected.items() if key.startswith(lacks)
    }
