"""The tables that the terminal, the HTML page and the markdown share, cell by cell as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bi_experiments.analysis.metrics import summarise
from bi_experiments.analysis.pairs import second_arm
from bi_experiments.config.plain import as_text
from bi_experiments.records import (
    Arm,
    CompositionCount,
    ExperimentResult,
    InvarianceReport,
    Location,
    Metric,
    ModuleDifference,
    PhaseResult,
    TokenCounts,
)
from bi_experiments.wording import LABELS, change_text, four_digits


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of a row is the row's name."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})
    """Indices of the columns that are left-aligned; the others hold numbers."""


def in_order(arms: Sequence[Arm] | Mapping[Arm, object]) -> tuple[Arm, ...]:
    """The arms, the baseline first."""
    return tuple(sorted(set(arms), key=lambda arm: (arm is not Arm.BASELINE, arm)))


# --- What was found -------------------------------------------------------------------------------------------------


def metrics(result: ExperimentResult) -> Table:
    """Every metric in both arms, its change, interval and verdict."""
    arm = second_arm(result.phases)
    short = "invariant" if arm is Arm.BATCH_INVARIANT else LABELS[arm]
    return Table(
        header=("Metric", "baseline", short, "change %", "95 % interval", "n", "verdict"),
        rows=tuple(_metric_row(metric) for metric in (result.comparison.metrics if result.comparison else ())),
        left=frozenset({0, 6}),
    )


METRICS_NOTE = (
    "n: pairs of launches. change: exp(mean log ratio over the pairs) - 1, with its t interval over the pairs."
)


def withheld(result: ExperimentResult) -> tuple[str, ...]:
    """Why a change is not told, one sentence a metric."""
    return tuple(
        f"Change of {metric.name.replace('_', ' ')} withheld: {metric.withheld}."
        for metric in (result.comparison.metrics if result.comparison else ())
        if metric.withheld is not None
    )


def verdict_word(metric: Metric) -> str:
    """The verdict on a metric; `-` without an interval."""
    return "-" if metric.low_pct is None or metric.high_pct is None else metric.verdict


def _metric_row(metric: Metric) -> tuple[str, ...]:
    interval = "-"
    if metric.low_pct is not None and metric.high_pct is not None:
        interval = f"{change_text(metric.low_pct)} .. {change_text(metric.high_pct)}"
    return (
        f"{metric.name.replace('_', ' ')} [{metric.unit}]",
        four_digits(metric.baseline),
        four_digits(metric.batch_invariant),
        "withheld" if metric.change_pct is None else change_text(metric.change_pct),
        interval,
        str(metric.pairs),
        verdict_word(metric),
    )


def invariance(report: InvarianceReport) -> Table:
    """Outputs that differ in each composition; three columns an arm: how many, in tokens, by how much at most."""
    arms = [verdict.arm for verdict in report.arms] or list(report.needle_total)
    counts = {(count.composition, count.arm): count for count in report.compositions}
    rows = [
        (composition, *(cell for arm in arms for cell in _count_cells(counts.get((composition, arm)))))
        for composition in dict.fromkeys(count.composition for count in report.compositions)
    ]
    needles = (f"{report.needle_differing.get(arm, 0)}/{report.needle_total.get(arm, 0)}" for arm in arms)
    rows.append(("needle in the trials", *(cell for needle in needles for cell in (needle, "", ""))))
    launches = max((verdict.launches_compared for verdict in report.arms), default=0)
    if launches > 1:
        between = (cell for verdict in report.arms for cell in (str(verdict.launches_differing), "", ""))
        rows.append((f"between {launches} launches", *between))
    header = ("Outputs that differ", *(cell for arm in arms for cell in (LABELS[arm], "tokens", "|d logprob|")))
    return Table(header, tuple(rows))


INVARIANCE_NOTE = "tokens: those of them that differ in a token id; the others differ in logprob bits alone."


def first_differences(report: InvarianceReport) -> tuple[str, ...]:
    """Where an arm other than the baseline first differed, one sentence an arm."""
    return tuple(
        f"First difference with batch invariance: probe {verdict.first.probe} at position {verdict.first.position} of "
        f"batch {verdict.first.batch} of {verdict.first.composition}, from output token "
        f"{verdict.first.first_difference}."
        for verdict in report.arms
        if verdict.first is not None and verdict.arm is not Arm.BASELINE
    )


def layers(location: Location) -> Table:
    """Every module that computed in the first step that differs, in the order of execution."""
    several = len({one.rank for one in location.layers}) > 1
    rows = [
        (
            f"{one.module} (rank {one.rank})" if several else one.module,
            one.kind,
            "equal" if one.inputs_equal else "differ",
            f"{one.differing}/{one.elements}",
            four_digits(one.largest_difference) if one.differing else "",
        )
        for one in modules(location)
    ]
    header = ("Module", "operator", "inputs", "elements that differ", "largest |d|")
    return Table(header, tuple(rows), frozenset({0, 1, 2}))


def modules(location: Location) -> tuple[ModuleDifference, ...]:
    """The operators among the layers: without what only calls them, unless it is the first that differs."""
    return tuple(one for one in location.layers if one.kind != "code between modules" or one == location.first)


LAYERS_NOTE = (
    "The probe's own rows in the batch against the same rows alone, in the first step that differs, in the order of "
    "execution."
)


def _count_cells(count: CompositionCount | None) -> tuple[str, str, str]:
    if count is None:
        return "-", "", ""
    return (
        f"{count.differing}/{count.total}",
        str(count.tokens_differing),
        four_digits(count.largest_logprob_difference),
    )


# --- What was run ---------------------------------------------------------------------------------------------------


def tokens(counts: Mapping[Arm, TokenCounts]) -> Table:
    """The measured size of the trials."""
    return Table(
        header=("Measured, one launch", "prompts", "prompt tokens", "in a trial", "generated tokens"),
        rows=tuple(
            (
                LABELS[arm],
                f"{size.prompts:,}",
                f"{size.prompt_tokens:,}",
                f"{size.prompt_tokens_min:,} .. {size.prompt_tokens_max:,}",
                f"{size.output_tokens:,}",
            )
            for arm, size in counts.items()
        ),
    )


def launches(phases: Sequence[PhaseResult]) -> Table:
    """Every phase in launch order."""
    return Table(
        header=(
            "Phase",
            "pair",
            "arm",
            "init [s]",
            "mean trial [s]",
            "min .. max [s]",
            "tokens/s",
            "needle",
            "load before",
            "status",
        ),
        rows=tuple(_launch_row(phase) for phase in phases),
        left=frozenset({0, 2, 9}),
    )


def _launch_row(phase: PhaseResult) -> tuple[str, ...]:
    head = (str(phase.index + 1), str(phase.pair + 1), LABELS[phase.arm])
    init = "-" if phase.init_time_s is None else f"{phase.init_time_s:.2f}"
    tail = (f"{phase.load_average:.2f}", phase.status.replace("_", " "))
    if not phase.trials or phase.init_time_s is None:
        return (*head, init, "-", "-", "-", "-", *tail)
    summary = summarise(phase)
    same = sum(trial.needle.equal for trial in phase.trials)
    return (
        *head,
        init,
        f"{summary.avg_time_s:.3f}",
        f"{summary.min_time_s:.3f} .. {summary.max_time_s:.3f}",
        f"{summary.throughput:,.1f}",
        f"{same}/{len(phase.trials)} same",
        *tail,
    )


def clocks(phases: Sequence[PhaseResult]) -> Table | None:
    """The devices' clocks, temperature and power by phase, means over its trials; None where NVML was not asked."""
    keys = [(phase, device) for phase in phases for device in sorted({one.device for one in phase.clocks})]
    if not keys:
        return None
    return Table(
        header=("Phase", "arm", "device", "SM clock [MHz]", "temperature [°C]", "power [W]", "held back by"),
        rows=tuple(_clock_row(phase, device) for phase, device in keys),
        left=frozenset({0, 1, 6}),
    )


def _clock_row(phase: PhaseResult, device: int) -> tuple[str, ...]:
    readings = [one for one in phase.clocks if one.device == device]
    reasons = dict.fromkeys(reason for one in readings for reason in (*one.reasons, *one.held_back_s))
    return (
        str(phase.index + 1),
        LABELS[phase.arm],
        str(device),
        _mean([one.sm_clock_mhz for one in readings]),
        _mean([one.temperature_c for one in readings]),
        _mean([one.power_w for one in readings]),
        ", ".join(reasons) or "-",
    )


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):,.0f}" if known else "-"


def engines(phases: Sequence[PhaseResult]) -> Table | None:
    """What vLLM itself says it ran with, one column an arm; None when no engine was built."""
    observed = {phase.arm: phase.observed for phase in reversed(phases) if phase.observed is not None}
    arms = in_order(observed)
    if not arms:
        return None
    return Table(
        header=("Observed in the engine", *(LABELS[arm] for arm in arms)),
        rows=tuple(
            (field.replace("_", " "), *(as_text(getattr(observed[arm], field)) for arm in arms))
            for field in type(observed[arms[0]]).__struct_fields__
        ),
        left=frozenset(range(len(arms) + 1)),
    )
