"""What the report says of how it was measured."""

import pytest

from bi_experiments.report.method import method
from tests import factories


@pytest.mark.parametrize(("pairs", "last_is_random"), [(1, True), (2, False), (3, True), (4, False)])
def test_the_order_is_said_to_be_balanced_as_far_as_it_is(pairs: int, last_is_random: bool) -> None:
    rules = dict(method(factories.whole_result(factories.phases([7.0] * pairs))))
    assert rules["order"].startswith("balanced and random: in each two consecutive pairs the baseline runs")
    assert ("the last pair's is random" in rules["order"]) is last_is_random
