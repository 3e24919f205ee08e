"""The report as plain text, from the record alone: `report.txt`, and the terminal's last part.

The terminal has the answer at its end, where it stays in sight; the file has it at its beginning.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from bi_experiments.analysis.design import Design, FoundCaches
from bi_experiments.analysis.metrics import summarise
from bi_experiments.analysis.outcome import primary
from bi_experiments.analysis.pairs import Pair, complete_pairs, output_tokens, second_arm, total_time_s
from bi_experiments.analysis.profiles import profiled
from bi_experiments.config.plain import setting
from bi_experiments.records import Arm, ExperimentResult, Finding, InvarianceReport, Metric, PhaseResult
from bi_experiments.report import answer, profiles, tables
from bi_experiments.report.blocks import TITLE, phase_block, settings, stages_lines
from bi_experiments.report.layout import RULE, heading, paragraph, table
from bi_experiments.report.method import ran_on, resumed
from bi_experiments.report.planning import planning
from bi_experiments.wording import LABELS, change_text, finding_name


def render(result: ExperimentResult, folder: Path | None = None) -> str:
    """The whole report: the title, what was found, then the terminal's blocks.

    Args:
        result: The record; of an experiment that ended early, what there is of it.
        folder: Where the results are, to be named at the end.

    Returns:
        Without control sequences, ending with a line break. Lines are at most 100 characters long, but for wide tables
        and commands, which are not broken.
    """
    launches = result.planned_phases // 2
    stages = result.comparison.stages if result.comparison else None
    trials = int(setting(result.configuration, "workload.num_trials"))
    lines = [*heading(TITLE), *_result(result), ""]
    lines += settings(result.name, result.configuration, result.command)
    for phase in result.launches:
        first = stages is not None and phase.pair < stages.first_pairs
        lines += phase_block(phase, stages.first_pairs if stages and first else launches, trials)
        if stages is not None and phase.index == 2 * stages.first_pairs - 1:
            lines += stages_lines(stages)
    return "\n".join([*lines, *_numbers(result, folder), RULE]) + "\n"


def render_end(result: ExperimentResult, folder: Path | None = None) -> str:
    """What the terminal shows once all phases are over: the comparison, the tables, and what was found as the last.

    Args:
        result: The record.
        folder: Where the results are, to be named.
    """
    return "\n".join([*_numbers(result, folder), *_result(result), RULE]) + "\n"


def _result(result: ExperimentResult) -> list[str]:
    """The answer and what limits it."""
    found = result.comparison.findings if result.comparison else ()
    return [*_answer(result), *(["", *_findings(found)] if found else [])]


def _numbers(result: ExperimentResult, folder: Path | None) -> list[str]:
    """The comparison, and everything else that is known."""
    sections = []
    if result.comparison is not None:
        if result.comparison.trials:
            sections.append(_trial_costs(result))
        sections.append(_metrics(result))
    if result.invariance is not None:
        sections.append(_invariance(result.invariance, result))
    sections += _profile(result)
    sections.append(_lines(tables.tokens(result)))
    if plans := planning(result):
        # The command is one line, to be copied.
        sections.append([line for said in plans for line in ([said] if said.startswith("Run: ") else paragraph(said))])
    if engines := tables.engines(result.phases):
        sections.append(_lines(engines))
    sections.append(paragraph(f"Ran on {ran_on(result)}.", "  ", ""))
    if result.taken_over:
        sections.append(paragraph(f"Resumed: {resumed(result)}.", "  ", ""))
    if folder is not None:
        sections.append([f"Results: {folder}"])
    # The comparison has rules of its own; paragraphs are set apart by an empty line.
    return [*_comparison(result), *(line for section in sections for line in ["", *section])]


# --- The comparison that vLLM's script prints -------------------------------------------------------------------------

_OF_THE_SCRIPT = (
    "As vLLM's own script computes it: plain means, without intervals (initialization: of launches that found the same "
    "kind of caches). The result is the change of total time in the table below, of geometric means"
)


def _comparison(result: ExperimentResult) -> list[str]:
    other = second_arm(result.phases)
    name = LABELS[other].title()
    title = "Batch Invariance" if other is Arm.BATCH_INVARIANT else name
    lines = heading(f"COMPARISON: {title} vs Baseline")
    pairs = complete_pairs(result.phases)
    if result.comparison is None or not pairs:
        return [*lines, answer.NO_COMPARISON]
    total_time, throughput = primary(result.comparison), result.comparison.metric("throughput")
    sums = [(summarise(pair.baseline), summarise(pair.second)) for pair in pairs]
    times = _means((one.avg_time_s, other.avg_time_s) for one, other in sums)
    rates = (_throughput([pair.baseline for pair in pairs]), _throughput([pair.second for pair in pairs]))
    return [
        *lines,
        *paragraph(f"{_OF_THE_SCRIPT}{', with its interval' if len(pairs) > 1 else ''}.", "", ""),
        "Initialization Time:",
        *_three_lines(name, _init_times(result, pairs), "s", "Overhead"),
        "Average Trial Time:",
        *_three_lines(name, times, "s", "Overhead", total_time),
        "Throughput (tokens/s):",
        *_three_lines(name, rates, "", "Change", throughput),
    ]


def _init_times(result: ExperimentResult, pairs: Sequence[Pair]) -> tuple[float, float]:
    """Of launches that found alike caches: the cold or first ones, or else the others, never both."""
    design = Design.recorded(result)
    first = [pair for pair in pairs if design.found(pair.second.launch) in {FoundCaches.COLD, FoundCaches.FIRST}]
    return _means((pair.baseline.init_time_s or 0.0, pair.second.init_time_s or 0.0) for pair in first or pairs)


def _means(values: Iterable[tuple[float, float]]) -> tuple[float, float]:
    baseline, second = zip(*values, strict=True)
    return fmean(baseline), fmean(second)


def _throughput(phases: Sequence[PhaseResult]) -> float:
    return sum(sum(output_tokens(phase)) for phase in phases) / sum(map(total_time_s, phases))


def _three_lines(
    name: str, values: tuple[float, float], unit: str, change: str, metric: Metric | None = None
) -> list[str]:
    """The two values and (second - baseline) / baseline, as vLLM's script has it, unless the change is withheld."""
    baseline, second = values
    changed = f"{change_text(100 * (second - baseline) / baseline)}%" if baseline else "-"
    if metric is not None and metric.withheld is not None:
        changed = f"withheld: {metric.withheld}"
    rows = (("Baseline", f"{baseline:.2f}{unit}"), (name, f"{second:.2f}{unit}"), (change, changed))
    return [f"  {label + ':':<18}{value}" for label, value in rows]


# --- What this project adds -------------------------------------------------------------------------------------------


def _answer(result: ExperimentResult) -> list[str]:
    """The sentences of the pages' first screen."""
    said = (*answer.sentences(result), *answer.problems(result))
    return [*heading("RESULT"), *(line for sentence in said for line in paragraph(sentence))]


def _metrics(result: ExperimentResult) -> list[str]:
    notes = [line for said in tables.withheld(result) for line in paragraph(said, "  ", "")]
    return [*_lines(tables.metrics(result)), *paragraph(tables.metrics_note(result)), *notes]


def _trial_costs(result: ExperimentResult) -> list[str]:
    return [*_lines(tables.trial_costs(result)), *paragraph(tables.trials_note(result))]


def _invariance(report: InvarianceReport, result: ExperimentResult) -> list[str]:
    lines = _lines(tables.invariance(report))
    if report.compositions:
        lines += paragraph(tables.INVARIANCE_NOTE)
    said = (*tables.first_differences(report), *tables.proof_notes(report, result))
    lines += [line for sentence in said for line in paragraph(sentence, "  ", "")]
    ledger = tables.ledger(report)
    return lines if ledger is None else [*lines, "", *_lines(ledger), *paragraph(tables.ledger_note(report))]


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
