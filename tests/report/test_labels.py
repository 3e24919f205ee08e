"""Names that fit: cut, and still told apart."""

from bi_experiments.report.labels import short_names


def test_long_values_that_differ_in_the_middle_alone_are_short_and_told_apart() -> None:
    lists = [
        f"[{', '.join(f'composition_{number}' for number in range(20) if number != left)}]" for left in (9, 10, 11)
    ]
    found = short_names([*lists, lists[0]], 30)
    assert all(len(name) <= 30 for name in found)
    assert len(set(found)) == 3
    assert found[3] == found[0]


def test_short_values_are_as_they_are() -> None:
    assert short_names(["standard", "mla"], 30) == ["standard", "mla"]
