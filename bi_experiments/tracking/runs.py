"""What the MLflow runs of a sweep, an experiment and a phase say: plain values from the record, without MLflow."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, TypeAlias

from bi_experiments.analysis.agreement import alone_digest
from bi_experiments.analysis.design import FoundCaches
from bi_experiments.analysis.engines import engine_differences, engine_sentence, engine_settings
from bi_experiments.analysis.ledger import in_words
from bi_experiments.analysis.metrics import INIT_TIME, PRIMARY, own_s_per_token, peak_memory_bytes, summarise
from bi_experiments.analysis.pairs import complete_pairs, second_arm
from bi_experiments.analysis.profiles import describe as describe_profile
from bi_experiments.analysis.profiles import profiled
from bi_experiments.config.plain import as_text, flatten, setting
from bi_experiments.records import (
    Arm,
    ArmVerdict,
    ExperimentResult,
    Invariance,
    InvarianceReport,
    Metric,
    PhaseResult,
    PhaseStatus,
)
from bi_experiments.tracking.system_metrics import Reading
from bi_experiments.wording import (
    LABELS,
    change_text,
    device,
    four_digits,
    invariance_word,
    shortened,
    verdict_word,
    version,
)

PARAMETER_LIMIT = 500
"""Longest parameter value, in characters: what every MLflow server takes. The whole configuration is an artifact."""
TAG_LIMIT = 5000
"""Longest tag value, in characters."""

IDENTITY = "identity"
"""Tag by which an experiment or a sweep that was logged before is recognised."""
KIND = "kind"
"""Tag that distinguishes the runs of a sweep, an experiment and a phase."""
PARENT = "mlflow.parentRunId"
"""MLflow's tag that nests a run under another."""

_SOURCE = {"mlflow.source.name": "bi_experiments", "mlflow.source.type": "LOCAL"}
"""What MLflow's table of runs shows as their source."""

RunStatus: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    key: str
    value: float
    timestamp_ms: int
    step: int = 0


@dataclass(frozen=True)
class RunContent:
    """All of one MLflow run but its artifacts."""

    name: str
    start_ms: int
    end_ms: int
    status: RunStatus
    parameters: dict[str, str]
    points: tuple[Point, ...]
    tags: dict[str, str]


@dataclass(frozen=True)
class SweepContent:
    """All of the MLflow run of a sweep but its artifacts."""

    name: str
    identity: str
    """The same in all processes of the sweep and when it is resumed; of no other sweep."""
    start_ms: int
    step: int
    """Experiments that are done: the step at which the metrics are logged."""
    status: RunStatus | None
    """None: it is running."""
    parameters: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


def of_sweep(
    name: str,
    identity: str,
    started_at: float,
    *,
    done: int,
    status: RunStatus | None,
    parameters: Mapping[str, object],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    note: str,
) -> SweepContent:
    """The run of a sweep.

    Args:
        name: Readable name.
        identity: The same in all processes of the sweep and when it is resumed; of no other sweep.
        started_at: Unix time in seconds.
        done: Experiments that are done.
        status: How it ended; None while it is running.
        parameters: What does not change while it is running, the swept keys for example.
        metrics: What is known so far.
        tags: Verdicts, counts, whatever is looked for.
        note: The description, in markdown.
    """
    known = hashlib.sha256(identity.encode()).hexdigest()  # MLflow searches for it, whatever characters it has
    return SweepContent(
        name=name,
        identity=known,
        start_ms=_ms(started_at),
        step=done,
        status=status,
        parameters={key: shortened(as_text(value), PARAMETER_LIMIT) for key, value in parameters.items()},
        metrics=dict(metrics),
        tags=_short({**_SOURCE, KIND: "sweep", **tags, IDENTITY: known, "mlflow.note.content": note}),
    )


def of_experiment(result: ExperimentResult) -> RunContent:
    """The run of an experiment; its sweep's tag is added when that run's id is known."""
    ends = [phase.started_at + phase.wall_time_s for phase in result.phases]
    end_ms = _ms(max([result.started_at + result.wall_time_s, *ends]))  # a phase's where it was resumed
    values = _cost(result) | _arm_values(result) | _overheads(result) | _invariance_values(result.invariance)
    values |= _profile_values(result)
    return RunContent(
        name=result.name,
        start_ms=_ms(result.started_at),
        end_ms=end_ms,
        status=_experiment_status(result),
        parameters=_parameters(result),
        points=tuple(Point(key, _four_digits(value), end_ms) for key, value in values.items()),
        tags=_short(
            {
                **_common_tags(result),
                **_columns(result),
                **{
                    f"observed/{field}": text.replace("→", "->")
                    for field, text in engine_settings(result.phases).items()
                },
                KIND: "experiment",
                IDENTITY: identity(result),
                "status": _experiment_status(result).lower(),
                "reason": result.stopped or _first_error(result.launches),
                **_verdicts(result),
                "mlflow.note.content": note(result),
            }
        ),
    )


