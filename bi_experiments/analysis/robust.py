"""What a few wild launches cannot move: the Hodges-Lehmann estimate with its exact interval, and which ones are wild.

J. L. Hodges and E. L. Lehmann, "Estimates of location based on rank tests", Ann. Math. Stat. 34 (1963); B. Iglewicz and
D. C. Hoaglin, "How to detect and handle outliers" (1993), for the modified z-score.
"""

from collections.abc import Sequence
from itertools import accumulate, combinations_with_replacement, product
from statistics import median

from bi_experiments.analysis.estimates import CONFIDENCE, Estimate, per_cent

FEWEST_PAIRS = 6
"""From which a distribution-free 95 % interval of paired values exists: with five, 1 of 16 lies outside the widest."""
FEWEST_VALUES = 4
"""Of a sample, from which one of them can be called outlying: of three, two are always close by comparison."""


def robust_paired(differences: Sequence[float]) -> Estimate | None:
    """The median of all means of two differences, with the interval of Wilcoxon's signed-rank test; None with too few.

    Args:
        differences: D_b, one log ratio a pair.
    """
    if len(differences) < FEWEST_PAIRS:
        return None
    means = sorted((one + other) / 2 for one, other in combinations_with_replacement(differences, 2))
    counts = [1]
    for rank in range(1, len(differences) + 1):
        counts = _added(counts, [1, *[0] * (rank - 1), 1])
    return _with_ends(means, _end(counts))


def robust_unpaired(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """The median of all differences second - first, with the interval of the Mann-Whitney test; None with too few."""
    if min(len(first), len(second)) < FEWEST_PAIRS:
        return None
    differences = sorted(one - other for other, one in product(first, second))
    return _with_ends(differences, _end(_rank_sum_counts(len(first), len(second))))


def modified_z(values: Sequence[float], least_deviation: float = 0.0) -> tuple[float, ...]:
    """0.6745 (x - median) / MAD of each value, where MAD is the median of |x - median|; 0 where the MAD is 0.

    Args:
        values: The sample.
        least_deviation: What the MAD is taken to be where it is less.
    """
    middle = median(values)
    deviation = max(least_deviation, median(abs(value - middle) for value in values))
    return tuple(0.6745 * (value - middle) / deviation if deviation else 0.0 for value in values)


def modified_z_of_arms(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    """The scores of both arms' values, each from the median of its arm, the first arm's before the second's.

    By the MAD of both, since that of a few values is often small by chance, or by the arm's own where it is larger: by
    that of both alone, launches of an arm whose times spread 2 to 3 times as far as the other's are called outlying in
    5 to 13 % of experiments of 4 to 9 pairs.
    """
    pooled = median(abs(value - median(arm)) for arm in (first, second) for value in arm)
    return (*modified_z(first, pooled), *modified_z(second, pooled))


def outlying_score(values: int, arms: int = 1) -> float:
    """Modified z-score from which one of so many values of a sample is called outlying: 3.5, and more where few are.

    The median deviation of few values is often small by chance: with 3.5 alone one of normal values is called outlying
    in 17 % of samples of four, and in 26 % of two arms of four launches. With 3.5 + 22 / n it is in 1 to 5 % of samples
    of up to 50, with 3.5 + 15 / n in 2 to 6 % of two arms (`modified_z_of_arms`) whose spreads differ by up to a factor
    of 4 (simulated). Of four, one that lies 10 standard deviations off is found in 45 and 55 %.

    Args:
        values: Of the sample, or of one arm.
        arms: 1: one sample; 2: both arms.
    """
    return 3.5 + (22 if arms == 1 else 15) / values


def _with_ends(ordered: Sequence[float], end: int) -> Estimate:
    return Estimate(per_cent(median(ordered)), per_cent(ordered[end]), per_cent(ordered[-1 - end]))


def _end(counts: Sequence[int]) -> int:
    """Which of the ordered values is the interval's lower end, from the exact distribution of the rank statistic.

    It is the largest value of the statistic that, with all below it, has at most 2.5 % of the ways.
    """
    most = (1 - CONFIDENCE) / 2 * sum(counts)
    return sum(below <= most for below in accumulate(counts)) - 1


def _added(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Numbers of ways of a sum of two independent integers, from those of each."""
    ways = [0] * (len(one) + len(other) - 1)
    for (i, a), (j, b) in product(enumerate(one), enumerate(other)):
        ways[i + j] += a * b
    return ways


def _rank_sum_counts(first: int, second: int) -> list[int]:
    """Ways in which the Mann-Whitney statistic of samples of these sizes takes each of its values from 0 up."""
    table = {(i, 0): [1] for i in range(first + 1)} | {(0, j): [1] for j in range(second + 1)}
    for i, j in product(range(1, first + 1), range(1, second + 1)):
        # The largest of all values is of the first sample, and then above all of the second, or of the second.
        above, not_above = [0] * j + table[i - 1, j], table[i, j - 1]
        size = max(len(above), len(not_above))
        padded = ([*one, *[0] * (size - len(one))] for one in (above, not_above))
        table[i, j] = [a + b for a, b in zip(*padded, strict=True)]
    return table[first, second]
