"""The verdict on the cost is good news where a saving is known to be one, and nowhere else."""

import pytest
from msgspec.structs import replace

from bi_experiments.records import Difference
from bi_experiments.report.answer import badges, subject
from tests import factories


@pytest.mark.parametrize(("explained", "tone"), [(None, "open"), (False, "open"), (True, "good")])
def test_faster_is_good_news_where_both_arms_are_known_to_compute_the_same(explained: bool | None, tone: str) -> None:
    report = factories.proof_report()
    assert report.agreement is not None
    agreement = None if explained is None else replace(report.agreement, explained=explained)
    faster = factories.comparison(factories.metric(-44.3, -45.0, -43.6, verdict=Difference.FASTER))
    result = factories.experiment_result(comparison=faster, invariance=replace(report, agreement=agreement))
    assert badges(result)[0] == ("total time", "faster", tone)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((1, 1), "1 prompt of 3 words, 16 tokens"),
        ((1, 2), "1 to 2 prompts of 3 to 200 words, 16 tokens"),
        ((2, 4), "2 to 4 prompts of 136 to 200 words, 16 tokens"),
    ],
)
def test_the_subject_of_a_batch_of_one_is_the_needle(sizes: tuple[int, ...], said: str) -> None:
    trials = tuple(factories.trial(index, batch_size=size) for index, size in enumerate(sizes))
    phases = [replace(phase, trials=trials) for phase in factories.phases()]
    configuration = factories.whole_result(None, "workload.needle=There once was").configuration
    result = factories.experiment_result(phases, configuration=configuration)
    assert f" · {said} · " in subject(result)


def test_prompts_that_have_fewer_words_than_asked_for_are_not_said_to_have_as_many() -> None:
    configuration = factories.whole_result(None, "workload=vllm_script").configuration
    result = factories.experiment_result(factories.phases(), configuration=configuration)
    assert "words" not in subject(result)