def of_phase(result: ExperimentResult, phase: PhaseResult, readings: Iterable[Reading] = ()) -> RunContent:
    """The run of a phase; its experiment's tag is added when that run's id is known.

    Args:
        result: The record of the experiment.
        phase: The phase.
        readings: System metrics while it ran.
    """
    end_ms = _ms(phase.started_at + phase.wall_time_s)
    trial_times = (
        Point("trial_time", trial.time_s, _ms(trial.started_at + trial.time_s), trial.index) for trial in phase.trials
    )
    system = (
        Point(f"system/{key}", value, _ms(reading.time), step)  # where MLflow's own monitor puts them
        for step, reading in enumerate(readings)
        for key, value in reading.values.items()
    )
    return RunContent(
        name=f"phase {phase.index + 1} {LABELS[phase.arm]}, launch {phase.launch + 1}",
        start_ms=_ms(phase.started_at),
        end_ms=end_ms,
        status=_phase_status(phase),
        parameters=_parameters(result),
        points=(*(Point(key, value, end_ms) for key, value in _phase_values(phase).items()), *trial_times, *system),
        tags=_short(
            {
                **_common_tags(result),
                KIND: "phase",
                "arm": phase.arm,
                "pair": str(phase.pair + 1),
                "launch": str(phase.launch + 1),
                "attention_backend": phase.observed.attention_backend if phase.observed else None,
                "status": _phase_status(phase).lower(),
                "reason": phase.error,
            }
        ),
    )


def identity(result: ExperimentResult) -> str:
    """What distinguishes this execution of an experiment from every other: the same if its record is analysed again."""
    text = "\n".join((result.name, result.command, result.workload_digest, repr(result.started_at)))
    return hashlib.sha256(text.encode()).hexdigest()


def composition_table(report: InvarianceReport) -> dict[str, list[str | int | float]]:
    """The outputs that differ by batch composition, one row a composition, columns for each arm; in MLflow's form.

    Returns:
        Title of each column to its cells.
    """
    counts = {(count.composition, count.arm): count for count in report.compositions}
    compositions = list(dict.fromkeys(count.composition for count in report.compositions))
    table: dict[str, list[str | int | float]] = {"composition": [*compositions]}
    arms = dict.fromkeys(count.arm for count in report.compositions)
    cells = {arm: [counts.get((composition, arm)) for composition in compositions] for arm in arms}
    for arm in arms:
        table[f"{arm}: differing"] = [count.differing if count else "" for count in cells[arm]]
        table[f"{arm}: total"] = [count.total if count else "" for count in cells[arm]]
    for arm in arms:
        table[f"{arm}: tokens differing"] = [count.tokens_differing if count else "" for count in cells[arm]]
        table[f"{arm}: largest |d logprob|"] = [
            count.largest_logprob_difference if count else "" for count in cells[arm]
        ]
    if any(count.verdict is not None for count in report.compositions):
        judged = {count.composition: count.verdict for count in report.compositions if count.verdict is not None}
        table["verdict"] = [judged.get(composition, "") for composition in compositions]
    return table


def ledger_table(report: InvarianceReport) -> dict[str, list[str | int | float]]:
    """The workload's steps by class, and what was probed in each, one row a class; in MLflow's form."""
    return {
        "steps": [in_words(row) for row in report.ledger],
        "workload %": [row.workload_pct for row in report.ledger],
        "probe tokens": [row.probe_tokens for row in report.ledger],
        "baseline changed": ["" if row.control_tokens is None else row.control_tokens for row in report.ledger],
        "baseline compared": ["" if row.control_of is None else row.control_of for row in report.ledger],
        "verdict": [row.verdict for row in report.ledger],
    }


def note(result: ExperimentResult) -> str:
    """The description of an experiment, in markdown: the sentences, the metrics, what to know before relying on it."""
    paragraphs = []
    if result.comparison is not None:
        paragraphs.append(f"**{result.comparison.sentence}**")
    if (changed := engine_sentence(result)) is not None:
        paragraphs.append(changed)
    if result.invariance is not None:
        paragraphs.append(result.invariance.sentence)
    if (where := profiled(result)) is not None:
        paragraphs.append(describe_profile(where))
    if result.stopped is not None:
        paragraphs.append(f"Ended early: {result.stopped}.")
    if result.comparison is not None:
        header = (
            f"| metric | unit | baseline | {LABELS[second_arm(result.phases)]} | change % | 95 % interval | verdict |"
        )
        rows = [header, "|---|---|--:|--:|--:|--:|---|", *map(_note_row, result.comparison.metrics)]
        paragraphs.append("\n".join(rows))
        paragraphs += [f"- {finding.message} {finding.remedy}" for finding in result.comparison.findings]
    paragraphs.append(f"`{result.command}`")
    return "\n\n".join(paragraphs)


