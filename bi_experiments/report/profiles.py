"""Where the time of the profiled trials went: the tables, and what is to be known to read them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bi_experiments.analysis.operation_classes import OperationClass
from bi_experiments.analysis.profiles import (
    LISTED,
    ClassTime,
    ProfileComparison,
    ProfiledArm,
    largest_operations,
    observed,
    profiled,
    seconds,
)
from bi_experiments.paths import OutputFolder
from bi_experiments.records import Arm, ExperimentResult, ProfiledStep
from bi_experiments.report.tables import Table
from bi_experiments.wording import LABELS, four_digits

NARROW, WIDE = 40, 100
"""Longest name of an operation in the text report and on the page, in characters."""


class Section(NamedTuple):
    """A table with its title and note."""

    table: Table
    title: str
    note: str


def sections(result: ExperimentResult) -> tuple[Section, ...]:
    """The tables of the page, the classes first; none without a profile of both arms."""
    comparison = profiled(result)
    if comparison is None:
        return ()
    return (
        Section(classes(comparison), "Where the time goes", " ".join(notes(comparison))),
        Section(operations(comparison, WIDE), _what(comparison.baseline), OPERATIONS_NOTE),
    )


def classes(comparison: ProfileComparison) -> Table:
    """Time by class in both arms, prefill and decode apart, in seconds; the largest difference first."""
    nothing = ClassTime(0.0, 0.0, 0.0)
    arms = (comparison.baseline, comparison.second)
    rows = [
        (
            kind,
            *(cell for arm in arms for cell in _cells(arm.classes.get(kind, nothing))),
            seconds(difference),
        )
        for kind, difference in comparison.differences()
    ]
    sums = [
        ClassTime(*(sum(time[part] for time in arm.classes.values()) for part in range(len(ClassTime._fields))))
        for arm in arms
    ]
    whole = sums[1].total_s - sums[0].total_s
    rows.append(("together", *(cell for one in sums for cell in _cells(one)), seconds(whole)))
    short = {Arm.BASELINE: "baseline", Arm.BATCH_INVARIANT: "invariant", Arm.CONTROL: "control"}
    header = ("Time [s]", *(cell for arm in arms for cell in (short[arm.arm], "prefill", "decode")), "change")
    return Table(header, tuple(rows))


def _cells(time: ClassTime) -> tuple[str, str, str]:
    return f"{time.total_s:.3f}", f"{time.prefill_s:.3f}", f"{time.decode_s:.3f}"


def notes(comparison: ProfileComparison) -> tuple[str, ...]:
    """How the classes were found, a sentence each."""
    arms = (comparison.baseline, comparison.second)
    steps = "; ".join(f"{LABELS[arm.arm]} {_steps(arm)}" for arm in arms)
    what = "its kernels on the device" if comparison.baseline.profile.on_device else "its operators on the main thread"
    said = [
        observed(arms),
        f"A step that reads a prompt is prefill ({steps}); an arm's first column also has what is in no step. Classes "
        f"go by the names of {what}.",
    ]
    if any(OperationClass.PROFILER in arm.classes for arm in arms):
        said.append(
            "The profiler itself: what a trial took longer than when it was timed, taken out of host and idle; the "
            "other classes then add up to the timed trial."
        )
    said.append(f"Traces: {'; '.join(map(_traces, arms))}.")
    return tuple(said)


def _steps(arm: ProfiledArm) -> str:
    numbers = {one.steps: one.number for one in arm.profile.steps}
    return f"{numbers.get(ProfiledStep.PREFILL, 0)} prefill and {numbers.get(ProfiledStep.DECODE, 0)} decode steps"


def _traces(arm: ProfiledArm) -> str:
    folder = OutputFolder(Path()).phase(arm.phase, arm.arm).profile
    left_out = ", ".join(arm.profile.traces_left_out)
    kept = f"{folder} ({len(arm.profile.traces)})" if arm.profile.traces else "none kept"
    return f"{kept}, too large to keep: {left_out}" if left_out else kept


def operations(comparison: ProfileComparison, width: int) -> Table:
    """The operations that take longest in either arm, side by side.

    Args:
        comparison: The profiled trials.
        width: Longest name, in characters.
    """
    largest = largest_operations(comparison)
    names = _told_apart([short_name(one.name, width) for one in largest])
    rows = tuple(
        (
            name,
            one.kind,
            f"{one.baseline_calls:,}" if one.baseline_calls else "-",
            four_digits(1000 * one.baseline_s) if one.baseline_calls else "-",
            f"{one.second_calls:,}" if one.second_calls else "-",
            four_digits(1000 * one.second_s) if one.second_calls else "-",
        )
        for name, one in zip(names, largest, strict=True)
    )
    second = "invariant" if comparison.second.arm is Arm.BATCH_INVARIANT else LABELS[comparison.second.arm]
    name = "Kernel" if comparison.baseline.profile.on_device else "Operator"
    return Table((name, "class", "baseline", "[ms]", second, "[ms]"), rows, frozenset({0, 1}))


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names, numbered where cutting made several alike."""
    numbered = [f"{name} ({1 + names[:at].count(name)})" for at, name in enumerate(names)]
    return [number if names.count(name) > 1 else name for name, number in zip(names, numbered, strict=True)]


OPERATIONS_NOTE = (
    f"Calls and time of their own of the {LISTED} that take longest in either arm. The same work may have one name in "
    "one arm and another in the other. Longer names: python -m bi_experiments.operations FOLDER."
)


def _what(arm: ProfiledArm) -> str:
    return "Kernels on the device" if arm.profile.on_device else "Operators on the CPU"


def short_name(name: str, width: int) -> str:
    """A kernel's name without return type, arguments and, where it is still too long, what its templates are of."""
    plain = re.sub(r"\(anonymous namespace\)::", "", name)
    if not plain.startswith(("Mem", "(")):
        plain = _without_signature(plain)
    for _ in range(5):
        if len(plain) <= width:
            return plain
        plain = re.sub(r"<[^<>]+>", "<>", plain, count=1) if re.search(r"<[^<>]+>", plain) else plain
    return plain if len(plain) <= width else f"{plain[: width - 3]}..."


def _without_signature(name: str) -> str:
    """A kernel's name without the return type before it and the arguments after it."""
    start, open_brackets = 0, list[str]()
    for position, character in enumerate(name):
        if character == "(" and not open_brackets:
            return name[start:position]
        if character in "<(":
            open_brackets.append(character)
        elif character == ">" and open_brackets[-1:] == ["<"]:  # else it compares two numbers
            open_brackets.pop()
        elif character == ")":
            while open_brackets and open_brackets.pop() != "(":
                pass
        elif character == " " and not open_brackets:
            start = position + 1
    return name.removeprefix("void ")
