"""What changed in total time from the experiments of side A to those of side B.

`comparison.py` compares the two arms of one experiment. Of one in two stages the spread is that of the first here too:
with that of all pairs, whose number follows from it, 7 to 11 % of the intervals of the ratio miss (simulated, first
stages of 8 and 4 pairs). Pair by pair with the same prompts up to 6 % do, and the spread is that of all.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from msgspec.structs import replace

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.estimates import Estimate, contrast_estimate, paired_estimate, per_cent
from bi_experiments.analysis.pairs import complete_pairs, equal_tokens, log_ratios, output_tokens, total_time_logs
from bi_experiments.config.plain import setting
from bi_experiments.errors import ConfigurationError
from bi_experiments.records import ExperimentResult


class Changes(NamedTuple):
    """From A to B, in per cent, with 95 % intervals."""

    baseline: Estimate
    """Of the baseline's total time."""
    mode: Estimate
    """Of the second arm's total time."""
    ratio: Estimate
    """(1 + overhead B) / (1 + overhead A) - 1."""


def changes_between(first: Sequence[ExperimentResult], second: Sequence[ExperimentResult]) -> Changes:
    """The three changes from the experiments of side A to those of side B.

    Raises:
        ConfigurationError: One of them has no complete pair, or none with the prompts of all others'.
    """
    for name, side in (("A", first), ("B", second)):
        for result in side:
            if not complete_pairs(result.phases):
                raise ConfigurationError(f"{name} ({result.name}) has no complete pair: run it again")
    fresh_prompts = have_fresh_prompts([*first, *second])
    if fresh_prompts:
        first, second = _shared_pairs(first, second)
    by_experiment = min(len(first), len(second)) > 1
    if fresh_prompts and not by_experiment and (changes := _changes_by_number(first, second)) is not None:
        return changes
    one, other = _logs(first, by_experiment), _logs(second, by_experiment)
    if by_experiment or all(Design.recorded(result).paired for result in (*first, *second)):
        ratio = _contrast([(other, other.differences)], [(one, one.differences)])
    else:
        ratio = _contrast([(other, other.second), (one, one.baseline)], [(other, other.baseline), (one, one.second)])
    return Changes(
        baseline=_contrast([(other, other.baseline)], [(one, one.baseline)]),
        mode=_contrast([(other, other.second)], [(one, one.second)]),
        ratio=ratio,
    )


def have_fresh_prompts(results: Sequence[ExperimentResult]) -> bool:
    """Whether every pair of these experiments had prompts of its own (`workload.fresh_prompts`)."""
    return all(setting(result.configuration, "workload.fresh_prompts") for result in results)


def _shared_pairs(
    first: Sequence[ExperimentResult], second: Sequence[ExperimentResult]
) -> tuple[list[ExperimentResult], list[ExperimentResult]]:
    """The experiments with the pairs alone whose numbers, and with them whose prompts, all of them have."""
    numbers = [{pair.baseline.pair for pair in complete_pairs(result.phases)} for result in (*first, *second)]
    if not (shared := set.intersection(*numbers)):
        raise ConfigurationError("A and B have no complete pair with the same prompts: run them again")
    one, other = (
        [replace(each, phases=tuple(phase for phase in each.phases if phase.pair in shared)) for each in side]
        for side in (first, second)
    )
    return one, other


def _changes_by_number(first: Sequence[ExperimentResult], second: Sequence[ExperimentResult]) -> Changes | None:
    """The changes from pair to pair with the same prompts; None where launches share caches by other rules in A and B.

    Args:
        first: The experiments of A, all with the same pairs.
        second: Those of B, with the same ones too.
    """
    sides = [[_units(result) for result in side] for side in (first, second)]
    if len({len(units.baseline) for side in sides for units in side}) > 1:
        return None
    one, other = (
        _Logs(
            [fmean(values) for values in zip(*(units.baseline for units in side), strict=True)],
            [fmean(values) for values in zip(*(units.second for units in side), strict=True)],
            [True] * len(side[0].baseline),
        )
        for side in sides
    )
    return Changes(
        baseline=paired_estimate(log_ratios(one.baseline, other.baseline)),
        mode=paired_estimate(log_ratios(one.second, other.second)),
        ratio=paired_estimate(log_ratios(one.differences, other.differences)),
    )


class _Logs(NamedTuple):
    """Log total times of one side, one value a launch, or one an experiment."""

    baseline: Sequence[float]
    second: Sequence[float]
    in_first_stage: Sequence[bool]
    """Whether each is of the first of two stages; of a single stage all are."""

    @property
    def differences(self) -> list[float]:
        return log_ratios(self.baseline, self.second)

    def of_first_stage(self, values: Sequence[float]) -> Sequence[float]:
        """Those of the values, one a launch, that say how much all of them scatter."""
        first = [value for value, is_first in zip(values, self.in_first_stage, strict=True) if is_first]
        return first if len(first) > 1 else values


_Samples = Sequence[tuple[_Logs, Sequence[float]]]
"""Values that are independent of each other, and the side that they are of."""


def _contrast(plus: _Samples, minus: _Samples) -> Estimate:
    spread_of = [side.of_first_stage(values) for side, values in (*plus, *minus)]
    return contrast_estimate([values for _, values in plus], [values for _, values in minus], spread_of)


def _logs(side: Sequence[ExperimentResult], by_experiment: bool) -> _Logs:
    each = [_units(result) for result in side]
    if by_experiment:
        return _Logs([fmean(logs.baseline) for logs in each], [fmean(logs.second) for logs in each], [True] * len(each))
    return _Logs(
        [value for logs in each for value in logs.baseline],
        [value for logs in each for value in logs.second],
        [value for logs in each for value in logs.in_first_stage],
    )


def _units(result: ExperimentResult) -> _Logs:
    design, pairs = Design.recorded(result), complete_pairs(result.phases)
    baseline, second = (design.units(logs, pairs) for logs in total_time_logs(pairs))
    if design.first_stage is None:
        return _Logs(baseline, second, [True] * len(baseline))
    return _Logs(baseline, second, [pair.baseline.pair < design.first_stage for pair in pairs])


def equal_work(results: Sequence[ExperimentResult]) -> bool:
    """Whether both arms of every experiment generated as many tokens, as much in each experiment.

    With prompts of its own in every pair, as much in the pairs of the same number.
    """
    pairs = [complete_pairs(result.phases) for result in results]
    fresh_prompts = have_fresh_prompts(results)
    totals: dict[int, set[int]] = {}
    for pair in (pair for each in pairs for pair in each):
        number = pair.baseline.pair if fresh_prompts else 0
        totals.setdefault(number, set()).add(sum(output_tokens(pair.baseline)))
    return all(map(equal_tokens, pairs)) and all(len(found) == 1 for found in totals.values())


def overhead_pct(side: Sequence[ExperimentResult]) -> float:
    """The second arm's overhead in the experiments of one side, in per cent of the total time."""
    return per_cent(fmean(_logs(side, by_experiment=len(side) > 1).differences))
