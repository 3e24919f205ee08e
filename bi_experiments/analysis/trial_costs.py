"""What each trial costs, and whether that depends on the size of its batch."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from bi_experiments.analysis.design import Design, prompts_differ
from bi_experiments.analysis.estimates import Estimate, per_cent
from bi_experiments.analysis.pairs import Pair, mean_log
from bi_experiments.analysis.trends import slope_within
from bi_experiments.records import Trial, TrialCost

FEWEST_PAIRS = 3
"""From which it is judged whether the cost depends on the trial: with fewer, an interval says next to nothing."""


def trial_costs(pairs: Sequence[Pair], design: Design) -> tuple[TrialCost, ...]:
    """The cost of every trial, in the order of the workload; empty without a complete pair.

    Args:
        pairs: Complete pairs.
        design: The rules that they were measured by.
    """
    if not pairs:
        return ()
    return tuple(_cost(both, pairs, design) for both in zip(*(_both(pair) for pair in pairs), strict=True))


class SizeEffect(NamedTuple):
    """How the cost differs between the largest and the smallest batch."""

    small: float
    """Prompts of the smallest batch, the mean over the pairs."""
    large: float
    small_pct: float
    """Cost of the smallest batch."""
    large_pct: float
    difference: Estimate
    """(1 + cost of the largest) / (1 + cost of the smallest) - 1."""


def size_effect(pairs: Sequence[Pair], design: Design) -> SizeEffect | None:
    """The cost of the trials with the largest batch against that of those with the smallest, pair by pair.

    None with fewer than `FEWEST_PAIRS` pairs, or where all batches are of one size.

    Args:
        pairs: Complete pairs.
        design: The rules that they were measured by.
    """
    differences, small_costs, large_costs, sizes = [], [], [], []
    for pair in pairs:
        trials = _both(pair)
        small, large = (pick(one.batch_size for one, _ in trials) for pick in (min, max))
        sizes.append((small, large))
        small_costs.append(fmean(_log_ratio(both) for both in trials if both[0].batch_size == small))
        large_costs.append(fmean(_log_ratio(both) for both in trials if both[0].batch_size == large))
        differences.append(large_costs[-1] - small_costs[-1])
    if len(pairs) < FEWEST_PAIRS or all(small == large for small, large in sizes):
        return None
    return SizeEffect(
        small=fmean(small for small, _ in sizes),
        large=fmean(large for _, large in sizes),
        small_pct=per_cent(fmean(small_costs)),
        large_pct=per_cent(fmean(large_costs)),
        difference=design.mean(differences, pairs),
    )


def goes_with_size(pairs: Sequence[Pair]) -> bool:
    """Whether the size explains what trials cost, where all pairs have the same ones.

    A trial costs more or less than others of its size in every pair: by 4 %, and in 20 to 70 % of experiments the
    largest and the smallest batch differ by more than the pairs do (simulated, 3 to 8 pairs of 3 to 8 trials). So the
    slope over the size is held against how the trials scatter around it. With prompts of their own the pairs show that.

    Args:
        pairs: Complete pairs.
    """
    if prompts_differ(pairs):
        return True
    trials = list(zip(*map(_both, pairs), strict=True))
    sizes = [math.log(both[0][0].batch_size) for both in trials]
    slope = slope_within([sizes], [[fmean(map(_log_ratio, both)) for both in trials]], same_trials=False)
    return slope is not None and abs(slope.rise) > slope.margin


def _both(pair: Pair) -> tuple[tuple[Trial, Trial], ...]:
    return tuple(zip(pair.baseline.trials, pair.second.trials, strict=True))


def _log_ratio(both: tuple[Trial, Trial]) -> float:
    return math.log(both[1].time_s / both[0].time_s)


def _cost(both: Sequence[tuple[Trial, Trial]], pairs: Sequence[Pair], design: Design) -> TrialCost:
    baseline, second = zip(*both, strict=True)
    alike = all(one.output_tokens == other.output_tokens for one, other in both)
    estimate = None
    if alike:
        logs = [[math.log(trial.time_s) for trial in arm] for arm in (baseline, second)]
        estimate = design.estimate(logs[0], logs[1], pairs)
    return TrialCost(
        index=baseline[0].index,
        batch_size=fmean(trial.batch_size for trial in baseline),
        prompt_tokens=fmean(trial.prompt_tokens for trial in baseline),
        output_tokens=fmean(trial.output_tokens for trial in baseline),
        baseline_s=math.exp(mean_log([trial.time_s for trial in baseline])),
        second_s=math.exp(mean_log([trial.time_s for trial in second])),
        change_pct=estimate.change_pct if estimate else None,
        low_pct=estimate.low_pct if estimate else None,
        high_pct=estimate.high_pct if estimate else None,
    )
