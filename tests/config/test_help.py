from bi_experiments.config.help import docstrings
from bi_experiments.config.keys import key_types


def test_every_key_of_the_schema_says_what_it_means() -> None:
    docs = docstrings()
    assert docs.keys() == key_types().keys()
    assert [key for key, meaning in docs.items() if not meaning] == []
    assert docs["workload.num_trials"] == "Timed trials in each phase."
    assert docs["model.seeded.vocab_size"] == "Tokens of the vocabulary."
