from bi_experiments.records import Invariance
from bi_experiments.wording import count, finding_name, invariance_word, one_decimal, shortened


def test_a_finding_is_called_what_it_is_about_whatever_word_is_stored() -> None:
    assert finding_name("warm_up") == "warm up"
    assert finding_name("neighbour") == "busy machine"


def test_a_verdict_on_bits_is_written_without_the_stored_underscores() -> None:
    assert invariance_word(Invariance.NO_CONTROL) == "no control"
    assert invariance_word(None) == "not probed"


def test_a_shortened_text_has_as_many_characters_as_were_asked_for() -> None:
    assert [shortened("abcdef", longest) for longest in (6, 5)] == ["abcdef", "abcd…"]


def test_more_than_one_is_plural() -> None:
    assert [count(2, noun) for noun in ("pair", "class", "batch", "box")] == [
        "2 pairs",
        "2 classes",
        "2 batches",
        "2 boxes",
    ]
    assert count(1, "class") == "1 class"
    assert count(4096, "token") == "4096 tokens"


def test_a_mean_of_whole_numbers_has_a_decimal_where_it_is_not_whole() -> None:
    assert [one_decimal(value) for value in (56, 56.0, 3.5, 1024.25)] == ["56", "56", "3.5", "1,024.2"]
    assert [count(value, "prompt") for value in (1.0, 3.5)] == ["1 prompt", "3.5 prompts"]
