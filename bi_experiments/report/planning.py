"""What more pairs would buy, in sentences with the command for it."""

import re
from collections.abc import Sequence

from bi_experiments.analysis.design import Design, prompts_differ
from bi_experiments.analysis.levels import levels, repetition_times
from bi_experiments.analysis.pairs import complete_pairs
from bi_experiments.analysis.planner import (
    MOST_PAIRS,
    POWER,
    Plan,
    Spread,
    deviation_interval,
    spread,
    to_show_less_than,
    to_tell,
)
from bi_experiments.config.plain import setting
from bi_experiments.records import ExperimentResult
from bi_experiments.report import estimator
from bi_experiments.wording import count, duration


def planning(
    result: ExperimentResult, tell_pct: Sequence[float] = (), show_pct: Sequence[float] = ()
) -> tuple[str, ...]:
    """One sentence a target; none where there is no spread to plan from.

    Args:
        result: The record.
        tell_pct: Changes to distinguish from none, in per cent; empty: twice what counts as no change here.
        show_pct: Changes to be ruled out, in per cent; empty: what counts as none here.
    """
    found = spread(result)
    if found is None:
        return ()
    least = float(setting(result.configuration, "protocol.equivalence_pct") or 1.0)
    distinguished = [to_tell(found, target) for target in (tell_pct or (() if show_pct else (2 * least,)))]
    shown = [to_show_less_than(found, target) for target in (show_pct or (() if tell_pct else (least,)))]
    plans = [
        *(f"to distinguish {plan.target_pct:g} % from no change here: {_size(plan)}" for plan in distinguished),
        *(f"to show less than {plan.target_pct:g} %: {_size(plan)}" for plan in shown),
    ]
    largest = max((plan.pairs or 0 for plan in (*distinguished, *shown)), default=0)
    said = [f"What more pairs would buy, in {100 * POWER:.0f} % of experiments: {'; '.join(plans)}."]
    if largest > found.pairs:
        said.append(f"Run: {_command(result.command, largest)}")
    return (*said, _basis(found, Design.recorded(result)), *_by_level(result))


def _size(plan: Plan) -> str:
    if plan.pairs is None:
        return f"more than {MOST_PAIRS} pairs (make the machine quieter)"
    return f"{count(plan.pairs, 'pair')}, {duration(plan.time_s)}"


def _by_level(result: ExperimentResult) -> tuple[str, ...]:
    """Which level of repetition the spread comes from, and what more of each would buy."""
    pairs, design = complete_pairs(result.phases), Design.recorded(result)
    found = levels(pairs, design, fresh_prompts=prompts_differ(pairs))
    if found is None or not any(found.of_a_launch()):
        return ()
    of_cache, of_launch, of_trials = (f"{100 * share:.0f} %" for share in found.of_a_launch())
    times = repetition_times(pairs)
    what, unit = estimator.value(design), estimator.units(design)
    more_trials = f"twice the trials to {_width(found.narrower(trials=2))} (+{duration(times.trials_s)})"
    if found.cache is None:
        own = ", each with compile caches of its own," if design.launches_per_cache else ""
        said = (
            f"Where the spread comes from: of the variance of {what}, {of_launch} is between {unit}{own} and "
            f"{of_trials} between the trials of one. Twice the pairs would narrow the interval to "
            f"{_width(found.narrower(caches=2))} of its width (+{duration(times.pairs_s)}), {more_trials}."
        )
        if design.launches_per_cache:
            said += " With protocol.launches_per_cache=2 the caches' part is separated from the launches'."
        return (said,)
    return (
        f"Where the spread comes from: of the variance of {what}, {of_cache} is between compile caches, {of_launch} "
        f"between {unit} with the same caches and {of_trials} between the trials of one. Twice the caches would narrow "
        f"the interval to {_width(found.narrower(caches=2))} of its width (+{duration(times.pairs_s)}), twice the "
        f"launches with each to {_width(found.narrower(launches=2))} (+{duration(times.pairs_s)}), {more_trials}. "
        f"Estimated from {count(found.caches, 'cache')} an arm.",
    )


def _width(share: float) -> str:
    return f"{100 * share:.0f} %"


def _basis(found: Spread, design: Design) -> str:
    low, high = deviation_interval(found)
    what, sample = estimator.spread(design, found.pairs)
    return (
        f"From a deviation of {100 * found.deviation:.2f} % [{100 * low:.2f} %, {100 * high:.2f} %] of {what}, "
        f"estimated from {sample}; the numbers of pairs go with its square."
    )


def _command(command: str, pairs: int) -> str:
    """The experiment's command with another number of pairs."""
    without = re.sub(r"\s+protocol\.(pairs|target_half_width_pct|max_pairs)=\S+", "", command)
    return f"{without} protocol.pairs={pairs}"
