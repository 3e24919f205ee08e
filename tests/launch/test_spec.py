"""What a phase is told to probe."""

import pytest

from bi_experiments.config.checks import check
from bi_experiments.config.compose import compose
from bi_experiments.errors import ConfigurationError
from bi_experiments.launch.spec import engine_spec, model_path, probe_plan
from bi_experiments.records import Arm


def compositions(*overrides: str, launch: int = 0) -> tuple[str, ...]:
    plan = probe_plan(compose(["experiment=cpu_demo", *overrides]), launch=launch)
    assert plan is not None
    return plan.compositions


@pytest.mark.parametrize("verify", ["needle", "standard", "full"])
def test_every_level_has_the_negative_control_and_the_first_launch_runs_everything(verify: str) -> None:
    config = compose(["experiment=cpu_demo", f"verify={verify}"])
    found = compositions(f"verify={verify}")
    assert found[0] == "batch_1"
    assert set(found) == set(config.verify.compositions)
    assert len(set(found)) == len(found)


def test_a_difference_in_the_mode_has_to_repeat_once_more_than_the_baselines() -> None:
    plans = [probe_plan(compose(["experiment=cpu_demo"]), arm) for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT)]
    assert [plan.repeats for plan in plans if plan is not None] == [1, 2]


def test_the_negative_control_runs_without_being_asked_for() -> None:
    assert compositions("verify.compositions=[ragged]") == ("batch_1", "ragged")


def test_later_launches_run_their_own_part_of_what_was_asked_for() -> None:
    assert compositions("verify.later_launches=[ragged,output_512]", launch=1) == ("batch_1", "ragged")
    assert compositions("verify.later_launches=null", launch=1) == compositions()
    assert set(compositions(launch=1)) < set(compositions())


def test_prefix_caching_adds_what_may_depend_on_it() -> None:
    added = set(compositions("backend.enable_prefix_caching=true")) - set(compositions())
    assert added == {"prefix_cache", "prefill"}
    assert not added & set(compositions("backend.enable_prefix_caching=true", "verify=needle"))


def test_later_launches_that_do_not_exist_are_refused() -> None:
    config = compose(["experiment=cpu_demo", "verify.later_launches=[nonesuch]"])
    with pytest.raises(ConfigurationError, match="nonesuch"):
        check(config)


def test_a_home_folder_is_written_out_for_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    config = compose(["model.name='~/m'", "+backend.engine.tokenizer='~/t'"])
    spec = engine_spec(config, model_path(config))
    assert (spec.model, spec.extra["tokenizer"]) == ("/home/ann/m", "/home/ann/t")
    assert engine_spec(compose(["+backend.engine.tokenizer=null"]), "m").extra == {"tokenizer": None}
