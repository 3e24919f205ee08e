"""The pair, the unit of the statistics: two phases that ran the same trials, and their log ratio."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple, TypeAlias

from bi_experiments.records import Arm, PhaseResult, PhaseStatus


class Pair(NamedTuple):
    """The two phases of a complete pair."""

    baseline: PhaseResult
    second: PhaseResult
    """Of the second arm: batch-invariant mode, or in a control experiment another baseline."""


def complete_pairs(phases: Iterable[PhaseResult]) -> tuple[Pair, ...]:
    """The pairs whose two phases both ended well with all trials, by pair number; every other phase is left out."""
    done = [phase for phase in phases if phase.status is PhaseStatus.OK and phase.trials]
    trials = max((len(phase.trials) for phase in done), default=0)
    whole = [phase for phase in done if len(phase.trials) == trials]
    baselines = {phase.pair: phase for phase in whole if phase.arm is Arm.BASELINE}
    others = {phase.pair: phase for phase in whole if phase.arm is not Arm.BASELINE}
    return tuple(Pair(baselines[pair], others[pair]) for pair in sorted(baselines.keys() & others.keys()))


def log_ratio(second: Sequence[float], baseline: Sequence[float]) -> float:
    """D_b of one pair: the mean of ln(second / baseline) over the values that belong together.

    Raises:
        ValueError: The arms have different numbers of values, or a value is not above 0.
    """
    return fmean(math.log(one / other) for one, other in zip(second, baseline, strict=True))


def trial_time_differences(pairs: Iterable[Pair]) -> tuple[float, ...]:
    """D_b of the trial time, one value a pair."""
    return tuple(log_ratio(trial_times(pair.second), trial_times(pair.baseline)) for pair in pairs)


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
    return next((phase.arm for phase in phases if phase.arm is not Arm.BASELINE), Arm.BATCH_INVARIANT)
