import pickle
from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bi_experiments.config.compose import conf_folder, register_schema
from bi_experiments.sweep.loader import SweepConfigLoader

TYPED = ["protocol=single", "seed=3"]
EXPERIMENTS = [
    ["workload.max_batch_size=8", "protocol=single", "seed=3"],
    ["workload.max_batch_size=16", "protocol=single", "seed=3"],
    ["experiment=cpu_demo", "protocol=single", "tp=2", "seed=3"],
    ["protocol=single", "seed=3", "model=deepseek", "backend.environment.A=1"],
    ["+backend.engine.a=1", "backend.engine.a=2", "protocol=single", "seed=3"],
    ["~gate.max_overhead_pct", "protocol=single", "seed=3"],
    ["workload={max_tokens:3}", "protocol=single", "seed=3"],
    ["backend.engine={}", "workload.needle=a b", "protocol=single", "seed=3"],
]


@pytest.fixture
def master() -> Iterator[DictConfig]:
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield hydra.compose_config("config", ["hydra.sweep.dir=x", *TYPED], RunMode.MULTIRUN, from_shell=False)


@pytest.fixture
def loader(master: DictConfig) -> SweepConfigLoader:
    return SweepConfigLoader(GlobalHydra.instance().config_loader().get_search_path())


@pytest.mark.parametrize("again", [False, True])
def test_it_composes_what_hydra_composes(master: DictConfig, loader: SweepConfigLoader, again: bool) -> None:
    for overrides in EXPERIMENTS * (2 if again else 1):
        try:
            expected = GlobalHydra.instance().config_loader().load_sweep_config(master, overrides)
        except HydraException as error:
            with pytest.raises(type(error)):
                loader.load_sweep_config(master, overrides)
            continue
        found = loader.load_sweep_config(master, overrides)
        assert OmegaConf.to_container(found) == OmegaConf.to_container(expected)
        assert OmegaConf.get_type(found) is OmegaConf.get_type(expected)
        assert OmegaConf.is_struct(found) == OmegaConf.is_struct(expected)


@pytest.mark.parametrize("override", ["nonsense=1", "workload.nonsense=1", "tp=two", "backend=nonsense"])
def test_it_refuses_what_hydra_refuses(master: DictConfig, loader: SweepConfigLoader, override: str) -> None:
    with pytest.raises(HydraException):
        loader.load_sweep_config(master, [override])


def test_experiments_do_not_share_what_they_change(master: DictConfig, loader: SweepConfigLoader) -> None:
    first = loader.load_sweep_config(master, ["seed=1"])
    first.workload.max_tokens = 99
    assert loader.load_sweep_config(master, ["seed=2"]).workload.max_tokens != 99


def test_what_was_composed_is_not_sent_to_other_processes(master: DictConfig, loader: SweepConfigLoader) -> None:
    small = len(pickle.dumps(loader))
    loader.load_sweep_config(master, ["seed=1"])
    assert len(pickle.dumps(loader)) == small