def _note_row(metric: Metric) -> str:
    if metric.low_pct is None or metric.high_pct is None:
        interval, verdict = "", ""
    else:
        interval, verdict = f"{change_text(metric.low_pct)} .. {change_text(metric.high_pct)}", metric.verdict.value
    change = "withheld" if metric.change_pct is None else change_text(metric.change_pct)
    cells = (
        metric.name,
        metric.unit,
        four_digits(metric.baseline),
        four_digits(metric.second),
        change,
        interval,
        verdict,
    )
    return f"| {' | '.join(cells)} |"


# --- Metrics --------------------------------------------------------------------------------------------------------


def _phase_values(phase: PhaseResult) -> dict[str, float]:
    values: dict[str, float | None] = {"init_time": phase.init_time_s, "peak_memory_bytes": peak_memory_bytes(phase)}
    if phase.trials:
        values |= {
            **summarise(phase).by_name,
            "prompt_tokens": sum(trial.prompt_tokens for trial in phase.trials),
            "needle_differing": sum(not trial.needle.equal for trial in phase.trials),
        }
    if phase.probes:
        values["probes_differing"] = sum(not probe.equal for probe in phase.probes)
        values["probes_total"] = len(phase.probes)
    return {key: float(value) for key, value in values.items() if value is not None}


COST, LOW, HIGH = "cost", "low", "high"
"""Metrics of an experiment: what the second arm costs in total time, in per cent, and the ends of its interval."""

_SHORT = {
    "time_to_first_token_p50": "ttft_p50",
    "time_per_output_token_p50": "tpot_p50",
}
"""Names in MLflow of metrics whose own are too long for a column."""
_INIT_TIMES = tuple(f"{INIT_TIME}_{found}" for found in FoundCaches)
"""Of which an experiment has two at most: cold and warm ones, or of the first launch and the later ones."""
_OF_ARMS = (
    "total_time",
    "throughput",
    *_INIT_TIMES,
    "time_to_first_token_p50",
    "time_per_output_token_p50",
)
"""What is logged of each arm, of all that is compared: the rest is in `result.json`."""
_OF_LAUNCHES = ("avg_time", "min_time", "max_time")
"""What is logged of each arm as the mean over its launches."""
_OF_CHANGES = (
    "trial_time",
    "throughput",
    *_INIT_TIMES,
    "time_to_first_token_p50",
    "time_per_output_token_p50",
)


def _cost(result: ExperimentResult) -> dict[str, float]:
    metric = result.comparison.metric(PRIMARY) if result.comparison is not None else None
    if metric is None:
        return {}
    ends = ((COST, metric.change_pct), (LOW, metric.low_pct), (HIGH, metric.high_pct))
    return {key: value for key, value in ends if value is not None}


def _arm_values(result: ExperimentResult) -> dict[str, float]:
    """What each arm took: what the comparison rests on comes from the comparison."""
    values: dict[str, float] = {}
    for arm in sorted({phase.arm for phase in result.phases}):
        launches = [
            _phase_values(phase) for phase in result.phases if phase.arm is arm and phase.status is PhaseStatus.OK
        ]
        for key in _OF_LAUNCHES:
            if known := [launch[key] for launch in launches if key in launch]:
                values[f"{arm}/{key}"] = fmean(known)
    if result.comparison is not None:
        other = second_arm(result.phases)
        for metric in result.comparison.metrics:
            if metric.name in _OF_ARMS:
                name = _SHORT.get(metric.name, metric.name)
                values[f"{Arm.BASELINE}/{name}"] = metric.baseline
                values[f"{other}/{name}"] = metric.second
        if (own := own_s_per_token(result.phases)) is not None:
            values[f"{other}/s_per_token"] = own
    return values


def _overheads(result: ExperimentResult) -> dict[str, float]:
    metrics = result.comparison.metrics if result.comparison else ()
    return {
        f"overhead/{_SHORT.get(metric.name, metric.name)}_pct": metric.change_pct
        for metric in metrics
        if metric.name in _OF_CHANGES and metric.change_pct is not None
    }


def _profile_values(result: ExperimentResult) -> dict[str, float]:
    """Time by class in the profiled trial of each arm, and how much longer the second one took."""
    comparison = profiled(result)
    if comparison is None:
        return {}
    values = {
        f"profile/{arm.arm}/{kind.replace(' ', '_')}_s": time.total_s
        for arm in (comparison.baseline, comparison.second)
        for kind, time in arm.classes.items()
    }
    differences = {f"profile/difference/{kind.replace(' ', '_')}_s": s for kind, s in comparison.differences()}
    return values | differences


