"""The report as plain text: what the terminal shows and `report.txt` keeps, from the record alone."""

from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from bi_experiments.analysis.engines import engine_sentence
from bi_experiments.analysis.location import describe
from bi_experiments.analysis.metrics import PRIMARY
from bi_experiments.analysis.outcome import describe_gate, primary
from bi_experiments.analysis.pairs import Pair, complete_pairs, second_arm
from bi_experiments.analysis.profiles import describe as describe_profile
from bi_experiments.analysis.profiles import profiled
from bi_experiments.paths import OutputFolder
from bi_experiments.records import (
    Arm,
    Environment,
    ExperimentResult,
    Finding,
    InvarianceReport,
    Metric,
    PhaseResult,
    PhaseStatus,
)
from bi_experiments.report import profiles, tables
from bi_experiments.report.blocks import head, phase_block, stages_lines
from bi_experiments.report.layout import RULE, heading, paragraph, table
from bi_experiments.report.planning import planning
from bi_experiments.wording import LABELS, change_text, device, finding_name, version


def render(result: ExperimentResult, folder: Path | None = None) -> str:
    """The whole report.

    Args:
        result: The record; of an experiment that ended early, what there is of it.
        folder: Where the results are, to be named at the end.

    Returns:
        Lines of at most 100 characters, without control sequences, ending with a line break.
    """
    launches = result.planned_phases // 2
    stages = result.comparison.stages if result.comparison else None
    trials = int(result.configuration["workload"]["num_trials"])
    lines = head(result.name, result.configuration)
    for phase in (*([result.discarded] if result.discarded else []), *result.phases):
        first = stages is not None and phase.pair < stages.first_pairs
        lines += phase_block(phase, stages.first_pairs if stages and first else launches, trials)
        if stages is not None and phase.index == 2 * stages.first_pairs - 1:
            lines += stages_lines(stages)
    return "\n".join(lines) + "\n" + render_comparison(result, folder)


def render_comparison(result: ExperimentResult, folder: Path | None = None) -> str:
    """The report from the comparison on: what is not known before all phases are over.

    Args:
        result: The record.
        folder: Where the results are, to be named at the end.
    """
    sections = [_comparison(result), _answer(result)]
    if result.comparison is not None:
        if result.comparison.trials:
            sections.append(_trial_costs(result))
        sections.append(_metrics(result))
    if result.invariance is not None:
        sections.append(_invariance(result.invariance))
    sections += _profile(result)
    sections.append(_lines(tables.tokens(result.tokens)))
    if result.comparison is not None and result.comparison.findings:
        sections.append(_findings(result.comparison.findings))
    if plans := planning(result):
        # The command is one line, to be copied.
        sections.append([line for said in plans for line in ([said] if said.startswith("Run: ") else paragraph(said))])
    sections.append(_ran_on(result.environment, result.phases))
    if folder is not None:
        sections.append([f"Results: {folder}"])
    # The comparison and the answer have rules of their own; paragraphs are set apart by an empty line.
    lines = sections[0] + sections[1]
    for section in sections[2:]:
        lines += ["", *section]
    return "\n".join([*lines, RULE]) + "\n"


# --- The comparison that vLLM's script prints -------------------------------------------------------------------------


def _comparison(result: ExperimentResult) -> list[str]:
    other = second_arm(result.phases)
    name = LABELS[other].title()
    title = "Batch Invariance" if other is Arm.BATCH_INVARIANT else name
    lines = heading(f"COMPARISON: {title} vs Baseline")
    pairs = complete_pairs(result.phases)
    if result.comparison is None or not pairs:
        return [*lines, "No comparison: no pair is complete."]
    init_time = result.comparison.metric("init_time_cold") or result.comparison.metric("init_time_warm")
    total_time, throughput = primary(result.comparison), result.comparison.metric("throughput")
    return [
        *lines,
        "Initialization Time:",
        *(_three_lines(name, init_time, "s", "Overhead") if init_time else []),
        "Average Trial Time:",
        *(_three_lines(name, _of_a_trial(total_time, pairs[0]), "s", "Overhead") if total_time else []),
        "Throughput (tokens/s):",
        *(_three_lines(name, throughput, "", "Change") if throughput else []),
    ]


