from bi_experiments.wording import finding_name


def test_a_finding_is_called_what_it_is_about_whatever_word_is_stored() -> None:
    assert finding_name("warm_up") == "warm up"
    assert finding_name("neighbour") == "busy machine"
