"""The estimator that computed an interval is the one that is named beside it, and the method says what ran."""

import pytest
from msgspec.structs import replace

from bi_experiments.report.method import method
from bi_experiments.report.planning import planning
from bi_experiments.report.tables import metrics_note
from tests import factories

FRESH = "protocol.caches=fresh", "protocol.launches_per_cache=2"
STEIN = "protocol.target_half_width_pct=1", "protocol.max_pairs=8", "protocol.pairs=2"


@pytest.mark.parametrize(
    ("settings", "named", "not_named"),
    [
        (["protocol.interleave=trial"], ["Student's t over the n pairs"], ["Welch", "share compile caches", "Stein"]),
        (["protocol.interleave=launch"], ["Welch's t of two independent samples, n launches of each arm"], ["Student"]),
        (["protocol.interleave=launch", *FRESH], ["Welch's t", "every 2 that share compile caches"], ["Student"]),
        (
            ["protocol.interleave=launch", *STEIN],
            ["Student's t over the n pairs of launches, with the spread of the first 2 alone"],
            ["Welch's t"],
        ),
    ],
)
def test_the_note_under_the_metrics_names_their_estimator(
    settings: list[str], named: list[str], not_named: list[str]
) -> None:
    note = metrics_note(factories.whole_result(factories.phases([5.0, 8.0, 7.0, 9.5]), *settings))
    assert [words for words in named if words not in note] == []
    assert [words for words in not_named if words in note] == []


@pytest.mark.parametrize(
    ("settings", "costs_pct", "said"),
    [
        ([], [5.0, 8.0], True),
        (["protocol.caches=user"], [5.0, 8.0], True),
        (["protocol.caches=fresh"], [5.0, 8.0], False),
        ([*FRESH], [5.0, 8.0, 7.0, 9.5], False),
        ([], [5.0], False),
    ],
)
def test_an_interval_over_launches_that_shared_caches_says_what_is_not_in_it(
    settings: list[str], costs_pct: list[float], said: bool
) -> None:
    note = metrics_note(factories.whole_result(factories.phases(costs_pct), *settings))
    assert ("how much a different tuning would change the result is not in the intervals" in note) is said


def test_the_note_of_an_older_record_does_not_speak_of_what_was_computed_otherwise() -> None:
    result = factories.whole_result(factories.phases([5.0, 8.0, 7.0, 9.5]), *STEIN)
    assert "prompts a second are the same inverted" in metrics_note(result)
    assert result.comparison is not None
    older = [
        replace(metric, adjusted_p_value=0.07) if metric.name == "throughput" else metric
        for metric in result.comparison.metrics
    ]
    note = metrics_note(replace(result, comparison=replace(result.comparison, metrics=tuple(older))))
    assert [words for words in ("the same inverted", "Stein") if words in note] == []


@pytest.mark.parametrize("settings", [[], STEIN])
def test_of_one_launch_an_arm_no_estimator_is_named(settings: list[str]) -> None:
    result = factories.whole_result(factories.phases([5.0]), "protocol.interleave=launch", *settings)
    for said in (metrics_note(result), dict(method(result))["estimate"]):
        assert "none, of one launch an arm" in said
        assert [name for name in ("Welch", "Student", "Stein") if name in said] == []


@pytest.mark.parametrize(
    ("interleave", "estimator", "sample"),
    [
        ("trial", "Student's t over the n pairs of launches", "the log ratio of a pair, estimated from 4 pairs"),
        ("launch", "Welch's t of two independent samples, n launches of each arm", "from 4 launches of each arm"),
    ],
)
def test_note_method_and_planner_name_the_same_one(interleave: str, estimator: str, sample: str) -> None:
    result = factories.whole_result(factories.phases([5.0, 8.0, 7.0, 9.5]), f"protocol.interleave={interleave}")
    said = dict(method(result))["estimate"]
    assert estimator in said
    assert said.endswith("; n = 4")
    assert estimator in metrics_note(result)
    assert sample in " ".join(planning(result))


@pytest.mark.parametrize(("sizes", "end"), [(None, "every shape"), (0, "every shape"), (12, "that kernels change at")])
def test_the_method_says_what_the_warm_up_ran(sizes: int | None, end: str) -> None:
    phases = [replace(phase, warmup_step_sizes=sizes) for phase in factories.phases()]
    said = dict(method(factories.whole_result(phases)))["warm-up"]
    assert said.startswith("uncounted: the needle alone, then 1 round of one batch of every shape")
    assert said.endswith(end)


def test_with_fresh_prompts_the_method_says_whose_prompts_are_proved() -> None:
    said = {
        fresh: dict(method(factories.whole_result(None, f"workload.fresh_prompts={fresh}")))["proof"]
        for fresh in ("true", "false")
    }
    assert said["true"].endswith("; in every launch the workload's prompts are those of the first pair")
    assert "first pair" not in said["false"]
