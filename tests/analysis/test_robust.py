"""The robust companions against scipy's tests and published tables."""

import numpy as np
import pytest
from scipy import stats

from bi_experiments.analysis.multiplicity import benjamini_hochberg, holm
from bi_experiments.analysis.robust import modified_z, outlying_score, robust_paired, robust_unpaired


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


@pytest.mark.parametrize("arms", [1, 2])
@pytest.mark.parametrize("values", [4, 5, 8, 20])
def test_of_normal_values_hardly_one_is_called_outlying(values: int, arms: int) -> None:
    rng = np.random.default_rng(values)
    called = 0
    for _ in range(2000):
        sample = rng.normal(size=(arms, values))
        from_median = (sample - np.median(sample, axis=1, keepdims=True)).ravel().tolist()
        called += max(map(abs, modified_z(from_median))) > outlying_score(values)
    assert called / 2000 < 0.06


def test_holm_and_benjamini_hochberg() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert holm(p_values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p_values) == pytest.approx(stats.false_discovery_control(p_values).tolist())
    assert holm([]) == benjamini_hochberg([]) == ()
