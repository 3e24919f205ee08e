"""Times of trials and of initialisation, and how they moved while the experiment ran."""

import math
from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from bi_experiments.analysis.design import Design, FoundCaches
from bi_experiments.analysis.estimates import per_cent
from bi_experiments.analysis.pairs import complete_pairs
from bi_experiments.analysis.trends import FEWEST_POINTS, FEWEST_POSITIONS, Level, launch_levels, over_launches
from bi_experiments.config.plain import setting
from bi_experiments.records import ExperimentResult, PhaseResult
from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing, LeftOut
from bi_experiments.report.tables import in_order
from bi_experiments.wording import LABELS, band, count, signed

NAMED_PAIRS = 12
"""With more pairs than this, only some are named below the axis."""


SIZED = 60
"""With more trials than this, the batch size is not written at each."""


def trial_times(result: ExperimentResult) -> Drawing | LeftOut:
    """Every trial of every phase, the same trial of both arms above each other, the pairs in launch order."""
    title = "Trial times, paired by trial"
    phases = [phase for phase in result.phases if phase.trials]
    if not phases:
        return LeftOut(title, "no trial was run")
    trials = max(len(phase.trials) for phase in phases)
    pairs = sorted({phase.pair for phase in phases})
    gap = 1 if trials > 1 else 0
    starts = {pair: position * (trials + gap) for position, pair in enumerate(pairs)}

    figure = theme.new_figure(theme.WIDE, 3.5)
    axes = figure.subplots()
    for pair in pairs:
        for trial in range(trials):
            both = [each.time_s for one in phases if one.pair == pair for each in one.trials if each.index == trial]
            if not both:
                continue
            axes.vlines(starts[pair] + trial, min(both), max(both), color=theme.MUTED, linewidth=0.9, zorder=1)
    for arm in in_order([phase.arm for phase in phases]):
        style = theme.arm_style(arm)
        points = [
            (starts[phase.pair] + trial.index, trial.time_s)
            for phase in phases
            if phase.arm is arm
            for trial in phase.trials
        ]
        axes.plot(
            *zip(*points, strict=True), linestyle="", marker=style.marker, color=style.colour,
            markeredgecolor=theme.SURFACE, markeredgewidth=0.6, markersize=6.5, label=LABELS[arm], zorder=2,
        )  # fmt: skip
    if len(pairs) * trials <= SIZED:
        _name_sizes(axes, phases, starts)
    _times_from_zero_if_close(axes)
    for pair in pairs[1:]:
        axes.axvline(starts[pair] - (1 + gap) / 2, color=theme.GRID, linewidth=0.8)
    shown = pairs[:: math.ceil(len(pairs) / NAMED_PAIRS)]
    middle = (trials - 1) / 2
    axes.set_xticks(
        [starts[pair] + middle for pair in shown],
        [f"pair {pair + 1}\n{_first(pair, phases)}" if len(pairs) <= 8 else str(pair + 1) for pair in shown],
    )
    axes.set_xlim(-0.7, starts[pairs[-1]] + trials - 0.3)
    theme.read_along(axes, "y")
    axes.set_ylabel("trial time [s]")
    axes.set_xlabel("pairs in launch order; within a pair, trials 1 to " + str(trials))
    size = f"n = {count(len(pairs), 'pair')} × {count(trials, 'trial')}"
    theme.head(figure, f"{title} [s], {size}")
    return Drawing(
        name="trial_times",
        title=title,
        description=f"Time of every trial in seconds, {size}: {_ranges(phases)}.",
        caption="Each line joins the same prompts in both arms; the number over it: prompts in the batch."
        if len(pairs) * trials <= SIZED
        else "Each line joins the same prompts in both arms. Trials differ in batch size.",
        figure=figure,
        shape="wide",
    )


def _name_sizes(axes: Axes, phases: Sequence[PhaseResult], starts: dict[int, int]) -> None:
    """The number of prompts over each trial's upper point."""
    tops: dict[tuple[int, int], tuple[float, int]] = {}
    for phase in phases:
        for trial in phase.trials:
            place = (phase.pair, trial.index)
            tops[place] = max(tops.get(place, (0.0, 0)), (trial.time_s, trial.batch_size))
    for (pair, index), (top_s, size) in tops.items():
        axes.annotate(
            str(size), (starts[pair] + index, top_s), (0, 6), textcoords="offset points", ha="center", fontsize=8,
            color=theme.MUTED,
        )  # fmt: skip


