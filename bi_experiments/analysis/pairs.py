"""The pair, the unit of the statistics: two phases that ran the same trials, and their log ratio."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple, TypeAlias

from msgspec.structs import replace

from bi_experiments.records import Arm, PhaseResult, PhaseStatus


class Pair(NamedTuple):
    """The two phases of a complete pair."""

    baseline: PhaseResult
    second: PhaseResult
    """Of the second arm: batch-invariant mode, or in a control experiment another baseline."""


def complete_pairs(phases: Iterable[PhaseResult]) -> tuple[Pair, ...]:
    """The pairs whose two phases both ended well with all trials, by pair number; every other phase is left out.

    So is one with a trial of no time, which has no logarithm.

    The trials of their phases are in the order of the workload, whatever the order in which they ran.
    """
    done = [phase for phase in phases if phase.status is PhaseStatus.OK and phase.trials]
    trials = max((len(phase.trials) for phase in done), default=0)
    whole = [
        replace(phase, trials=tuple(sorted(phase.trials, key=lambda trial: trial.index)))
        for phase in done
        if len(phase.trials) == trials and all(trial.time_s > 0 for trial in phase.trials)
    ]
    baseline, second = (
        {phase.pair: phase for phase in whole if phase.arm is arm} for arm in (Arm.BASELINE, second_arm(whole))
    )
    return tuple(Pair(baseline[pair], second[pair]) for pair in sorted(baseline.keys() & second.keys()))


def mean_log(values: Sequence[float]) -> float:
    """The mean of the logarithms of values above 0: what a launch yields for one quantity.

    Raises:
        ValueError: A value is not above 0.
    """
    return fmean(map(math.log, values))


def total_time_s(phase: PhaseResult) -> float:
    """Time of all trials of a phase, in seconds."""
    return sum(trial.time_s for trial in phase.trials)


def total_time_logs(pairs: Iterable[Pair]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Log of the total time of every launch: of the baselines and of the second arm, pair by pair."""
    both = [(math.log(total_time_s(pair.baseline)), math.log(total_time_s(pair.second))) for pair in pairs]
    return tuple(baseline for baseline, _ in both), tuple(second for _, second in both)


def log_ratios(reference: Sequence[float], other: Sequence[float]) -> list[float]:
    """Log ratio of each value to the one in the same place of a reference, such as of the second arm to the baseline.

    Args:
        reference: Logarithms of what is compared with.
        other: As many logarithms.
    """
    return [log - of_reference for log, of_reference in zip(other, reference, strict=True)]


def pair_time_s(pairs: Sequence[Pair]) -> float:
    """Mean time of a pair, from the start of its first process to the end of its last, in seconds."""
    return fmean(map(_length_s, pairs))


def _length_s(pair: Pair) -> float:
    """That of one pair; of one that an interruption lies within, the time of its two phases."""
    first, last = min(phase.started_at for phase in pair), max(phase.started_at + phase.wall_time_s for phase in pair)
    return min(last - first, sum(phase.wall_time_s for phase in pair))


def equal_tokens(pairs: Iterable[Pair]) -> bool:
    """Whether both arms generated as many tokens in every trial of every pair."""
    return all(output_tokens(pair.baseline) == output_tokens(pair.second) for pair in pairs)


def output_tokens(phase: PhaseResult) -> tuple[int, ...]:
    """Generated tokens of each trial."""
    return tuple(trial.output_tokens for trial in phase.trials)


Values: TypeAlias = tuple[float, ...]
"""What a phase yields for one quantity: a value a trial, a single value, or none where it was not measured."""


def trial_times(phase: PhaseResult) -> Values:
    """Time of each trial, in seconds."""
    return tuple(trial.time_s for trial in phase.trials)


def second_arm(phases: Sequence[PhaseResult]) -> Arm:
    """The arm that is compared with the baseline."""
    return next((phase.arm for phase in phases if phase.arm is not Arm.BASELINE), Arm.second(control=False))
