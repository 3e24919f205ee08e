"""A search for the cheapest setting."""

import pytest
import yaml

from tests.sweep.conftest import Sweep

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra `optuna` is not installed")

SEARCH = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=3")


def test_optuna_finds_the_cheapest_setting(sweep: Sweep) -> None:
    """What is searched for is the mode's own time per token, which grows a little with every launch: one pair wins."""
    sweep.fake = tuple(override for override in sweep.fake if override != "protocol.pairs=2")
    done = sweep(*SEARCH, "protocol.pairs=1,2,4", "workload.max_batch_size=2")
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load((sweep.folder.root / "optimization_results.yaml").read_text())
    assert found["best_params"] == {"protocol.pairs": 1}
    assert 0 < found["best_value"] < 0.1
    assert sweep.statuses() == ["done"] * 6


def test_an_experiment_without_a_cost_does_not_end_the_search(sweep: Sweep) -> None:
    done = sweep(*SEARCH, "workload.max_batch_size=0,2,3")
    assert set(sweep.statuses()) == {"done", "cannot run"}
    assert done.returncode == 2
    found = yaml.safe_load((sweep.folder.root / "optimization_results.yaml").read_text())
    assert found["best_params"]["workload.max_batch_size"] in {2, 3}
