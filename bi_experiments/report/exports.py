"""What other programs read, apart from `result.json`: every trial as a row, and the numbers of a dashboard."""

import csv
import io
import shlex
from statistics import median

import msgspec

from bi_experiments.analysis.metrics import PRIMARY
from bi_experiments.analysis.pairs import second_arm
from bi_experiments.config.plain import decides, setting
from bi_experiments.records import Arm, ExperimentResult, Invariance, PhaseResult, Trial
from bi_experiments.wording import LABELS, count, invariance_word, verdict_word

COLUMNS = (
    "phase", "arm", "pair", "launch", "trial", "started_at", "time_s", "cpu_time_s", "batch_size", "prompt_tokens",
    "output_tokens", "time_to_first_token_p50_s", "time_per_output_token_p50_s", "end_to_end_p50_s", "needle_equal",
    "compiled", "preemptions", "queued", "cached_tokens", "decode_step_s", "longest_step_s",
    "split_prompts",
)  # fmt: skip
"""Of `trials.csv`; units are in the names, `started_at` is Unix time. Empty: it was not measured."""


def trials_csv(result: ExperimentResult) -> str:
    """Every timed trial of every phase as a row, in the order in which they were run."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(_row(phase, trial) for phase in result.phases for trial in phase.trials)
    return text.getvalue()


def _row(phase: PhaseResult, trial: Trial) -> tuple[object, ...]:
    times = trial.latencies
    medians = (
        (None, None, None)
        if times is None
        else tuple(
            median(values) if values else None
            for values in (times.time_to_first_token_s, times.time_per_output_token_s, times.end_to_end_s)
        )
    )
    return (
        phase.index, phase.arm.value, phase.pair, phase.launch, trial.index, trial.started_at, trial.time_s,
        trial.cpu_time_s, trial.batch_size, trial.prompt_tokens, trial.output_tokens, *medians,
        str(trial.needle.equal).lower(), None if trial.compiled is None else len(trial.compiled), trial.preemptions,
        trial.queued, trial.cached_tokens, trial.decode_step_s, trial.longest_step_s,
        None if trial.split is None else len(trial.split),
    )  # fmt: skip


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One number as github-action-benchmark reads it with `tool: customSmallerIsBetter`."""

    name: str
    unit: str
    value: float
    range: str = ""
    """How far the value may be off, shown next to it."""
    extra: str = ""
    """Shown when the mouse is over the point."""


def _ratio_of(result: ExperimentResult) -> str:
    """What the ratio of both arms is of, so that no line of a chart joins a check of the method and a cost."""
    inject_pct = setting(result.configuration, "protocol.inject_pct")
    what = "cost of the mode" if second_arm(result.phases).batch_invariant else "a second baseline"
    return f"{what}, with {inject_pct:g} % injected" if inject_pct else what


def _series(result: ExperimentResult) -> str:
    """The experiment with what its command sets, so that no line of a chart joins two configurations."""
    settings = [
        part for part in shlex.split(result.command) if "=" in part and decides(part.lstrip("+~").partition("=")[0])
    ]
    return " ".join([result.name, *(part for part in settings if not part.startswith("hydra"))])


def benchmark_json(result: ExperimentResult) -> bytes:
    """What github-action-benchmark draws over the commits, smaller is better.

    The cost as a ratio of the total times, since the action compares by ratio and a cost in per cent passes through 0;
    each arm's total time; the probe outputs that changed with the batch in the mode. A number that the record does not
    have is left out.
    """
    entries, series = [], _series(result)
    metric = None if result.comparison is None else result.comparison.metric(PRIMARY)
    if metric is not None:
        if metric.change_pct is not None:
            interval = ""
            if metric.low_pct is not None and metric.high_pct is not None:
                interval = f"[{1 + metric.low_pct / 100:.4f}, {1 + metric.high_pct / 100:.4f}]"
            entries.append(
                Entry(
                    f"{series}: {_ratio_of(result)}",
                    "x total time",
                    1 + metric.change_pct / 100,
                    interval,
                    f"{count(metric.pairs, 'pair')}, {verdict_word(metric)}\n{result.command}",
                )
            )
        arms = ((Arm.BASELINE, metric.baseline), (second_arm(result.phases), metric.second))
        entries += [Entry(f"{series}: total time, {LABELS[arm]}", "s", value) for arm, value in arms]
    if result.invariance is not None:
        for verdict in result.invariance.arms:
            if verdict.arm.batch_invariant:
                known = verdict.verdict in {Invariance.HOLDS, Invariance.VIOLATED}
                entries.append(
                    Entry(
                        f"{series}: outputs that change with the batch",
                        "outputs",
                        verdict.differing,
                        "" if known else invariance_word(verdict.verdict),
                        f"of {verdict.total} probe outputs",
                    )
                )
    return msgspec.json.format(msgspec.json.encode(entries), indent=2)
