"""What more pairs would buy, in sentences with the command for it."""

import math
import re
import shlex
from collections.abc import Sequence
from statistics import stdev

from bi_experiments.analysis.design import Design, prompts_differ
from bi_experiments.analysis.levels import Share, levels, repetition_times
from bi_experiments.analysis.outcome import primary
from bi_experiments.analysis.pairs import complete_pairs, log_ratios, total_time_logs
from bi_experiments.analysis.planner import (
    MOST_PAIRS,
    POWER,
    Plan,
    Spread,
    deviation_interval,
    spread,
    to_narrow,
    to_show_less_than,
    to_tell,
)
from bi_experiments.config.compose import defaults_then
from bi_experiments.config.plain import setting
from bi_experiments.records import Difference, ExperimentResult, Metric
from bi_experiments.report import estimator
from bi_experiments.wording import count, duration, finding_name

_CAUSES_OF_SPREAD = ("compiled", "outlying")
"""Findings of what makes few launches unlike the others."""


def planning(
    result: ExperimentResult, tell_pct: Sequence[float] = (), show_pct: Sequence[float] = ()
) -> tuple[str, ...]:
    """The plans in a sentence, with the command and what they rest on; nothing where there is no spread to plan from.

    Without targets of the reader's: where the total time is undecided, twice what counts as no change here is to be
    told from none, and what counts as none to be ruled out; where it is decided, the interval is to be half as wide.

    Args:
        result: The record.
        tell_pct: Changes to distinguish from none, in per cent.
        show_pct: Changes to be ruled out, in per cent.
    """
    found = spread(result)
    if found is None:
        return ()
    design = Design.recorded(result)
    _, sample = estimator.spread(design, found.pairs)
    plans = _plans(result, found, tell_pct, show_pct)
    said = [
        f"What more pairs would buy, in {100 * POWER:.0f} % of experiments if the deviation is as estimated from "
        f"{sample}: {'; '.join(f'{what}: {_size(plan)}' for what, plan in plans)}.{_known_causes(result)}"
    ]
    largest = max(plan.pairs or 0 for _, plan in plans)
    if largest > found.pairs:
        ended_by = {
            "protocol.target_half_width_pct": setting(result.configuration, "protocol.target_half_width_pct"),
            "protocol.time_budget_min": setting(result.configuration, "protocol.time_budget_min"),
        }
        limits = [key for key, value in ended_by.items() if value is not None]
        said.append(f"Run: {_command(result, largest, limits)}")
    if design.first_stage is None:
        return (*said, _basis(found, design), *_by_level(result))
    return (*said, _basis(found, design) + _of_first_stage(result, design.first_stage))


def _plans(
    result: ExperimentResult, found: Spread, tell_pct: Sequence[float], show_pct: Sequence[float]
) -> list[tuple[str, Plan]]:
    """What each target is, and what it takes."""
    total_time = primary(result.comparison) if result.comparison else None
    if not tell_pct and not show_pct:
        if total_time is not None and (half_width := _decided(total_time)) is not None:
            plan = to_narrow(found, half_width / 2, total_time.change_pct or 0.0)
            what = (
                f"to halve the interval, which already decides ({total_time.verdict}), to ±{plan.target_pct:.2f} points"
            )
            return [(what, plan)]
        least = float(setting(result.configuration, "protocol.equivalence_pct") or 1.0)
        tell_pct, show_pct = (2 * least,), (least,)
    return [
        *((f"to distinguish {target:g} % from no change here", to_tell(found, target)) for target in tell_pct),
        *((f"to show less than {target:g} %", to_show_less_than(found, target)) for target in show_pct),
    ]


def _decided(metric: Metric) -> float | None:
    """Half the width of an interval that decides, in percentage points; None where it does not."""
    if metric.verdict is Difference.INCONCLUSIVE or metric.low_pct is None or metric.high_pct is None:
        return None
    return (metric.high_pct - metric.low_pct) / 2


