"""The comparison of an experiment, and the sentence that a reader gets."""

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.comparison import compare_experiment, sentence
from bi_experiments.records import Arm, Difference, Metric, PhaseStatus
from tests import factories


def test_comparison_of_a_whole_experiment() -> None:
    comparison = compare_experiment(factories.phases(), factories.protocol(), planned_pairs=3, cpu_count=2)
    assert comparison is not None
    assert comparison.pairs == 3
    assert comparison.sentence == ("Batch invariance costs 7.5 % total time here [6.3 %, 8.7 %], 3 pairs.")
    assert comparison.findings == ()
    assert not comparison.sequential
    assert [metric.name for metric in comparison.metrics][:3] == ["total_time", "trial_time", "cpu_time"]


def test_an_interrupted_experiment_rests_on_its_complete_pairs_and_says_so() -> None:
    *done, last = factories.phases((7.0, 8.0))
    phases = (*done, replace(last, status=PhaseStatus.INTERRUPTED))
    comparison = compare_experiment(phases, factories.protocol(), planned_pairs=3, cpu_count=2)
    assert comparison is not None
    assert comparison.pairs == 1
    assert comparison.sentence == (
        "One launch an arm has no interval: what batch invariance costs here is undecided. Total time was 11.00 s in "
        "the baseline and 11.77 s in the second arm."
    )
    assert [finding.kind for finding in comparison.findings] == ["incomplete", "single_launch"]


def test_without_a_complete_pair_there_is_no_comparison() -> None:
    phases = (factories.phase(Arm.BASELINE),)
    assert compare_experiment(phases, factories.protocol(), planned_pairs=3, cpu_count=2) is None


def test_pairs_added_on_the_way_are_labelled() -> None:
    protocol = factories.protocol(target_half_width_pct=2.0, max_pairs=8)
    comparison = compare_experiment(factories.phases(), protocol, planned_pairs=3, cpu_count=2)
    assert comparison is not None
    assert comparison.sequential
    assert comparison.sentence.endswith("3 pairs in two stages.")


def test_two_baselines_are_called_that() -> None:
    phases = factories.phases((0.2, 0.4, 0.6), second=Arm.CONTROL)
    comparison = compare_experiment(phases, factories.protocol(control=True), planned_pairs=3, cpu_count=2)
    assert comparison is not None
    assert comparison.sentence == ("Two baselines differ by +0.4 % in total time here [-0.1 %, +0.9 %], 3 pairs.")


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (factories.metric(), "Batch invariance costs 7.4 % total time here [6.1 %, 8.8 %], 3 pairs."),
        (
            factories.metric(-3.1, -4.2, -2.0, verdict=Difference.FASTER),
            "Batch invariance saves 3.1 % total time here [2.0 %, 4.2 %], 3 pairs.",
        ),
        (
            factories.metric(-0.04, -0.5, 0.4, verdict=Difference.EQUIVALENT),
            "Batch invariance changes total time by less than 1 % here: +0.0 % [-0.5 %, +0.4 %], 3 pairs.",
        ),
        (
            factories.metric(0.8, -1.9, 3.6, verdict=Difference.INCONCLUSIVE),
            "What batch invariance costs here is undecided: +0.8 % total time [-1.9 %, +3.6 %] reaches from a saving "
            "to a cost, 3 pairs.",
        ),
    ],
)
def test_sentence(metric: Metric, expected: str) -> None:
    assert sentence(metric, equivalence_pct=1.0) == expected


@pytest.mark.parametrize(
    ("alike", "end"),
    [
        (None, "; whether both arms compute the same was not checked."),
        (False, ", but the arms do not compute the same."),
    ],
)
def test_no_saving_is_said_where_the_arms_are_not_known_to_compute_the_same(alike: bool | None, end: str) -> None:
    faster = factories.metric(-44.3, -45.0, -43.6, verdict=Difference.FASTER)
    assert sentence(faster, equivalence_pct=1.0, alike=alike) == (
        f"Total time is 44.3 % lower in batch-invariant mode here [43.6 %, 45.0 %], 3 pairs{end}"
    )
    assert sentence(factories.metric(), 1.0, alike=alike) == sentence(factories.metric(), 1.0)


def test_a_slow_down_on_purpose_is_not_called_a_cost() -> None:
    assert sentence(factories.metric(), 1.0, inject_pct=5.0) == (
        "With 5 % injected into the second arm on purpose, total time differs by +7.4 % [+6.1 %, +8.8 %], 3 pairs: a "
        "check of the method, not a cost."
    )


@pytest.mark.parametrize(
    ("launches", "said"),
    [
        (None, "3 pairs."),
        (1, "3 pairs, each launch with compile caches of its own."),
        (2, "3 pairs, every 2 launches of an arm with compile caches of their own."),
    ],
)
def test_the_sentence_says_whose_caches_the_interval_is_about(launches: int | None, said: str) -> None:
    assert sentence(factories.metric(), 1.0, launches_per_cache=launches).endswith(said)


def test_two_baselines_with_one_launch_each() -> None:
    assert sentence(factories.metric(0.4, None, None, pairs=1), 1.0, control=True) == (
        "One launch an arm has no interval: whether two baselines differ here is undecided. Total time was 2.000 s in "
        "the baseline and 2.008 s in the second arm."
    )