def init_time(result: ExperimentResult) -> Drawing | LeftOut:
    """Initialisation of every launch, those that found empty compile caches apart from the others."""
    design = Design.recorded(result)
    title = f"Engine initialisation, {'first and later launches' if design.users_caches else 'cold and warm'}"
    phases = [phase for phase in result.phases if phase.init_time_s is not None]
    if not phases:
        return LeftOut(title, "no engine was built")
    figure = theme.new_figure(theme.NARROW, 3.1)
    axes = figure.subplots()
    rows: list[str] = []
    for found in FoundCaches:
        for arm in in_order([phase.arm for phase in phases]):
            times = [
                phase.init_time_s
                for phase in phases
                if phase.arm is arm and design.found(phase.launch) is found and phase.init_time_s is not None
            ]
            if not times:
                continue
            style, y = theme.arm_style(arm), len(rows)
            axes.barh(
                y, fmean(times), height=0.62, color=style.colour, hatch=style.hatch, edgecolor=theme.SURFACE,
                linewidth=0, alpha=0.9,
            )  # fmt: skip
            if len(times) > 1:
                axes.plot(
                    times, [y] * len(times), linestyle="", marker="o", color=theme.INK, markersize=3.6,
                    markeredgecolor=theme.SURFACE, markeredgewidth=0.6, zorder=3,
                )  # fmt: skip
            axes.annotate(
                f"{fmean(times):.1f} s", (max(times), y), (6, 0), textcoords="offset points", va="center", fontsize=9
            )
            rows.append(f"{found.replace('_', ' ')}, {LABELS[arm]}\nn = {len(times)}")
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.16 * axes.get_xlim()[1])
    theme.read_along(axes, "x")
    axes.set_xlabel("initialisation time [s]")
    theme.head(figure, f"{title} [s]")
    caches = "Cold: launches that found empty compile caches; warm: the others."
    if design.users_caches:
        caches = "The compile caches were the user's own: what was in them before is not known."
    return Drawing(
        name="init_time",
        title=title,
        description="Mean engine initialisation time in seconds: " + "; ".join(row.replace("\n", ", ") for row in rows),
        caption=f"Bars: means; dots: launches. {caches}",
        figure=figure,
    )


def drift(result: ExperimentResult) -> Drawing | LeftOut:
    """The launches' trial times against the clock, each arm measured from its own mean."""
    title = "Drift over the launches"
    pairs = complete_pairs(result.phases)
    if len(pairs) < 2:
        return LeftOut(title, "one complete pair or none: drift needs two launches of an arm")
    levels = launch_levels(pairs)
    zero = min(level.at_s for level in levels)
    figure = theme.new_figure(theme.NARROW, 3.1)
    axes = figure.subplots()
    axes.axhline(0, color=theme.MUTED, linewidth=0.8)
    if equivalence_pct := setting(result.configuration, "protocol.equivalence_pct"):
        axes.axhspan(-equivalence_pct, equivalence_pct, color=theme.BAND, alpha=0.13, linewidth=0)
    for arm in dict.fromkeys(level.arm for level in levels):
        own = [level for level in levels if level.arm is arm]
        style = theme.arm_style(arm)
        axes.plot(
            [(level.at_s - zero) / 60 for level in own], [per_cent(level.log_ratio) for level in own],
            linestyle="", marker=style.marker, markersize=7, color=style.colour, markeredgecolor=theme.SURFACE,
            markeredgewidth=0.6, label=LABELS[arm], zorder=3,
        )  # fmt: skip
    said = _draw_slope(axes, levels, zero, paired=Design.recorded(result).paired)
    theme.read_along(axes, "y")
    axes.spines["bottom"].set_visible(True)
    axes.tick_params(axis="x", length=3.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
    axes.margins(y=0.15)
    axes.set_xlabel("minutes since the first launch's trials")
    axes.set_ylabel("trial time against the arm's mean [%]")
    theme.head(figure, f"{title} [%], n = {len(levels)} launches")
    return Drawing(
        name="drift",
        title=title,
        description=f"Trial time of each of {len(levels)} launches against the mean of its arm, by the clock. {said}",
        caption=f"{said} Shaded: what counts as no change.",
        figure=figure,
    )


def _draw_slope(axes: Axes, levels: Sequence[Level], zero: float, *, paired: bool) -> str:
    trend = over_launches(levels, paired=paired)
    if trend is None:
        values, what, fewest = (
            (len(levels) // 2, "pairs", FEWEST_POSITIONS) if paired else (len(levels), "launches", FEWEST_POINTS)
        )
        return f"Too few {what} for a slope." if values < fewest else f"All {what} are identical: no slope."
    name = "Least-squares slope" if paired else "Theil–Sen slope"
    starts = [level.at_s for level in levels]
    span, centre = max(starts) - min(starts), fmean(starts)
    slope = math.log1p(trend.total_pct / 100) / span
    ends = (min(starts), max(starts))
    axes.plot(
        [(end - zero) / 60 for end in ends], [per_cent(slope * (end - centre)) for end in ends],
        color=theme.INK, linewidth=1.3, linestyle=(0, (5, 2)), label=name, zorder=2,
    )  # fmt: skip
    return (
        f"{name} of both arms, first launch to last: {signed(trend.total_pct)} "
        f"{band(trend.low_pct, trend.high_pct)} (95 % interval)."
    )


def _first(pair: int, phases: Sequence[PhaseResult]) -> str:
    own = sorted((phase for phase in phases if phase.pair == pair), key=lambda phase: phase.index)
    return f"{LABELS[own[0].arm]} first" if len(own) > 1 else f"{LABELS[own[0].arm]} only"


def _ranges(phases: Sequence[PhaseResult]) -> str:
    ranges = []
    for arm in in_order([phase.arm for phase in phases]):
        times = [trial.time_s for phase in phases if phase.arm is arm for trial in phase.trials]
        ranges.append(f"{LABELS[arm]} {min(times):.3g} to {max(times):.3g} s")
    return "; ".join(ranges)


def _times_from_zero_if_close(axes: Axes) -> None:
    """Start the axis at zero where the times reach down towards it anyway."""
    low, high = axes.get_ylim()
    if low < 0.5 * high:
        axes.set_ylim(0, 1.06 * high)
