import hashlib
from pathlib import Path
from statistics import fmean

import pytest

from bi_experiments.config.compose import compose
from bi_experiments.config.schema import WorkloadConfig
from bi_experiments.errors import ConfigurationError
from bi_experiments.records import Workload, from_json
from bi_experiments.workload import build_workload, write_workload


def configured(*overrides: str) -> WorkloadConfig:
    return compose(overrides).workload


def test_the_same_seed_gives_the_same_workload_and_another_seed_another() -> None:
    config = configured("workload.max_batch_size=8", "workload.min_prompt=5", "workload.max_prompt=20")
    assert build_workload(config, 1) == build_workload(config, 1)
    assert build_workload(config, 1) != build_workload(config, 2)


def test_batch_sizes_reach_from_half_to_all_of_the_largest() -> None:
    config = configured("workload.max_batch_size=8", "workload.num_trials=200", "workload.max_prompt=1024")
    sizes = {trial.batch_size for trial in build_workload(config, 1).trials}
    assert sizes == {4, 5, 6, 7, 8}


def test_a_largest_batch_of_one_is_the_needle_alone() -> None:
    config = configured("workload.max_batch_size=1")
    for trial in build_workload(config, 1).trials:
        assert trial.prompts == (config.needle,)


@pytest.mark.parametrize("largest", [2, 3])
def test_a_batch_that_has_room_for_two_has_an_ordinary_prompt(largest: int) -> None:
    config = configured(f"workload.max_batch_size={largest}", "workload.num_trials=200", "workload.max_prompt=1024")
    trials = build_workload(config, 1).trials
    assert {trial.batch_size for trial in trials} == set(range(2, largest + 1))
    assert sum(trial.batch_size == largest for trial in trials) > 80  # uniform: 100 of two sizes
    assert all(any(len(prompt.split()) == 1024 for prompt in trial.prompts) for trial in trials)


@pytest.mark.parametrize(
    ("overrides", "digest"),
    [
        (["workload.max_batch_size=128"], "ea0ed08e1b40ad4f"),
        (["workload.max_batch_size=4"], "9b77b85bb5f4260a"),
        (["workload=vllm_script", "workload.max_batch_size=128"], "003706813e2b1db4"),
        (["experiment=cpu_demo"], "33b6ee2b392547aa"),
    ],
)
def test_the_prompts_of_a_seed_are_those_of_stored_records(overrides: list[str], digest: str, tmp_path: Path) -> None:
    written = write_workload(build_workload(configured(*overrides), 12345), tmp_path / "workload.json")
    assert written.startswith(digest)


def test_the_needle_stands_where_the_trial_says_and_moves() -> None:
    config = configured("workload.max_batch_size=8", "workload.num_trials=50", "workload.max_prompt=1024")
    workload = build_workload(config, 1)
    for trial in workload.trials:
        assert [index for index, prompt in enumerate(trial.prompts) if prompt == "There once was a "] == [
            trial.needle_position
        ]
    assert len({trial.needle_position for trial in workload.trials}) > 4


def test_needle_prompts_have_the_number_of_words_asked_for() -> None:
    config = configured("workload.max_batch_size=64", "workload.min_prompt=10", "workload.max_prompt=30")
    lengths = [
        len(prompt.split())
        for trial in build_workload(config, 1).trials
        for index, prompt in enumerate(trial.prompts)
        if index != trial.needle_position
    ]
    assert min(lengths) == 10
    assert max(lengths) == 30
    assert 18 < fmean(lengths) < 22


def test_vllm_script_prompts_are_as_short_as_those_of_vllms_script() -> None:
    """7 to 13 words, and 9 more for every 50 of the 1024 to 2048 asked for: 187 to 373 words."""
    config = configured("workload=vllm_script")
    lengths = [
        len(prompt.split())
        for trial in build_workload(config, 1).trials
        for index, prompt in enumerate(trial.prompts)
        if index != trial.needle_position
    ]
    assert 187 <= min(lengths) < 200
    assert 360 < max(lengths) <= 373


def test_the_digest_is_of_the_file_that_the_phases_read(tmp_path: Path) -> None:
    workload = build_workload(configured("workload.max_batch_size=4"), 1)
    path = tmp_path / "workload.json"
    digest = write_workload(workload, path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert from_json(path.read_bytes(), Workload, path) == workload


def test_an_unknown_kind_names_those_that_exist() -> None:
    config = configured("workload.kind=sharegpt")
    with pytest.raises(ConfigurationError, match=r"workload\.kind=sharegpt does not exist: use one of needle"):
        build_workload(config, 1)
