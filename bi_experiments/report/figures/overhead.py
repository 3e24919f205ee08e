"""The change of every metric, and of every trial, with its interval, on an axis of ratios."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from bi_experiments.analysis.estimates import per_cent
from bi_experiments.analysis.metrics import UNEQUAL_TOKENS
from bi_experiments.analysis.outcome import primary
from bi_experiments.config.plain import setting
from bi_experiments.records import Difference, ExperimentResult, Metric, TrialCost
from bi_experiments.report import tables
from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing, LeftOut
from bi_experiments.wording import NO_INTERVAL, band, count, metric_name, one_decimal, signed, verdict_word

MARKS = {
    Difference.SLOWER: (theme.OTHER, "s", "full"),
    Difference.FASTER: (theme.BASELINE, "o", "full"),
    Difference.MORE: (theme.OTHER, "^", "full"),
    Difference.LESS: (theme.BASELINE, "v", "full"),
    Difference.EQUIVALENT: (theme.BAND, "D", "full"),
    Difference.INCONCLUSIVE: (theme.MUTED, "o", "none"),
}
"""Colour, marker and fill of a verdict."""

NAMED_TRIALS = 32
"""With more trials than this, only some are named along the axis."""
LOWER, HIGHER = "← lower", "higher →"
FASTER, SLOWER = "← faster", "slower →"
"""What the two directions of an axis mean, with arrows."""
GAP = 4 * "\N{NO-BREAK SPACE}"
"""Between them and the rest of a label: other spaces become one in an SVG."""

_FACTORS = (1, 2, 5, 20, 100, 1000, 10_000)
_STEPS_PCT = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def overhead(result: ExperimentResult) -> Drawing | LeftOut:
    """A forest plot of the metrics that the page shows first, with the equivalence band."""
    title = "Change of the metrics"
    metrics = [one for one in tables.metrics_in_order(result) if one.change_pct is not None]
    metrics = [one for one in metrics if one.name in tables.FIRST_METRICS] or metrics
    if not any(metric.low_pct is not None for metric in metrics):
        reason = "no pair is complete" if not metrics else f"{NO_INTERVAL}, for there is one launch an arm"
        return LeftOut(f"{title}, with its interval", reason)
    figure = theme.new_figure(theme.WIDE, 1.35 + 0.3 * len(metrics))
    axes = figure.subplots()
    draw_forest(
        axes,
        [metric_name(metric.name) for metric in metrics],
        metrics,
        setting(result.configuration, "protocol.equivalence_pct"),
    )
    pairs = max(metric.pairs for metric in metrics)
    theme.head(figure, f"{title} [%], with its 95 % interval, n = {count(pairs, 'pair')}")
    axes.set_xlabel(f"{LOWER}{GAP}change against the baseline [%], on a scale of ratios{GAP}{HIGHER}")
    said = "; ".join(f"{metric_name(metric.name)} {_said(metric)}" for metric in metrics)
    return Drawing(
        name="overhead",
        title=title,
        description=f"Change of the metrics with its 95 % interval: {said}.",
        caption="Shaded: what counts as no change (protocol.equivalence_pct). A cross: no interval. A higher "
        "throughput is faster, a higher time slower.",
        figure=figure,
        shape="wide",
    )


def trial_costs(result: ExperimentResult) -> Drawing | LeftOut:
    """A forest plot of all trials by the size of their batch, with the change of the total time behind them."""
    title = "Cost by trial"
    trials = result.comparison.trials if result.comparison else ()
    costs = sorted(
        (cost for cost in trials if cost.change_pct is not None),
        key=lambda cost: (cost.batch_size, cost.prompt_tokens, cost.index),
    )
    if result.comparison is None or not costs:
        reason = UNEQUAL_TOKENS if trials else "no pair is complete"
        return LeftOut(title, reason)
    figure = theme.new_figure(theme.WIDE, 1.45 + min(9.0, 0.27 * len(costs)))
    axes = figure.subplots()
    axes.axvline(0, color=theme.MUTED, linewidth=0.9)
    ends = [0.0, *_draw_total(axes, primary(result.comparison))]
    named = len(costs) <= NAMED_TRIALS
    for y, cost in enumerate(costs):
        assert cost.change_pct is not None
        if cost.low_pct is not None and cost.high_pct is not None:
            axes.hlines(y, ratio(cost.low_pct), ratio(cost.high_pct), color=theme.OTHER, linewidth=2.0, zorder=2)
            ends += [cost.low_pct, cost.high_pct]
        axes.plot([ratio(cost.change_pct)], [y], linestyle="", marker="s", markersize=5.5, color=theme.OTHER, zorder=3)
        ends.append(cost.change_pct)
        if named:
            axes.annotate(
                _cost_text(cost), (1.0, y), (10, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                va="center", fontsize=8.5, annotation_clip=False,
            )  # fmt: skip
    shown = range(0, len(costs), math.ceil(len(costs) / NAMED_TRIALS))
    axes.set_yticks(list(shown), [_size_text(costs[at]) for at in shown])
    axes.set_ylim(len(costs) - 0.4, -0.6)
    label_ratios(axes, ends)
    theme.read_along(axes, "x")
    theme.head(figure, f"{title} [%], smallest batch first, n = {count(result.comparison.pairs, 'pair')}")
    axes.set_xlabel("change of the trial's time against the baseline [%], on a scale of ratios")
    said = "; ".join(f"{_size_text(cost)}: {_cost_text(cost)}" for cost in costs)
    intervals = any(cost.low_pct is not None for cost in costs)
    behind = "Dashed: the change of total time; no change has an interval."
    if intervals:
        behind = f"Dashed, shaded: the change of total time with its interval. {tables.EACH_ALONE}"
    means = ", prompts and tokens being means over the pairs" if result.comparison.fresh_prompts else ""
    return Drawing(
        name="trial_costs",
        title=title,
        description=f"Change of the time of every trial{', with its 95 % interval' if intervals else ''}: {said}.",
        caption=f"Tokens: of the prompts + generated{means}. {behind}",
        figure=figure,
        shape="wide",
    )


def _draw_total(axes: Axes, total_time: Metric | None) -> list[float]:
    """The change of the total time and its interval, behind the trials; returns what must be within the axis."""
    if total_time is None or total_time.change_pct is None:
        return []
    axes.axvline(ratio(total_time.change_pct), color=theme.INK, linewidth=1.0, linestyle=(0, (5, 2)))
    if total_time.low_pct is None or total_time.high_pct is None:
        return [total_time.change_pct]
    axes.axvspan(ratio(total_time.low_pct), ratio(total_time.high_pct), color=theme.MUTED, alpha=0.16, linewidth=0)
    return [total_time.change_pct, total_time.low_pct, total_time.high_pct]


def _size_text(cost: TrialCost) -> str:
    tokens = f"{one_decimal(cost.prompt_tokens)} + {one_decimal(cost.output_tokens)} tokens"
    return f"trial {cost.index + 1}: {count(cost.batch_size, 'prompt')}, {tokens}"


def _cost_text(cost: TrialCost) -> str:
    assert cost.change_pct is not None
    if cost.low_pct is None or cost.high_pct is None:
        return f"{signed(cost.change_pct)} (no interval)"
    return f"{signed(cost.change_pct)} {band(cost.low_pct, cost.high_pct)}"


def draw_forest(axes: Axes, labels: Sequence[str], metrics: Sequence[Metric], band_pct: float | None) -> None:
    """One row a metric: the change and its interval; the colour and the shape of the mark are the verdict's.

    Args:
        axes: Where to draw.
        labels: Names of the rows.
        metrics: What is drawn; each has a change.
        band_pct: Changes within plus or minus this many per cent count as none, if that is known.
    """
    if band_pct is not None:
        axes.axvspan(ratio(-band_pct), ratio(band_pct), color=theme.BAND, alpha=0.16, linewidth=0)
    axes.axvline(0, color=theme.MUTED, linewidth=0.9)
    for y, metric in enumerate(metrics):
        draw_interval(axes, metric, y)
    _explain_marks(axes, metrics)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    ends = [
        end for metric in metrics for end in (metric.change_pct, metric.low_pct, metric.high_pct) if end is not None
    ]
    label_ratios(axes, [*ends, 0.0])
    theme.read_along(axes, "x")


def _explain_marks(axes: Axes, metrics: Sequence[Metric]) -> None:
    """Entries of the legend, one for each verdict that is there, in the order of `MARKS`."""
    there = {metric.verdict for metric in metrics if metric.low_pct is not None}
    for verdict, (colour, marker, fill) in MARKS.items():
        if verdict in there:
            name = "no change" if verdict is Difference.EQUIVALENT else verdict.value
            axes.plot(
                [], [], linestyle="", marker=marker, markersize=6.5, color=colour, markeredgewidth=1.4, label=name,
                markerfacecolor=theme.SURFACE if fill == "none" else colour,
            )  # fmt: skip
    if any(metric.low_pct is None for metric in metrics):
        axes.plot([], [], linestyle="", marker="x", markersize=6.5, color=theme.MUTED, label=NO_INTERVAL)


def draw_interval(axes: Axes, metric: Metric, y: float) -> None:
    """The change and its interval on a horizontal line."""
    assert metric.change_pct is not None
    colour, marker, fill = MARKS[metric.verdict]
    if metric.low_pct is not None and metric.high_pct is not None:
        axes.hlines(y, ratio(metric.low_pct), ratio(metric.high_pct), color=colour, linewidth=2.0, zorder=2)
    else:
        marker = "x"
    axes.plot(
        [ratio(metric.change_pct)], [y], linestyle="", marker=marker, markersize=6.5, color=colour,
        markerfacecolor=theme.SURFACE if fill == "none" else colour, markeredgewidth=1.4, zorder=3,
    )  # fmt: skip


def ratio(per_cent: float) -> float:
    """Where a change stands on the axis: the logarithm of the ratio, on which a half is as far as a double."""
    return math.log(max(1 + per_cent / 100, 1e-6))


def label_ratios(axes: Axes, ends_pct: Sequence[float], axis: str = "x") -> None:
    """Limits and ticks, in per cent, of an axis of ratios.

    Args:
        axes: Of the figure.
        ends_pct: All values that must be within the axis.
        axis: `x` or `y`.
    """
    low, high = min(map(ratio, ends_pct)), max(map(ratio, ends_pct))
    margin = max(0.04 * (high - low), 1e-3)
    low, high = low - margin, high + margin
    if low < 0 < high:  # a tick on both sides of 0, so that what is a saving and what a cost is read off
        step = ratio(_step_pct(low, high))
        low, high = min(low, -1.1 * step), max(high, 1.1 * step)
    ticks = [tick for tick in _ticks_pct(low, high) if low <= ratio(tick) <= high]
    names = [f"{tick:+g}".replace("-", "−") if tick else "0" for tick in ticks]
    if axis == "x":
        axes.set_xlim(low, high)
        axes.set_xticks([ratio(tick) for tick in ticks], names)
    else:
        axes.set_ylim(low, high)
        axes.set_yticks([ratio(tick) for tick in ticks], names)


def _step_pct(low: float, high: float) -> float:
    """Between two ticks, where they are evenly spaced; the smallest factor where they are not."""
    span_pct = 100 * (high - low)
    if span_pct < 120:
        return next((step for step in _STEPS_PCT if span_pct / step <= 9), _STEPS_PCT[-1])
    return 100.0 * ((_FACTORS if span_pct < 800 else _FACTORS[::2])[1] - 1)


def _ticks_pct(low: float, high: float) -> list[float]:
    """Round numbers: evenly spaced per cent where the range is small, round factors where it is large."""
    span_pct = 100 * (high - low)
    if span_pct < 120:
        step = _step_pct(low, high)
        first, last = math.ceil(per_cent(low) / step), math.floor(per_cent(high) / step)
        return [round(step * index, 6) for index in range(first, last + 1)]
    factors = _FACTORS if span_pct < 800 else _FACTORS[::2]
    return sorted({100 * (factor - 1) for factor in factors} | {100 * (1 / factor - 1) for factor in factors})


def _said(metric: Metric) -> str:
    assert metric.change_pct is not None
    if metric.low_pct is None or metric.high_pct is None:
        return f"{signed(metric.change_pct)} ({NO_INTERVAL})"
    return f"{signed(metric.change_pct)} {band(metric.low_pct, metric.high_pct)} {verdict_word(metric)}"
