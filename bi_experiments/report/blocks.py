"""The parts of the text report that are known while the experiment runs: its settings, and one block for each phase.

The live display prints these lines as they happen, `text.render` prints them from the record.
"""

import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from bi_experiments.analysis.evidence import ALONE
from bi_experiments.analysis.findings.inside import KV_CACHE_SHARE
from bi_experiments.analysis.metrics import summarise
from bi_experiments.config.plain import flatten
from bi_experiments.records import NEGATIVE_CONTROL, Arm, PhaseResult, PhaseStatus, ProbeResult, Trial, TwoStages
from bi_experiments.report.layout import NO_BREAK, heading, paragraph
from bi_experiments.wording import LABELS, count, duration

TITLE = "VLLM BATCH INVARIANCE BENCHMARK"


def head(name: str, configuration: Mapping[str, Any], command: str = "") -> list[str]:
    """The title and all settings.

    Args:
        name: The experiment's readable name.
        configuration: The composed configuration, as in the record.
        command: The command line, whose own settings are named first.
    """
    return [*heading(TITLE), *settings(name, configuration, command)]


def settings(name: str, configuration: Mapping[str, Any], command: str = "") -> list[str]:
    """All settings, one paragraph a group: those of the command line first, then the composed ones."""
    lines = [f"Configuration: {name}"]
    if given := [part for part in shlex.split(command) if "=" in part]:
        lines += _setting_lines("set here", " ".join(map(_unbroken, given)))
    split = [(*key.rpartition(".")[::2], value) for key, value in flatten(configuration).items()]
    # Keys without a group first: they are what is changed most.
    for group, entries in groupby(sorted(split, key=lambda entry: entry[0] != ""), key=lambda entry: entry[0]):
        text = " ".join(f"{key}={_unbroken(value)}" for _, key, value in entries)
        lines += _setting_lines(group, text)
    return lines


def _setting_lines(group: str, text: str) -> list[str]:
    return [line.replace(NO_BREAK, " ") for line in paragraph(text, " " * 12, f"  {group:<10}" if group else "  ")]


LONGEST_UNBROKEN = 60
"""Characters of a value that is kept on one line."""


def _unbroken(value: str) -> str:
    """The value with spaces at which lines are not broken, unless it is a list, a mapping or longer than a line."""
    breakable = value.startswith(("[", "{")) or len(value) > LONGEST_UNBROKEN
    return value if breakable else value.replace(" ", NO_BREAK)


def phase_heading(index: int, arm: Arm, launch: int, launches: int) -> list[str]:
    """The title of a phase's block.

    Args:
        index: Position in the schedule, from 0; below 0: the uncounted launch.
        arm: The phase's arm.
        launch: Which launch of this arm it is, from 0.
        launches: Launches of each arm that the protocol asked for; more may have been added.
    """
    if index < 0:
        return heading(f"UNCOUNTED: Running WITHOUT batch invariance ({LABELS[arm]}), to warm the machine")
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


def order_lines(phase: int, order: Sequence[int]) -> list[str]:
    """What is said before the trials of the first phase where they do not come as 1, 2, 3.

    Args:
        phase: The phase's position in the schedule.
        order: The trials' indexes as they run.
    """
    if phase > 0 or list(order) == list(range(len(order))):
        return []
    return ["Trials run in random order, the same in both arms; their table is sorted."]


def trial_line(trial: Trial, trials: int) -> str:
    """What is said when a trial is over.

    Args:
        trial: The trial.
        trials: Trials planned for each phase.
    """
    line = f"Trial {trial.index + 1}/{trials}: batch_size={trial.batch_size}, time={trial.time_s:.2f}s"
    if not trial.needle.equal:
        line += f", needle differs from token {(trial.needle.first_difference or 0) + 1}"
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
        alone = [probe for probe in phase.probes if probe.composition == NEGATIVE_CONTROL]
        others = [probe for probe in phase.probes if probe.composition not in ALONE]
        again = f", {_differing(alone)} alone again" if alone else ""
        took = "" if phase.probe_time_s is None else f" ({phase.probe_time_s:.2f}s)"
        lines.append(f"Probes: {_differing(others)} differ from the probe alone in other batches{again}{took}")
    if phase.profile is not None and phase.profile.stopped is None:
        one = phase.profile
        lines.append(
            f"Profile: trial {one.trial + 1} again, observed by the profiler {one.profiler}, {one.time_s:.2f}s, "
            "counted nowhere"
        )
    if phase.status is not PhaseStatus.OK:
        word = "INTERRUPTED" if phase.status is PhaseStatus.INTERRUPTED else "FAILED"
        why = "" if phase.error in {None, str(phase.status)} else f": {phase.error}"
        lines += paragraph(f"{word} after {phase.wall_time_s:.1f}s{why}", "  ", "")
    return lines


def _differing(probes: Sequence[ProbeResult]) -> str:
    return f"{sum(not probe.equal for probe in probes)} of {len(probes)}"


def stages_lines(stages: TwoStages) -> list[str]:
    """What is said when the first of two stages is over: how many pairs there will be, and what they will give.

    Args:
        stages: What the first stage said.
    """
    rest = stages.pairs - stages.first_pairs
    said = (
        f"First stage over: the log ratios of {count(stages.first_pairs, 'pair')} have a standard deviation of "
        f"{stages.deviation_pct:.2f} %, so that an interval within ±{stages.target_half_width_pct:g} points takes "
        f"{count(stages.wanted_pairs, 'pair')} in all"
    )
    if stages.pairs < stages.wanted_pairs:
        said += (
            f". protocol.max_pairs ends it at {stages.pairs}, with about ±{stages.half_width_pct:.1f} points to be "
            "expected"
        )
    if rest:
        said += f". The second stage is {count(rest, 'pair')}, {duration(rest * stages.pair_s)}"
    elif stages.pairs == stages.wanted_pairs:
        said += ": nothing more is run"
    return ["", *paragraph(f"{said}.")]


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
    lines += order_lines(phase.index, [trial.index for trial in phase.trials])
    lines += [trial_line(trial, trials) for trial in phase.trials]
    return lines + phase_end(phase)
