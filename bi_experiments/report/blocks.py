"""The parts of the text report that are known while the experiment runs: its head, and one block for each phase.

The live display prints these lines as they happen, `text.render` prints them from the record.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from bi_experiments.analysis.findings.inside import KV_CACHE_SHARE
from bi_experiments.analysis.metrics import summarise
from bi_experiments.config.plain import flatten
from bi_experiments.records import Arm, PhaseResult, PhaseStatus, Trial
from bi_experiments.report.layout import heading, paragraph
from bi_experiments.wording import LABELS

_NO_BREAK = "\N{NO-BREAK SPACE}"


def head(name: str, configuration: Mapping[str, Any]) -> list[str]:
    """The title and all settings, one paragraph a group.

    Args:
        name: The experiment's readable name.
        configuration: The composed configuration, as in the record.
    """
    lines = [*heading("VLLM BATCH INVARIANCE BENCHMARK"), f"Configuration: {name}"]
    split = [(*key.rpartition(".")[::2], value) for key, value in flatten(configuration).items()]
    # Keys without a group first: they are what is changed most.
    for group, entries in groupby(sorted(split, key=lambda entry: entry[0] != ""), key=lambda entry: entry[0]):
        text = " ".join(f"{key}={_unbroken(value)}" for _, key, value in entries)
        lines += [
            line.replace(_NO_BREAK, " ") for line in paragraph(text, " " * 12, f"  {group:<10}" if group else "  ")
        ]
    return lines


def _unbroken(value: str) -> str:
    """The value with spaces at which lines are not broken, unless it is a list or a mapping."""
    return value if value.startswith(("[", "{")) else value.replace(" ", _NO_BREAK)


def phase_heading(index: int, arm: Arm, launch: int, launches: int) -> list[str]:
    """The title of a phase's block.

    Args:
        index: Position in the schedule, from 0.
        arm: The phase's arm.
        launch: Which launch of this arm it is, from 0.
        launches: Launches of each arm that the protocol asked for; more may have been added.
    """
    mode = "WITH batch invariance" if arm.batch_invariant else f"WITHOUT batch invariance ({LABELS[arm]})"
    which = f", launch {launch + 1} of {max(launches, launch + 1)}" if launches > 1 else ""
    return heading(f"PHASE {index + 1}: Running {mode}{which}")


def init_line(init_time_s: float) -> str:
    """What is said when the engine is built."""
    return f"Engine initialization time: {init_time_s:.2f}s"


def kv_cache_lines(needed_tokens: int | None, capacity_tokens: int) -> list[str]:
    """What is said before the first trial when the KV cache is hardly large enough for the largest of them.

    Args:
        needed_tokens: Tokens that the largest trial keeps at its end; None when that is not known.
        capacity_tokens: What there is; 0 when that is not known.
    """
    if needed_tokens is None or not capacity_tokens or needed_tokens <= KV_CACHE_SHARE * capacity_tokens:
        return []
    share = 100 * needed_tokens / capacity_tokens
    return paragraph(
        f"KV cache: the largest trial needs {needed_tokens:,} of {capacity_tokens:,} tokens ({share:.0f} %): requests "
        "may have to wait for it, or be put back.",
        "  ",
        "",
    )


def trial_line(trial: Trial, trials: int) -> str:
    """What is said when a trial is over.

    Args:
        trial: The trial.
        trials: Trials planned for each phase.
    """
    line = f"Trial {trial.index + 1}/{trials}: batch_size={trial.batch_size}, time={trial.time_s:.2f}s"
    if not trial.needle.equal:
        line += f", needle differs from token {trial.needle.first_difference}"
    return line


def phase_end(phase: PhaseResult) -> list[str]:
    """What is said when a phase is over: its totals, and why it failed if it did."""
    lines: list[str] = []
    if phase.trials:
        summary = summarise(phase)
        prompt_tokens = sum(trial.prompt_tokens for trial in phase.trials)
        same = sum(trial.needle.equal for trial in phase.trials)
        lines += [
            f"Average time per trial: {summary.avg_time_s:.2f}s",
            f"Throughput: {summary.throughput:.2f} tokens/s",
            f"Min time: {summary.min_time_s:.2f}s",
            f"Max time: {summary.max_time_s:.2f}s",
            f"Total tokens: {summary.total_tokens} generated, {prompt_tokens} in the prompts",
            f"Total prompts: {summary.total_prompts}",
            f"Prompts per second: {summary.prompts_per_sec:.2f}",
            f"Needle: same output as alone in {same} of {len(phase.trials)} trials",
        ]
    if phase.probes:
        differing = sum(not probe.equal for probe in phase.probes)
        took = "" if phase.probe_time_s is None else f" ({phase.probe_time_s:.2f}s)"
        lines.append(f"Probes: {differing} of {len(phase.probes)} differ from the probe alone{took}")
    if phase.status is not PhaseStatus.OK:
        word = "INTERRUPTED" if phase.status is PhaseStatus.INTERRUPTED else "FAILED"
        lines += paragraph(f"{word} after {phase.wall_time_s:.1f}s: {phase.error or phase.status}", "  ", "")
    return lines


def phase_block(phase: PhaseResult, launches: int, trials: int) -> list[str]:
    """The whole block of a phase, from its record.

    Args:
        phase: The phase.
        launches: Launches of each arm that the protocol asked for.
        trials: Trials planned for each phase.
    """
    lines = phase_heading(phase.index, phase.arm, phase.launch, launches)
    if phase.init_time_s is not None:
        lines.append(init_line(phase.init_time_s))
    if phase.observed is not None:
        lines += kv_cache_lines(phase.kv_cache_needed_tokens, phase.observed.kv_cache_tokens)
    lines += [trial_line(trial, trials) for trial in phase.trials]
    return lines + phase_end(phase)
