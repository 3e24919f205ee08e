from bi_experiments.wording import count, finding_name


def test_a_finding_is_called_what_it_is_about_whatever_word_is_stored() -> None:
    assert finding_name("warm_up") == "warm up"
    assert finding_name("neighbour") == "busy machine"


def test_more_than_one_is_plural() -> None:
    assert [count(2, noun) for noun in ("pair", "class", "batch", "box")] == [
        "2 pairs",
        "2 classes",
        "2 batches",
        "2 boxes",
    ]
    assert count(1, "class") == "1 class"
