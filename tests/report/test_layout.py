"""Plain text: what a line may not tear apart."""

import pytest

from bi_experiments.report.layout import WIDTH, paragraph


@pytest.mark.parametrize("quantity", ["12.8 %", "49 °C", "8 s", "14 min", "83.9 GB", "20 MiB", "90 ms"])
def test_a_number_stays_with_its_unit(quantity: str) -> None:
    for length in range(WIDTH):
        lines = paragraph(f"{'x' * length} {quantity} more and more words behind it")
        assert sum(quantity in line for line in lines) == 1


def test_no_line_is_wider_than_the_report() -> None:
    lines = paragraph("about 5 % of 8 sequences " * 40, indent="    ")
    assert max(map(len, lines)) <= WIDTH
    assert all(line.startswith("    ") for line in lines)
    assert " ".join(line.strip() for line in lines) == ("about 5 % of 8 sequences " * 40).strip()
