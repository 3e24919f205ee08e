"""Distributions of the requests' timings."""

from statistics import quantiles
from typing import NamedTuple

from matplotlib.axes import Axes

from bi_experiments.analysis.metrics import LatencyField
from bi_experiments.analysis.pairs import second_arm
from bi_experiments.records import Arm, ExperimentResult, PhaseResult
from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing, LeftOut
from bi_experiments.wording import LABELS, metric_name

POINTS = 200
"""Quantiles that a curve is drawn through, when it has more requests than that."""

WIDE_RANGE = 20
"""From this ratio of the largest to the smallest on, the axis is logarithmic."""

_FIELDS: tuple[tuple[LatencyField, str], ...] = (
    ("time_to_first_token_s", "TTFT"),
    ("time_per_output_token_s", "TPOT"),
    ("end_to_end_s", "E2E"),
)


class _Panel(NamedTuple):
    name: str
    requests_s: dict[Arm, list[float]]


def latency(result: ExperimentResult) -> Drawing | LeftOut:
    """The share of requests that took no longer than a time, both arms, all launches of an arm together."""
    title = "Latency of the requests"
    phases = [phase for phase in result.phases if phase.trials]
    panels = [panel for panel in (_panel(field, name, phases) for field, name in _FIELDS) if panel.requests_s]
    if not panels:
        return LeftOut(title, "this vLLM reported no request metrics" if phases else "no trial was run")
    figure = theme.new_figure(theme.WIDE, 3.2)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw(axes, panel)
    all_axes[0].set_ylabel("share of requests [%]")
    numbers = {arm: len(requests) for arm, requests in panels[0].requests_s.items()}
    size = ", ".join(f"{LABELS[arm]} n = {number:,}" for arm, number in numbers.items())
    theme.head(figure, f"{title}, {size}")
    return Drawing(
        name="latency",
        title=title,
        description=f"Cumulative distributions of request timings, {size}{_medians(result)}.",
        caption="Each curve: the share of an arm's requests, of all its launches, that took at most that long. TTFT: "
        "time to first token; TPOT: time per output token; E2E: end to end.",
        figure=figure,
        shape="wide",
    )


def _medians(result: ExperimentResult) -> str:
    metrics = result.comparison.metrics if result.comparison else ()
    arm = LABELS[second_arm(result.phases)]
    return "".join(
        f"; {metric_name(metric.name)}: baseline {1000 * metric.baseline:.4g} ms, {arm} {1000 * metric.second:.4g} ms"
        for metric in metrics
        if metric.name.endswith("_p50")
    )


def _panel(field: LatencyField, name: str, phases: list[PhaseResult]) -> _Panel:
    requests: dict[Arm, list[float]] = {}
    for phase in sorted(phases, key=lambda phase: phase.arm is not Arm.BASELINE):
        values = [
            value for trial in phase.trials if trial.latencies is not None for value in getattr(trial.latencies, field)
        ]
        requests.setdefault(phase.arm, []).extend(value for value in values if value > 0)
    return _Panel(name, {arm: values for arm, values in requests.items() if values})


def _draw(axes: Axes, panel: _Panel) -> None:
    largest = max(max(values) for values in panel.requests_s.values())
    smallest = min(min(values) for values in panel.requests_s.values())
    for arm, values in panel.requests_s.items():
        style = theme.arm_style(arm)
        times, shares = _cumulative(values)
        axes.step(
            [1000 * time for time in times], shares, where="post", color=style.colour, linestyle=style.line,
            label=LABELS[arm],
        )  # fmt: skip
    for percent in (50, 90, 99):
        axes.axhline(percent, color=theme.MUTED, linewidth=0.6, linestyle=":")
    axes.set_ylim(0, 101)
    axes.set_yticks([0, 50, 90, 99], ["0", "p50", "p90", "p99"])
    if largest / smallest > WIDE_RANGE:
        theme.logarithmic(axes, "x")
    else:
        axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{panel.name} [ms]")


def _cumulative(values: list[float]) -> tuple[list[float], list[float]]:
    """Times, and the per cent of requests that took no longer."""
    ordered = sorted(values)
    if len(ordered) > POINTS:
        cuts = quantiles(ordered, n=POINTS, method="inclusive")
        ordered = [ordered[0], *cuts, ordered[-1]]
    number = len(ordered)
    return [ordered[0], *ordered], [0.0, *(100 * (rank + 1) / number for rank in range(number))]
