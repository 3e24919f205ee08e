"""The robust companions against scipy's tests and published tables."""

from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from bi_experiments.analysis.multiplicity import benjamini_hochberg, holm
from bi_experiments.analysis.robust import (
    modified_z,
    modified_z_of_arms,
    outlying_score,
    robust_paired,
    robust_unpaired,
)


@pytest.mark.parametrize("pairs", [6, 8, 12])
def test_the_ends_of_the_interval_are_where_wilcoxons_test_decides(pairs: int) -> None:
    values = np.random.default_rng(pairs).normal(0.07, 0.02, pairs)
    estimate = robust_paired(values.tolist())
    assert estimate is not None
    assert estimate.low_pct is not None
    low = np.log1p(estimate.low_pct / 100)
    inside, outside = (stats.wilcoxon(values - low + step, method="exact").pvalue for step in (-1e-9, 1e-9))
    assert inside > 0.05 >= outside


def test_the_unpaired_interval_is_where_the_mann_whitney_test_decides() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.0, 0.02, 7), rng.normal(0.07, 0.03, 6)
    estimate = robust_unpaired(first.tolist(), second.tolist())
    assert estimate is not None
    assert estimate.low_pct is not None
    low = np.log1p(estimate.low_pct / 100)
    inside, outside = (stats.mannwhitneyu(second - low + step, first, method="exact").pvalue for step in (-1e-9, 1e-9))
    assert inside > 0.05 >= outside


def test_five_pairs_have_none() -> None:
    assert robust_paired([0.1] * 5) is None
    assert robust_unpaired([0.1] * 5, [0.1] * 9) is None


def test_one_wild_pair_moves_the_mean_and_not_the_companion() -> None:
    estimate = robust_paired([0.05, 0.051, 0.049, 0.052, 0.05, 0.048, 0.051, 3.0])
    assert estimate is not None
    assert estimate.change_pct == pytest.approx(5.2, abs=0.2)


def test_modified_z() -> None:
    scores = modified_z([1.0, 2.0, 3.0, 4.0, 100.0])
    assert scores[-1] == pytest.approx(0.6745 * 97)
    assert modified_z([1.0, 1.0, 1.0, 5.0]) == (0.0,) * 4


@pytest.mark.parametrize("values", [4, 5, 8, 20])
def test_of_normal_values_hardly_one_is_called_outlying(values: int) -> None:
    rng = np.random.default_rng(values)
    samples = rng.normal(size=(2000, values)).tolist()
    assert fmean(max(map(abs, modified_z(sample))) > outlying_score(values) for sample in samples) < 0.06


@pytest.mark.parametrize("times", [1.0, 2.8, 4.0])
@pytest.mark.parametrize("values", [4, 5, 8, 20])
def test_of_two_arms_hardly_one_is_called_outlying_also_where_one_spreads_further(values: int, times: float) -> None:
    rng = np.random.default_rng(values)
    called = [
        max(map(abs, modified_z_of_arms(first, [times * value for value in second]))) > outlying_score(values, arms=2)
        for first, second in rng.normal(size=(2000, 2, values)).tolist()
    ]
    assert fmean(called) < 0.065


def test_an_arm_of_hardly_any_spread_is_judged_by_that_of_both() -> None:
    first, second = [1.0, 1.001, 1.002, 1.02], [1.0, 1.1, 1.2, 1.3]
    assert max(map(abs, modified_z_of_arms(first, second))) < 3.5


def test_holm_and_benjamini_hochberg() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert holm(p_values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p_values) == pytest.approx(stats.false_discovery_control(p_values).tolist())
    assert holm([]) == benjamini_hochberg([]) == ()
