"""What more pairs would buy, in sentences with the command for it."""

import re
from collections.abc import Sequence

from bi_experiments.analysis.planner import MOST_PAIRS, POWER, Plan, Spread, spread, to_show_less_than, to_tell
from bi_experiments.config.plain import setting
from bi_experiments.records import ExperimentResult
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
    least = float(setting(result.configuration, "protocol", "equivalence_pct") or 1.0)
    told = [to_tell(found, target) for target in (tell_pct or (() if show_pct else (2 * least,)))]
    shown = [to_show_less_than(found, target) for target in (show_pct or (() if tell_pct else (least,)))]
    plans = [
        *(f"to distinguish {plan.target_pct:g} % from no change here: {_size(plan)}" for plan in told),
        *(f"to show less than {plan.target_pct:g} %: {_size(plan)}" for plan in shown),
    ]
    largest = max((plan.pairs or 0 for plan in (*told, *shown)), default=0)
    said = [f"What more pairs would buy, in {100 * POWER:.0f} % of experiments: {'; '.join(plans)}."]
    if largest > found.pairs:
        said.append(f"Run: {_command(result.command, largest)}")
    return (*said, _basis(found))


def _size(plan: Plan) -> str:
    if plan.pairs is None:
        return f"more than {MOST_PAIRS} pairs (make the machine quieter)"
    return f"{count(plan.pairs, 'pair')}, {duration(plan.time_s)}"


def _basis(found: Spread) -> str:
    few = "; an estimate from so few pairs may be off by a factor of two" if found.pairs < 5 else ""
    return f"From a pair deviation of {100 * found.deviation:.2f} %, estimated from {count(found.pairs, 'pair')}{few}."


def _command(command: str, pairs: int) -> str:
    """The experiment's command with another number of pairs."""
    without = re.sub(r"\s+protocol\.(pairs|target_half_width_pct|max_pairs)=\S+", "", command)
    return f"{without} protocol.pairs={pairs}"
