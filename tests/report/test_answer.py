"""The verdict on the cost is good news where a saving is known to be one, and nowhere else."""

import pytest
from msgspec.structs import replace

from bi_experiments.records import Difference
from bi_experiments.report.answer import badges
from tests import factories


@pytest.mark.parametrize(("explained", "tone"), [(None, "open"), (False, "open"), (True, "good")])
def test_faster_is_good_news_where_both_arms_are_known_to_compute_the_same(explained: bool | None, tone: str) -> None:
    report = factories.proof_report()
    assert report.agreement is not None
    agreement = None if explained is None else replace(report.agreement, explained=explained)
    faster = factories.comparison(factories.metric(-44.3, -45.0, -43.6, verdict=Difference.FASTER))
    result = factories.experiment_result(comparison=faster, invariance=replace(report, agreement=agreement))
    assert badges(result)[0] == ("total time", "faster", tone)