def _invariance_values(report: InvarianceReport | None) -> dict[str, float]:
    if report is None:
        return {}
    values: dict[str, float] = {}
    for verdict in report.arms:
        values[f"invariance/{verdict.arm}/differing"] = verdict.differing
        values[f"invariance/{verdict.arm}/total"] = verdict.total
    if report.bound_pct is not None:
        values["invariance/bound_pct"] = report.bound_pct
    if report.ledger:
        missing = (row.workload_pct for row in report.ledger if row.verdict is Invariance.NOT_PROBED)
        values["invariance/not_probed_pct"] = sum(missing)
    return values


def _four_digits(value: float) -> float:
    """A metric as a table shows it: MLflow writes out every digit that it is given."""
    if value == int(value):
        return value
    return round(value, max(0, 3 - math.floor(math.log10(abs(value)))))


# --- Parameters, tags, status ---------------------------------------------------------------------------------------


def _parameters(result: ExperimentResult) -> dict[str, str]:
    return {key: shortened(value, PARAMETER_LIMIT) for key, value in flatten(result.configuration).items()}


def _common_tags(result: ExperimentResult) -> dict[str, str | None]:
    environment = result.environment
    return {
        "device": device(environment),
        "vllm_version": version("vllm", environment, result.phases),
        "git_commit": environment.commit,
        "git_dirty": None if environment.dirty is None else str(environment.dirty).lower(),
        "mlflow.source.git.commit": environment.commit,
        **_SOURCE,
    }


def _columns(result: ExperimentResult) -> dict[str, str | None]:
    """What a table of experiments shows beside the cost, under names that fit a column."""
    plain = result.configuration
    metric = result.comparison.metric(PRIMARY) if result.comparison is not None else None
    verdicts = {} if result.invariance is None else {one.arm: one.verdict for one in result.invariance.arms}
    holds = verdicts.get(second_arm(result.phases)) if result.phases else None
    model = setting(plain, "model.name")
    batch = setting(plain, "workload.max_batch_size")
    tp = setting(plain, "tp")
    low, high = (None, None) if metric is None else (metric.low_pct, metric.high_pct)
    return {
        "low": None if low is None else str(_four_digits(low)),
        "high": None if high is None else str(_four_digits(high)),
        "verdict": None if metric is None else verdict_word(metric),
        "holds": None if holds is None else invariance_word(holds),
        "model": None if model is None else str(model).rstrip("/").rpartition("/")[2],
        "backend": setting(plain, "backend.attention"),
        "tp": None if tp is None else str(tp),
        "batch": None if batch is None else str(batch),
        "release": version("vllm", result.environment, result.phases),
    }


def _verdicts(result: ExperimentResult) -> dict[str, str | None]:
    tags: dict[str, str | None] = {}
    if result.comparison is not None:
        shown = {PRIMARY, *_OF_CHANGES}
        tags |= {f"verdict/{one.name}": verdict_word(one) for one in result.comparison.metrics if one.name in shown}
    differences = engine_differences(complete_pairs(result.phases))
    tags |= {f"differs/{one.field}": f"{one.baseline} -> {one.second}" for one in differences}
    tags["differs"] = ", ".join(one.field for one in differences) or "nothing that vLLM reports"
    if result.invariance is not None:
        tags |= {f"invariance/{one.arm}": _in_a_word(one) for one in result.invariance.arms}
        tags |= {
            f"reproducible/{verdict.arm}": verdict.reproducible
            for verdict in result.invariance.arms
            if verdict.reproducible is not None
        }
    if alone := alone_digest(result):
        # Runs with the same probes and the same outputs agree to the bit.
        tags |= {"outputs/probed": alone.probed, "outputs/digest": alone.digest}
    return tags


def _in_a_word(verdict: ArmVerdict) -> str:
    """Of an arm without the mode a difference is no violation: it is what is expected, and the positive control."""
    if verdict.verdict is Invariance.VIOLATED and not verdict.arm.batch_invariant:
        return "differs"
    return verdict.verdict.value


def _phase_status(phase: PhaseResult) -> RunStatus:
    match phase.status:
        case PhaseStatus.OK:
            return "FINISHED"
        case PhaseStatus.INTERRUPTED:
            return "KILLED"
        case _:
            return "FAILED"


def _experiment_status(result: ExperimentResult) -> RunStatus:
    if any(_phase_status(phase) == "FAILED" for phase in result.launches):
        return "FAILED"
    return "KILLED" if result.interrupted else "FINISHED"


def _first_error(phases: Iterable[PhaseResult]) -> str | None:
    return next((phase.error for phase in phases if phase.error), None)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _short(tags: dict[str, str | None]) -> dict[str, str]:
    return {key: shortened(value, TAG_LIMIT) for key, value in tags.items() if value is not None}
