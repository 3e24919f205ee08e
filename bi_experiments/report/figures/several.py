"""Figures of several experiments: what each costs, what the cost depends on, both arms' throughput.

Up to `NAMED` experiments are drawn by name, up to `SINGLE` one by one; of more, quartiles are drawn.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import median, quantiles

from matplotlib.axes import Axes

from bi_experiments.config.plain import setting
from bi_experiments.records import Arm
from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing, LeftOut
from bi_experiments.report.figures.overhead import FASTER, GAP, SLOWER, draw_forest, label_ratios, ratio
from bi_experiments.report.labels import changing_keys, short_names
from bi_experiments.report.rows import Row
from bi_experiments.wording import LABELS, count, shortened, signed

NAMED = 40
"""Most experiments that get a line with their name."""
SINGLE = 200
"""Most experiments that are drawn one by one against a setting."""
MOST_KEYS = 6
"""Settings that the cost is drawn against."""
MOST_LINES = 6
"""Lines in one figure; with more, the points stand without them."""

SCATTERED = 10
"""From this many experiments on, the cost is drawn against a setting even if others always change with it."""

_LABEL_LENGTH = 40
_COLOURS = (theme.BASELINE, theme.OTHER, theme.BAND, theme.DIFFERS, theme.MUTED, theme.INK)
_MARKERS = "osD^vP"
_LINES = ("-", "--", "-.", ":", "-", "--")


def draw_all(rows: Sequence[Row], *, sweep: bool = True) -> tuple[Drawing | LeftOut, ...]:
    """Draw what there is to draw, in the order of the page; to be called within `theme.style`.

    Args:
        rows: The experiments.
        sweep: Whether settings were varied on purpose: only then the cost is drawn against each of them.
    """
    compared = [row for row in rows if row.cost is not None]
    if len(compared) < 2:
        return (LeftOut("Overhead and throughput of several experiments", "fewer than two experiments have a result"),)
    keys = (
        list(changing_keys([row.settings for row in compared])) if sweep else []
    )  # folders that were picked by hand have names of their own
    drawn: list[Drawing | LeftOut] = [_overhead(compared, keys)]
    numeric = {key: all(_number(row.settings.get(key, "")) is not None for row in compared) for key in keys}
    for number, key in enumerate(keys):
        title = f"Overhead against {key}"
        alone = any(len(rows) > 1 for rows in _lines(key, compared, keys).values())
        if not numeric[key] and len(keys) == 1 and len(compared) <= NAMED:
            continue  # the names in the first figure are its values
        if number >= MOST_KEYS:
            drawn.append(LeftOut(title, f"of the settings that differ, the first {MOST_KEYS} are drawn"))
        elif not alone and len(compared) < SCATTERED:
            drawn.append(LeftOut(title, "no two of these experiments differ in this setting alone"))
        else:
            drawn.append(_against(key, compared, keys, numeric[key]))
    measured = [row for row in compared if row.result is not None and row.result.throughput is not None]
    drawn.append(_throughput(measured, keys) if measured else LeftOut("Throughput", "no experiment measured it"))
    return tuple(drawn)


# --- What each costs ------------------------------------------------------------------------------------------------


def _overhead(rows: Sequence[Row], keys: Sequence[str]) -> Drawing:
    title = "Overhead of total time by experiment"
    ordered = sorted(rows, key=_cost_pct, reverse=True)
    named = len(ordered) <= NAMED
    names = _names_of(ordered, keys)
    figure = theme.new_figure(theme.WIDE, 1.3 + 0.27 * len(ordered) if named else 3.8)
    axes = figure.subplots()
    metrics = [row.cost for row in ordered if row.cost is not None]
    if named:
        draw_forest(axes, names, metrics, _equivalence_pct(rows))
        axes.set_xlabel(
            f"{FASTER}{GAP}change of total time against the baseline [%], on a scale of ratios{GAP}{SLOWER}"
        )
    else:
        spans = [(x, *span) for x, row in enumerate(ordered) if (span := _span(row)) is not None]
        if spans:
            axes.vlines(*zip(*spans, strict=True), color=theme.MUTED, linewidth=0.7, alpha=0.6)
        axes.plot(range(len(ordered)), [ratio(_cost_pct(row)) for row in ordered], color=theme.OTHER, linewidth=1.8)
        axes.axhline(0, color=theme.MUTED, linewidth=0.8)
        label_ratios(axes, [0.0, *_ends_pct(rows)], "y")
        axes.set_xlabel("experiments, the most expensive first")
        axes.set_ylabel("change of total time [%]")
        theme.read_along(axes, "y")
    theme.head(figure, f"{title} [%], with its 95 % interval, n = {count(len(rows), 'experiment')}")
    costs = [(_cost_pct(row), name) for row, name in zip(ordered, names, strict=True) if not row.control]
    said = "two baselines each"
    if costs:
        (highest, most_expensive), (lowest, cheapest) = costs[0], costs[-1]
        middle = median(cost for cost, _ in costs)
        said = f"from {signed(lowest)} ({cheapest}) to {signed(highest)} ({most_expensive}), median {signed(middle)}"
    return Drawing(
        name="experiments_overhead",
        title=title,
        description=f"{title}, n = {len(rows)}: {said}.",
        caption=f"{_names(keys)}The most expensive first. Shaded: what counts as no change."
        if named
        else "Grey: 95 % intervals.",
        figure=figure,
        shape="wide",
    )


# --- What the cost depends on ---------------------------------------------------------------------------------------


def _against(key: str, rows: Sequence[Row], keys: Sequence[str], numeric: bool) -> Drawing:
    title = f"Overhead against {key}"
    values = sorted({row.settings.get(key, "-") for row in rows}, key=lambda value: (_number(value) or 0.0, value))
    places = {value: _number(value) or 0.0 if numeric else float(index) for index, value in enumerate(values)}
    groups = _lines(key, rows, keys)
    lines = numeric and len(groups) <= MOST_LINES and len(rows) <= SINGLE
    figure = theme.new_figure(theme.WIDE if lines else theme.NARROW, 3.4)
    axes = figure.subplots()
    axes.axhline(0, color=theme.MUTED, linewidth=0.8)
    if len(rows) > SINGLE:
        caption = _draw_quartiles(axes, key, rows, places)
    elif lines:
        caption = _draw_lines(axes, key, groups, places)
    else:
        caption = _draw_points(axes, key, rows, places, numeric)
    label_ratios(axes, [0.0, *_ends_pct(rows)], "y")
    theme.read_along(axes, "y")
    axes.spines["bottom"].set_visible(True)
    if numeric and min(places.values()) > 0 and max(places.values()) / min(places.values()) >= 8:
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    shown = values[:: -(-len(values) // 12)]
    axes.set_xticks([places[value] for value in shown], [shortened(value, 14) for value in shown])
    if not numeric:
        axes.set_xlim(-0.6, len(values) - 0.4)
        if max(map(len, shown)) * len(shown) > 55:
            axes.tick_params(axis="x", labelrotation=25)
    axes.set_xlabel(key)
    axes.set_ylabel("change of total time [%]")
    theme.head(figure, f"{shortened(title, _LABEL_LENGTH)} [%], n = {len(rows)}", legend=False)
    if lines and len(groups) > 1:
        figure.legend(
            loc="outside right center",
            title=shortened(" · ".join(_last(other) for other in keys if other != key), _LABEL_LENGTH),
        )
    by_value = _by_value(key, rows)
    said = "; ".join(f"{value}: median {signed(median(costs))} of {len(costs)}" for value, costs in by_value[:20])
    return Drawing(
        name="overhead_by_" + re.sub(r"[^\w.-]", "_", key),
        title=title,
        description=f"Overhead of total time against {key}. {said}.",
        caption=caption,
        figure=figure,
        shape="wide" if lines else None,
    )


def _lines(key: str, rows: Sequence[Row], keys: Sequence[str]) -> dict[str, list[Row]]:
    """The rows that differ in that key alone, by what they have in common: by their settings, whatever is drawn."""
    if len(keys) == 1:
        return {"": list(rows)}
    others = [other for other in keys if other != key]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.settings.get(other, "-") for other in others), []).append(row)
    names = _names_of([found[0] for found in groups.values()], others)
    return dict(zip(names, groups.values(), strict=True))


def _draw_lines(axes: Axes, key: str, groups: dict[str, list[Row]], places: dict[str, float]) -> str:
    for (name, rows), colour, marker, line in zip(groups.items(), _COLOURS, _MARKERS, _LINES, strict=False):
        ordered = sorted(rows, key=lambda row: places[row.settings[key]])
        x = [places[row.settings[key]] for row in ordered]
        axes.plot(
            x, [ratio(_cost_pct(row)) for row in ordered], color=colour, marker=marker, linestyle=line,
            markeredgecolor=theme.SURFACE, markeredgewidth=0.6, label=name or None, zorder=3,
        )  # fmt: skip
        spans = [(place, *span) for place, row in zip(x, ordered, strict=True) if (span := _span(row)) is not None]
        if spans:
            axes.vlines(*zip(*spans, strict=True), color=colour, linewidth=1.2, alpha=0.75, zorder=2)
    return "Lines join experiments that differ in this setting alone; vertical: 95 % intervals."


def _draw_points(axes: Axes, key: str, rows: Sequence[Row], places: dict[str, float], numeric: bool) -> str:
    for _, found in groupby(sorted(rows, key=lambda row: places[row.settings[key]]), key=lambda row: row.settings[key]):
        same = sorted(found, key=_cost_pct)
        spread = 0.0 if numeric else min(0.08, 0.7 / len(same))
        for index, row in enumerate(same):
            place = places[row.settings[key]] + spread * (index - (len(same) - 1) / 2)
            span = _span(row)
            if span is not None:
                axes.vlines(place, *span, color=theme.MUTED, linewidth=1.0, alpha=0.8)
            axes.plot(
                [place], [ratio(_cost_pct(row))], marker="o", color=theme.OTHER, markeredgecolor=theme.SURFACE,
                markeredgewidth=0.6, zorder=3,
            )  # fmt: skip
    return "Each point an experiment, with its 95 % interval; they differ in other settings too."


def _draw_quartiles(axes: Axes, key: str, rows: Sequence[Row], places: dict[str, float]) -> str:
    for value, costs in _by_value(key, rows):
        place, low, high = places[value], ratio(min(costs)), ratio(max(costs))
        axes.vlines(place, low, high, color=theme.MUTED, linewidth=1.0)
        if len(costs) > 1:
            first, _, third = quantiles(costs, n=4, method="inclusive")
            axes.vlines(place, ratio(first), ratio(third), color=theme.BASELINE, linewidth=5)
        axes.plot(
            [place], [ratio(median(costs))], marker="D", color=theme.OTHER, markeredgecolor=theme.SURFACE, zorder=3
        )
    return "Over all experiments with that value: median, middle half, and range."


def _by_value(key: str, rows: Iterable[Row]) -> list[tuple[str, list[float]]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.settings.get(key, "-"), []).append(_cost_pct(row))
    return sorted(found.items(), key=lambda item: (_number(item[0]) or 0.0, item[0]))


# --- Throughput -----------------------------------------------------------------------------------------------------


def _throughput(rows: Sequence[Row], keys: Sequence[str]) -> Drawing:
    title = "Throughput of both arms"
    arms = {row.result.second_arm for row in rows if row.result is not None}
    label = LABELS[arms.pop()] if len(arms) == 1 else "second arm"
    both = [
        (row.result.throughput.baseline, row.result.throughput.second)
        for row in rows
        if row.result is not None and row.result.throughput is not None
    ]
    named = len(rows) <= NAMED
    figure = theme.new_figure(theme.WIDE if named else theme.NARROW, 1.3 + 0.27 * len(rows) if named else 3.8)
    axes = figure.subplots()
    low, high = min(map(min, both)), max(map(max, both))
    logarithmic = high / low > 20
    if named:
        for y, (baseline, other) in enumerate(both):
            axes.hlines(y, min(baseline, other), max(baseline, other), color=theme.MUTED, linewidth=1.2)
        for index, (arm, name) in enumerate(((Arm.BASELINE, "baseline"), (Arm.BATCH_INVARIANT, label))):
            style = theme.arm_style(arm)
            axes.plot(
                [pair[index] for pair in both], range(len(both)), linestyle="", marker=style.marker,
                color=style.colour, markeredgecolor=theme.SURFACE, markeredgewidth=0.6, markersize=7, label=name,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), _names_of(rows, keys))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("generated tokens/s")
        theme.read_along(axes, "x")
    else:
        axes.plot([low, high], [low, high], color=theme.MUTED, linewidth=1.0, linestyle="--")
        axes.plot(*zip(*both, strict=True), linestyle="", marker=".", color=theme.OTHER, alpha=0.6, markersize=5)
        axes.set_xlabel("baseline [tokens/s]")
        axes.set_ylabel(f"{label} [tokens/s]")
    if logarithmic:
        theme.logarithmic(axes, "x")
        if not named:
            theme.logarithmic(axes, "y")
    elif named:
        axes.set_xlim(left=0)
    theme.head(figure, f"{title} [tokens/s], n = {count(len(rows), 'experiment')}")
    return Drawing(
        name="experiments_throughput",
        title=title,
        description=f"Throughput of both arms of {count(len(rows), 'experiment')}, {low:,.4g} to {high:,.4g} tokens/s.",
        caption=f"{_names(keys)}Each line: one experiment."
        if named
        else "Each point: one experiment; dashed: no difference.",
        figure=figure,
        shape="wide" if named else None,
    )


# --- Rows -----------------------------------------------------------------------------------------------------------


def _cost_pct(row: Row) -> float:
    assert row.cost is not None
    assert row.cost.change_pct is not None
    return row.cost.change_pct


def _span(row: Row) -> tuple[float, float] | None:
    if row.cost is None or row.cost.low_pct is None or row.cost.high_pct is None:
        return None
    return ratio(row.cost.low_pct), ratio(row.cost.high_pct)


def _ends_pct(rows: Iterable[Row]) -> list[float]:
    metrics = [row.cost for row in rows if row.cost is not None]
    ends = (end for metric in metrics for end in (metric.change_pct, metric.low_pct, metric.high_pct))
    return [end for end in ends if end is not None]


def _equivalence_pct(rows: Iterable[Row]) -> float | None:
    """The band, where all experiments have the same."""
    bands = {setting(row.result.configuration, "protocol.equivalence_pct") for row in rows if row.result}
    found = bands.pop()
    return float(found) if not bands and found is not None else None


def _names_of(rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """What distinguishes each row from the others, or else its label; rows of other settings have other names."""
    columns = [short_names([row.settings.get(key, "-") for row in rows], _LABEL_LENGTH // len(keys)) for key in keys]
    names = [" · ".join(values) for values in zip(*columns, strict=True)] if keys else [row.label for row in rows]
    alike = len(set(names)) < len({tuple(row.settings.get(key, "-") for key in keys) for row in rows})
    return short_names([row.label for row in rows]) if alike or not keys else names


def _names(keys: Sequence[str]) -> str:
    """What the names of `_names_of` consist of, as a sentence with a space after it."""
    return f"Named by {' · '.join(keys)}. " if keys else ""


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _number(text: str) -> float | None:
    """The number that the text is, if it is one and finite."""
    return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text) else None