def _of_a_trial(total_time: Metric, pair: Pair) -> Metric:
    """The mean over the trials: its change is that of the total."""
    trials = len(pair.baseline.trials) if total_time.name == PRIMARY else 1
    return replace(
        total_time, baseline=total_time.baseline / trials, batch_invariant=total_time.batch_invariant / trials
    )


def _three_lines(name: str, metric: Metric, unit: str, change: str) -> list[str]:
    changed = f"withheld: {metric.withheld}" if metric.change_pct is None else f"{change_text(metric.change_pct)}%"
    rows = (
        ("Baseline", f"{metric.baseline:.2f}{unit}"),
        (name, f"{metric.batch_invariant:.2f}{unit}"),
        (change, changed),
    )
    return [f"  {label + ':':<18}{value}" for label, value in rows]


# --- What this project adds -------------------------------------------------------------------------------------------


def _answer(result: ExperimentResult) -> list[str]:
    lines = heading("RESULT")
    if result.comparison is not None:
        lines += paragraph(result.comparison.sentence)
    if (changed := engine_sentence(result)) is not None:
        lines += paragraph(changed)
    if result.invariance is not None:
        lines += paragraph(result.invariance.sentence)
    if result.location is not None:
        lines += paragraph(" ".join(describe(result.location)))
    if (where := profiled(result)) is not None:
        lines += paragraph(describe_profile(where))
    limit = result.configuration.get("gate", {}).get("max_overhead_pct")
    if result.comparison is not None and limit is not None:
        lines += paragraph(describe_gate(result.comparison, float(limit)))
    if result.stopped is not None:
        ran = f"{len(result.phases)} of {result.planned_phases} phases"
        lines += paragraph(f"It ended early, after {ran}: {result.stopped}.")
    for phase in result.phases:
        if phase.status is not PhaseStatus.OK:
            log = OutputFolder(Path()).phase(phase.index, phase.arm).log
            lines.append(
                f"Phase {phase.index + 1} ({LABELS[phase.arm]}) {phase.status.replace('_', ' ')}; its log: {log}"
            )
    return lines


def _metrics(result: ExperimentResult) -> list[str]:
    notes = [line for said in tables.withheld(result) for line in paragraph(said, "  ", "")]
    return [*_lines(tables.metrics(result)), *paragraph(tables.METRICS_NOTE), *notes]


def _trial_costs(result: ExperimentResult) -> list[str]:
    return [*_lines(tables.trial_costs(result)), *paragraph(tables.trials_note(result))]


def _invariance(report: InvarianceReport) -> list[str]:
    lines = _lines(tables.invariance(report))
    if report.compositions:
        lines += paragraph(tables.INVARIANCE_NOTE)
    said = (*tables.first_differences(report), *tables.proof_notes(report))
    lines += [line for sentence in said for line in paragraph(sentence, "  ", "")]
    ledger = tables.ledger(report)
    return lines if ledger is None else [*lines, "", *_lines(ledger), *paragraph(tables.LEDGER_NOTE)]


def _profile(result: ExperimentResult) -> list[list[str]]:
    comparison = profiled(result)
    if comparison is None:
        return []
    classes, operations = profiles.classes(comparison), profiles.operations(comparison, profiles.NARROW)
    return [
        [*_lines(classes), *(line for said in profiles.notes(comparison) for line in paragraph(said))],
        [*_lines(operations), *paragraph(profiles.OPERATIONS_NOTE)],
    ]


def _lines(cells: tables.Table) -> list[str]:
    return table(cells.header, cells.rows, tuple(cells.left))


def _findings(findings: Iterable[Finding]) -> list[str]:
    lines = ["Findings:"]
    for finding in findings:
        lines += paragraph(f"{finding.message} {finding.remedy}", "    ", f"  {finding_name(finding.kind)}: ")
    return lines


def _ran_on(environment: Environment, phases: tuple[PhaseResult, ...]) -> list[str]:
    packages = [(name, version(name, environment, phases)) for name in ("vllm", "torch", "python")]
    known = ", ".join(f"{name} {number}" for name, number in packages if number is not None)
    memory = f"{environment.memory_bytes / 2**30:.0f} GiB memory"
    return paragraph(
        f"Ran on {device(environment)}; {environment.cpu_count} CPUs, {memory}, {environment.platform}; {known}.",
        "  ",
        "",
    )