def _known_causes(result: ExperimentResult) -> str:
    found = result.comparison.findings if result.comparison else ()
    named = [finding_name(finding.kind) for finding in found if finding.kind in _CAUSES_OF_SPREAD]
    if not named:
        return ""
    return f" A finding names a cause of that deviation ({', '.join(named)}): remove it first, and the numbers fall."


def _size(plan: Plan) -> str:
    if plan.pairs is None:
        return f"more than {MOST_PAIRS} pairs (make the machine quieter)"
    return f"{count(plan.pairs, 'pair')}, {duration(plan.time_s)}"


def _by_level(result: ExperimentResult) -> tuple[str, ...]:
    """Which level of repetition the spread comes from, and what more of each would buy."""
    pairs, design = complete_pairs(result.phases), Design.recorded(result)
    found = levels(pairs, design, fresh_prompts=prompts_differ(pairs))
    if found is None or found.error() == 0:
        return ()
    share, fewer = (_with_interval(value) for value in (found.highest, _twice_below(found.highest)))
    twice, times = _width(found.narrower(caches=2)), repetition_times(pairs)
    what, unit = estimator.value(design), estimator.units(design)
    if found.cache is None:
        own = ", each with compile caches of its own," if design.launches_per_cache else ""
        said = (
            f"Where the spread comes from: of the variance of {what}, {share} is between {unit}{own} and the "
            f"rest between the trials of one (95 % interval). Twice the pairs would narrow the interval to {twice} of "
            f"its width (+{duration(times.pairs_s)}), twice the trials to {fewer} (+{duration(times.trials_s)})."
        )
        if design.launches_per_cache:
            said += " With protocol.launches_per_cache=2 the caches' part is separated from the launches'."
        return (said,)
    return (
        f"Where the spread comes from: of the variance of {what}, averaged over those with the same compile caches, "
        f"{share} is between compile caches and the rest between {unit} with the same ones and their trials (95 % "
        f"interval). Twice the caches would narrow the interval to {twice} of its width (+{duration(times.pairs_s)}), "
        f"twice the launches with each to {fewer} (+{duration(times.pairs_s)}). "
        f"Estimated from {count(found.caches, 'cache')} an arm.",
    )


def _twice_below(share: Share) -> Share:
    """The interval's width with twice as many of what is below the highest level, as a share of the present one."""
    value, low, high = (math.sqrt((1 + one) / 2) for one in share)
    return Share(value, low, high)


def _with_interval(share: Share) -> str:
    return f"{_width(share.value)} [{_width(share.low)}, {_width(share.high)}]"


def _width(share: float) -> str:
    return f"{100 * share:.0f} %"


def _basis(found: Spread, design: Design) -> str:
    low, high = deviation_interval(found)
    what, sample = estimator.spread(design, found.pairs)
    return (
        f"From a deviation of {100 * found.deviation:.2f} % [{100 * low:.2f} %, {100 * high:.2f} %] of {what}, "
        f"estimated from {sample}; the numbers of pairs go with its square."
    )


def _of_first_stage(result: ExperimentResult, pairs: int) -> str:
    """What the interval of an experiment in two stages rests on, where the plan rests on all of its pairs."""
    first = complete_pairs(result.phases)[:pairs]
    if len(first) < 2:
        return ""
    deviation = stdev(log_ratios(*total_time_logs(first)))
    return f" The interval above rests on the {len(first)} pairs of the first stage alone, {100 * deviation:.2f} %."


def _command(result: ExperimentResult, pairs: int, limits: Sequence[str]) -> str:
    """The experiment's command with another number of pairs, all of which are run, without what ended it before.

    A default that was another one then is named.
    """
    settings = "pairs|target_half_width_pct|max_pairs|time_budget_min"
    without = re.sub(rf"\s+protocol\.({settings})=(?!null)\S+", "", result.command)
    then = map(shlex.quote, defaults_then(result.command, result.configuration))
    return " ".join([without, *then, f"protocol.pairs={pairs}", *(f"{key}=null" for key in limits)])
