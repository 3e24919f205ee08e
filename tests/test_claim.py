import re
import threading
from pathlib import Path

import pytest

from bi_experiments.claim import claimed, complete, refuse_claimed, still_running
from bi_experiments.config.compose import compose
from bi_experiments.config.plain import recorded_configuration
from bi_experiments.errors import ConfigurationError
from bi_experiments.files import try_lock
from bi_experiments.identity import Identity
from bi_experiments.paths import OutputFolder
from bi_experiments.records import INTERRUPTED, from_json, to_json
from tests.factories import experiment_result

RESUME = ("sweep.resume=true", "tracking=off")


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path)


def write_result(folder: OutputFolder, *without: str, stopped: str | None = None) -> None:
    """The record of an experiment of the default settings, as a version wrote it that did not know some of them."""
    configuration = recorded_configuration(compose([]))
    for key in without:
        group, _, name = key.partition(".")
        del configuration[group][name]
    folder.result.write_bytes(to_json(experiment_result(configuration=configuration, stopped=stopped)))


def test_a_folder_is_free_again_once_its_experiment_has_ended(folder: OutputFolder) -> None:
    config = compose([])
    with claimed(folder, config):
        with pytest.raises(ConfigurationError, match="another experiment writes into"):
            refuse_claimed(folder, config)
        with pytest.raises(ConfigurationError, match="another experiment writes into"), claimed(folder, config):
            pass
    refuse_claimed(folder, config)


def test_readers_are_not_taken_for_an_experiment_that_runs(folder: OutputFolder) -> None:
    with claimed(folder, compose([])):
        assert still_running(folder.root)
    with folder.running_lock.open("rb") as reader:
        assert try_lock(reader, shared=True)
        assert not still_running(folder.root)
        threading.Timer(0.1, reader.close).start()
        with claimed(folder, compose([])):
            assert still_running(folder.root)


def test_what_is_only_looked_at_is_left_as_it_is(folder: OutputFolder) -> None:
    refuse_claimed(folder, compose([]))
    refuse_claimed(OutputFolder(folder.root / "nowhere"), compose([]))
    assert list(folder.root.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "has an experiment already: set hydra.run.dir to another folder, or sweep.resume=true to resume it"),
        (RESUME, None),
        ((*RESUME, "protocol.time_budget_min=60"), None),
        ((*RESUME, "seed=2", "tp=2"), "has another experiment (tp 1 -> 2; seed 12345 -> 2)"),
        ((*RESUME, "workload.fresh_prompts=true"), "has another experiment (workload.fresh_prompts false -> true)"),
    ],
)
def test_an_experiment_is_resumed_by_its_own_settings_alone(
    folder: OutputFolder, settings: tuple[str, ...], said: str | None
) -> None:
    write_result(folder, "workload.fresh_prompts")
    config = compose(settings)
    if said is None:
        refuse_claimed(folder, config)
        return
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        refuse_claimed(folder, config)


def test_an_experiment_is_not_resumed_on_another_machine_or_with_other_versions(folder: OutputFolder) -> None:
    config = compose(RESUME)
    with claimed(folder, config):
        pass
    write_result(folder, stopped=INTERRUPTED)
    refuse_claimed(folder, config)
    here = from_json(folder.identity.read_bytes(), Identity, folder.identity)
    elsewhere = here.parts | {"environment: vllm": "0.1.2", "seed": "7"}  # the record says what the settings were
    folder.identity.write_bytes(to_json(Identity(digest="another", parts=elsewhere)))
    vllm = here.parts["environment: vllm"]
    with pytest.raises(
        ConfigurationError, match=re.escape(f"began in another environment (environment: vllm 0.1.2 -> {vllm})")
    ):
        refuse_claimed(folder, config)
    folder.identity.write_text("{")
    with pytest.raises(ConfigurationError, match=r"identity\.json"):
        refuse_claimed(folder, config)
    write_result(folder)  # nothing is left to run
    before = folder.identity.read_bytes()
    with claimed(folder, config):
        pass
    assert folder.identity.read_bytes() == before


def test_only_an_experiment_that_was_not_stopped_is_complete(folder: OutputFolder) -> None:
    assert complete(folder) is None
    for stopped in (INTERRUPTED, "the time budget of 5 min was spent after 2 pairs"):
        folder.result.write_bytes(to_json(experiment_result(stopped=stopped)))
        assert complete(folder) is None
    folder.result.write_bytes(to_json(experiment_result()))
    assert complete(folder) == experiment_result()
