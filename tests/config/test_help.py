import re

from hydra import initialize_config_dir

from bi_experiments.config.compose import conf_folder
from bi_experiments.config.help import WIDTH, docstrings, options, presets
from bi_experiments.config.keys import key_types


def test_every_key_of_the_schema_says_what_it_means() -> None:
    docs = docstrings()
    assert docs.keys() == key_types().keys()
    assert [key for key, meaning in docs.items() if not meaning] == []
    assert docs["workload.num_trials"] == "Timed trials in each phase."
    assert docs["model.seeded.vocab_size"] == "Tokens of the vocabulary."


def test_presets_and_options_fit_the_width_and_are_all_there() -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        listed, of_groups = presets(), options()
    assert max(map(len, f"{listed}\n{of_groups}".splitlines())) <= WIDTH
    files = [path for path in (conf_folder() / "experiment").rglob("*.yaml") if not path.name.startswith("base_")]
    assert len(re.findall(r"^  \S", listed, re.MULTILINE)) == len(files)
    assert re.search(r"^  model +deepseek,", of_groups, re.MULTILINE)


def test_a_preset_says_what_it_is_by_itself() -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        assert not re.search(r"  The same\b", presets())
