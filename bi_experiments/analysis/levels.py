"""Where the spread comes from: caches, launches or trials, and what more of each would buy.

T. Kalibera and R. Jones, "Rigorous benchmarking in reasonable time", ISMM (2013), and "Quantifying performance changes
with effect size confidence intervals", University of Kent (2012): each level of repetition has a variance of its own,
and repeating a level helps against that of its own and of those below alone.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.estimates import CONFIDENCE
from bi_experiments.analysis.pairs import Pair, pair_time_s, total_time_s

FEWEST_UNITS = 3
"""Of the highest level, from which its variance is estimated at all."""


class Share(NamedTuple):
    """A share, 0 to 1, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Levels(NamedTuple):
    """Variances of the log time of a trial by level, and how often each level was repeated."""

    cache: float | None
    """Between caches; None: the launches did not share caches in several groups."""
    launch: float
    """Between launches from the same caches; without a level of caches, between launches."""
    trial: float
    """Between trials of a launch, what their prompts explain left out."""
    caches: int
    """Of an arm; without a level of caches the launches."""
    launches: int
    """Of an arm, all caches together."""
    trials: int
    """Of a launch."""
    paired: bool
    """Whether they are variances of the log ratio of both launches of a pair."""
    highest: Share
    """Of the highest level in the variance of its units' means: of caches in that of a cache's mean, or of launches."""

    def error(self, *, caches: int = 1, launches: int = 1, trials: int = 1) -> float:
        """Standard error of the mean of an arm, with so many times as many caches, launches from each, and trials."""
        all_launches = self.launches * caches * launches
        between = (self.cache or 0.0) / (self.caches * caches)
        return math.sqrt(between + self.launch / all_launches + self.trial / (all_launches * self.trials * trials))

    def narrower(self, *, caches: int) -> float:
        """Width of the interval with so many times as many caches, as a share of the present one."""
        from scipy.stats import t

        before, after = (
            float(t.ppf((1 + CONFIDENCE) / 2, (units - 1) * (1 if self.paired else 2)))
            for units in (self.caches, self.caches * caches)
        )
        return after * self.error(caches=caches) / (before * self.error())


class Times(NamedTuple):
    """What repeating takes, in seconds."""

    pairs_s: float
    """All pairs once more."""
    trials_s: float
    """All trials once more."""


def repetition_times(pairs: Sequence[Pair]) -> Times:
    """What it takes to run as many pairs, or as many trials in each, again."""
    trials_s = sum(total_time_s(phase) for pair in pairs for phase in pair)
    return Times(pair_time_s(pairs) * len(pairs), trials_s)


def levels(pairs: Sequence[Pair], design: Design, *, fresh_prompts: bool) -> Levels | None:
    """Variances by level, from the mean squares of the nested design; None with too few launches or one trial each.

    By turns they are of the log ratios of a pair, since what both launches share cancels in the change; one after the
    other those of the arms are pooled. A negative estimate is 0.

    Args:
        pairs: Complete pairs.
        design: The rules that they were measured by.
        fresh_prompts: Whether trial k is of other prompts in every pair, so that its mean is not taken out.
    """
    logs = [[[math.log(trial.time_s) for trial in phase.trials] for phase in pair] for pair in pairs]
    trials = len(logs[0][0]) if logs else 0
    shared = design.launches_per_cache is not None and design.launches_per_cache > 1
    size = design.launches_per_cache or 1
    groups = [pair.second.launch // size for pair in pairs]
    units = len(set(groups))
    if trials < 2 or units < FEWEST_UNITS:
        return None
    if design.paired:
        samples = [[[other - one for one, other in zip(*both, strict=True)] for both in logs]]
    else:
        samples = [[both[arm] for both in logs] for arm in (0, 1)]
    sums = [_sums_of_squares(sample, groups, fresh_prompts=fresh_prompts) for sample in samples]
    within, between_launches, between_units = (sum(column) for column in zip(*sums, strict=True))
    launches, arms = len(pairs), len(samples)
    freedom = arms * (launches if fresh_prompts else launches - 1) * (trials - 1)
    trial = within / freedom
    top = between_units / (arms * (units - 1))
    cache, launch, below = None, top, trial
    if shared:
        if launches > units:
            freedom = arms * (launches - units)
            below = between_launches / freedom
        launch = below
        sizes = [groups.count(group) for group in set(groups)]
        typical = (launches - sum(one**2 for one in sizes) / launches) / (units - 1)
        cache = max(0.0, (top - launch) / (trials * typical))
    return Levels(
        cache=cache,
        launch=max(0.0, (launch - trial) / trials),
        trial=trial,
        caches=units,
        launches=launches,
        trials=trials,
        paired=design.paired,
        highest=_share(top, below, (arms * (units - 1), freedom)),
    )


def _share(top: float, below: float, freedom: tuple[int, int]) -> Share:
    """Of the highest level in the variance of its units' means, with the interval of F.

    The interval is exact where every unit was repeated as often, for normal noise.

    Args:
        top: Mean square between its units.
        below: Mean square of the level below.
        freedom: Degrees of freedom of both.
    """
    from scipy.stats import f

    ends = [float(f.ppf(share, *freedom)) for share in ((1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2)]
    value, low, high = (max(0.0, 1 - times * below / top) if top else 0.0 for times in (1.0, *ends))
    return Share(value, low, high)


def _sums_of_squares(
    sample: Sequence[Sequence[float]], groups: Sequence[int], *, fresh_prompts: bool
) -> tuple[float, float, float]:
    """Within launches, between launches of a group, and between groups; `sample` is [launch][trial]."""
    trials = len(sample[0])
    of_trial = [0.0] * trials if fresh_prompts else [fmean(column) for column in zip(*sample, strict=True)]
    values = [[value - mean for value, mean in zip(launch, of_trial, strict=True)] for launch in sample]
    means = [fmean(launch) for launch in values]
    within = sum((value - mean) ** 2 for launch, mean in zip(values, means, strict=True) for value in launch)
    grand = fmean(means)
    by_group = {group: [mean for mean, at in zip(means, groups, strict=True) if at == group] for group in set(groups)}
    between_launches = trials * sum((one - fmean(each)) ** 2 for each in by_group.values() for one in each)
    between_groups = trials * sum(len(each) * (fmean(each) - grand) ** 2 for each in by_group.values())
    return within, between_launches, between_groups
