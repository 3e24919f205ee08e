import pytest

from bi_experiments.config.compose import compose
from bi_experiments.config.plain import recorded_configuration, setting


@pytest.mark.parametrize("key", ["tp", "model.name", "model.seeded.overrides", "verify.compositions", "gate"])
def test_a_setting_is_read_alike_from_a_configuration_and_from_its_record(key: str) -> None:
    config = compose(["experiment=cpu_demo"])
    recorded = setting(recorded_configuration(config), key)
    assert recorded is not None
    assert recorded == (setting(config, key) if key != "gate" else {"max_overhead_pct": None})


def test_what_an_older_record_lacks_is_none_and_what_the_schema_lacks_is_an_error() -> None:
    assert setting({"model": None, "tp": 1}, "model.name") is None
    assert setting({"model": "demo"}, "model.name") is None
    assert setting(compose(["model=qwen3"]), "model.seeded.overrides") is None
    with pytest.raises(AttributeError):
        setting(compose([]), "model.nmae")
