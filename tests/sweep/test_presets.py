"""The presets that are sweeps: one word on the command line."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.types import RunMode

from bi_experiments.config.checks import check
from bi_experiments.config.compose import compose as compose_experiment
from bi_experiments.config.compose import conf_folder, register_schema
from bi_experiments.sweep.command import planned_experiments
from tests.sweep.conftest import Sweep

SWEEPS = {
    "backend_matrix": 3,
    "batch_scaling": 9,
    "prompt_scaling": 5,
    "tp_scaling": 4,
    "dtype": 3,
    "compile_modes": 3,
    "cpu_sweep": 2,
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_preset_is_a_sweep_without_being_told(name: str) -> None:
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={name}"], return_hydra_config=True)
        assert planned_experiments(config) == SWEEPS[name]
    assert config.hydra.mode is RunMode.MULTIRUN
    assert config.sweep.skip_impossible


@pytest.mark.parametrize("name", SWEEPS)
def test_every_experiment_of_a_preset_passes_the_checks(name: str) -> None:
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={name}"], return_hydra_config=True)
    ((key, values),) = config.hydra.sweeper.params.items()
    for value in values.split(",") if "{" not in values else ["{cudagraph_mode:NONE}", "null"]:
        check(compose_experiment([f"experiment={name}", f"{key}={value}"]))


def test_every_run_of_the_table_of_results_passes_the_checks_and_has_its_command() -> None:
    presets = sorted((conf_folder() / "experiment" / "results").glob("*.yaml"))
    assert len(presets) == 14
    for preset in presets:
        assert preset.read_text().splitlines()[1] == f"# python -m bi_experiments experiment=results/{preset.stem}"
        check(compose_experiment([f"experiment=results/{preset.stem}"]))


def test_a_preset_runs_from_one_word_and_its_values_can_be_changed(sweep: Sweep) -> None:
    sweep.fake = tuple(text for text in sweep.fake if not text.startswith("experiment="))
    done = sweep("experiment=cpu_sweep", "workload.max_batch_size=2")
    assert done.returncode == 0, done.stderr
    assert len(sweep.records()) == 1
