from dataclasses import dataclass

from omegaconf import OmegaConf

from bi_experiments.sweep.copies import Original


def test_a_copy_is_equal_and_shares_nothing() -> None:
    config = OmegaConf.create({"a": {"b": [1, "${c}"]}, "c": "x"})
    original = Original.of(config)
    first, second = original.copy(), original.copy()
    first.a.b[0] = 2
    assert second == config
    assert second.a.b[1] == "x"


def test_the_classes_of_a_configuration_need_not_be_found_under_their_names() -> None:
    @dataclass
    class Hidden:
        number: int = 1

    copy = Original.of(OmegaConf.structured(Hidden)).copy()
    assert OmegaConf.get_type(copy) is Hidden
    assert copy.number == 1
