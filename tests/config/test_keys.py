import re
import shlex

import pytest

from bi_experiments.config.compose import compose
from bi_experiments.config.keys import dataclass_of, key_types, quoted, refuse_overrides
from bi_experiments.errors import ConfigurationError

GROUPS = [key for key, hint in key_types().items() if dataclass_of(hint) and "." not in key]


def refusal(*overrides: str) -> str:
    """What is said of overrides that do not compose: one line."""
    with pytest.raises(ConfigurationError) as caught:
        compose(["experiment=cpu_demo", *overrides])
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("group", ["", *(f"{group}." for group in GROUPS)])
def test_a_key_that_the_schema_does_not_have_is_refused_also_with_a_plus(group: str) -> None:
    assert f"{group}nonsense is not a key" in refusal(f"+{group}nonsense=1")
    assert f"{group}nonsense is not a key" in refusal(f"++{group}nonsense=1")
    said = refusal(f"{group}nonsense=1")
    assert f"{group}nonsense is not a key" in said
    assert "+" not in said


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("workload.num_trial=1", "workload.num_trials"),
        ("+workload.num_trial=1", "workload.num_trials"),
        ("workloads.num_trials=1", "workload.num_trials"),
        ("num_trials=1", "workload.num_trials"),
        ("protocol.pair=1", "protocol.pairs"),
        ("modle.name=x", "model.name"),
        ("wrokload=quick", "workload"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant(setting: str, meant: str) -> None:
    assert f"did you mean {meant}?" in refusal(setting)


@pytest.mark.parametrize("group", ["", "workload."])
def test_a_key_that_was_removed_is_asked_for(group: str) -> None:
    key = f"{group}num_trials" if group else "tp"
    assert f"~{key}" in refusal(f"~{key}")


@pytest.mark.parametrize("setting", ["tp=null", "workload.num_trials=null", "gate=null"])
def test_null_is_refused_where_a_value_is_needed(setting: str) -> None:
    assert setting.partition("=")[0] in refusal(setting)


@pytest.mark.parametrize("group", ["experiment", "model", "workload", "hydra", "hydra/launcher"])
def test_a_group_without_an_option_is_refused_in_one_line(group: str) -> None:
    assert f"{group}=null is not possible" in refusal(f"{group}=null")


@pytest.mark.parametrize(
    ("setting", "quoted"),
    [
        ("model.name=/ckpt/epoch=3-step=1000", """'model.name="/ckpt/epoch=3-step=1000"'"""),
        ("model.name=/a{b", """'model.name="/a{b"'"""),
        ("model.name=a,b", """'model.name="a,b"'"""),
    ],
)
def test_a_value_that_must_be_quoted_is_shown_quoted(setting: str, quoted: str) -> None:
    assert quoted in refusal(setting)


@pytest.mark.parametrize("value", ["/ckpt/epoch=3-step=1000", "a,b", 'say "x=1"', r"a\b", 'a\\"', "a\\"])
def test_a_value_that_is_quoted_as_shown_arrives_whole(value: str) -> None:
    (setting,) = shlex.split(quoted("workload.needle", value))
    assert compose([setting]).workload.needle == value


def test_a_word_that_is_no_setting_is_answered_with_what_was_meant() -> None:
    assert "workload.num_trials?" in refusal("num_trials")
    assert "neither a setting" in refusal("quick")


@pytest.mark.parametrize("values", ["range(5,1)", "range(1,1)", "range(0,1000000000)", "range(5,1,1)"])
def test_a_range_of_no_values_or_of_too_many_is_refused(values: str) -> None:
    with pytest.raises(ConfigurationError, match=r"workload.max_batch_size=range\("):
        refuse_overrides([f"workload.max_batch_size={values}"])


def test_ranges_and_choices_are_let_through() -> None:
    refuse_overrides(["tp=range(1,5)", "tp=range(5,1,-2)", "pp=1,2", "seed=choice(1,2)", "model=qwen3,demo"])


def test_an_engine_argument_that_is_not_set_yet_says_how_to_add_it() -> None:
    assert "+backend.engine.seed=VALUE" in refusal("backend.engine.seed=1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("+hydra.nonsense=1", "hydra.nonsense is not a key of Hydra's configuration"),
        ("hydra.sweep.dirr=x", "did you mean dir?"),
        ("+hydra.job.x=1", "hydra.job.x is not a key"),
        ("hydra.callbacks=null", "the program's own"),
        ("~hydra.callbacks.sweep", "the program's own"),
        ("+hydra.callbacks.mine._target_=os.system", "the program's own"),
    ],
)
def test_what_is_not_hydras_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        refuse_overrides([text])


@pytest.mark.parametrize(
    "text",
    ["hydra.run.dir=x", "hydra.launcher.cpus_per_rank=2", "+hydra.job.env_set.X=1", "hydra.job_logging.version=1"],
)
def test_what_is_hydras_is_let_through(text: str) -> None:
    refuse_overrides([text])
