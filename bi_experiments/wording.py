"""How numbers, arms and devices are written, the same everywhere."""

import math
from collections import Counter
from collections.abc import Iterable

from bi_experiments.records import Arm, Environment, Invariance, Metric, PhaseResult


def signed(per_cent: float) -> str:
    """A change in per cent with its sign: `+7.4 %`."""
    return f"{_rounded(per_cent):+.1f} %"


def unsigned(per_cent: float) -> str:
    """The size of a change in per cent: `7.4 %`."""
    return f"{abs(per_cent):.1f} %"


def band(low_pct: float, high_pct: float) -> str:
    """An interval in per cent: `[+6.1 %, +8.8 %]`."""
    return f"[{signed(low_pct)}, {signed(high_pct)}]"


def one_decimal(value: float) -> str:
    """A mean of whole numbers, with one decimal where it is not whole itself: `56`, `3.5`, `1,024.5`."""
    return f"{value:,.1f}".removesuffix(".0")


def count(number: float, noun: str) -> str:
    """A number of things, or a mean of such numbers: `1 pair`, `3 pairs`, `2 batches`, `3.5 prompts`."""
    shown = one_decimal(number).replace(",", "")
    if shown == "1":
        return f"{shown} {noun}"
    return f"{shown} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def shortened(text: str, longest: int) -> str:
    """The text, whose end is cut off where it has more characters than `longest`, the ellipsis included."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def duration(seconds: float) -> str:
    """A time to be expected: `51 s`, `17 min`."""
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _rounded(per_cent: float) -> float:
    return round(per_cent, 1) + 0.0  # plus zero: a rounded -0.04 is 0.0, not -0.0


LABELS = {Arm.BASELINE: "baseline", Arm.BATCH_INVARIANT: "batch invariant", Arm.CONTROL: "control"}
"""The arms in running text."""


def before_noun(arm: Arm) -> str:
    """An arm before a noun: `batch-invariant`, as in `the batch-invariant arm`."""
    return LABELS[arm].replace(" ", "-")


def four_digits(value: float) -> str:
    """A number with four significant digits, or all digits before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"


def change_text(per_cent: float) -> str:
    """A change in per cent with its sign and two digits after the point; never `-0.00`."""
    return f"{round(per_cent, 2) + 0.0:+.2f}"


def finding_name(kind: str) -> str:
    """What a kind of finding is called: `warm up`, `busy machine` (stored as `neighbour`)."""
    return "busy machine" if kind == "neighbour" else kind.replace("_", " ")


def invariance_word(verdict: Invariance | None) -> str:
    """The verdict on output bits: `holds`, `no control`; `not probed` where there is none."""
    return (verdict or Invariance.NOT_PROBED).replace("_", " ")


AA = "A/A"
"""What an experiment of two baselines is called, in which batch-invariant mode was not measured."""

NO_INTERVAL = "no interval"
"""What is said of a single launch of an arm everywhere: nothing can be said, for launches differ too."""


def verdict_word(metric: Metric) -> str:
    """The verdict on a metric; what is said of a single launch without an interval."""
    if metric.withheld is not None:
        return "withheld"
    return NO_INTERVAL if metric.low_pct is None or metric.high_pct is None else metric.verdict


_SHORT_NAMES = {
    "time_to_first_token": "TTFT",
    "time_per_output_token": "TPOT",
    "end_to_end_latency": "E2E",
    "decode_step": "ITL, all decoding",
    "request_time_per_token": "TPOT, request by request",
    "prompts_per_sec": "prompts a second",
}
"""Stored names of metrics to those that vllm bench and other benchmarks of servers print."""


def metric_name(stored: str) -> str:
    """What a metric is called: `total time`, `TTFT p50`."""
    name, at, percentile = stored.rpartition("_p")
    if not (at and percentile.isdigit()):
        name, percentile = stored, ""
    name = _SHORT_NAMES.get(name, name.replace("_", " "))
    return f"{name} p{percentile}" if percentile else name


def shown_in(metric: Metric) -> tuple[str, float]:
    """The unit in which a metric is shown, and what its stored values are multiplied by: request times are in ms."""
    stored = metric.name.rpartition("_p")[0] or metric.name
    in_ms = metric.unit == "s" and (stored in _SHORT_NAMES or metric.name in _SHORT_NAMES)
    return ("ms", 1000.0) if in_ms else (metric.unit, 1.0)


def device(environment: Environment) -> str:
    """The accelerators, like ones counted: `8 x NVIDIA H200`; the CPU where there is none."""
    names = Counter(device.name for device in environment.devices)
    return ", ".join(f"{number} x {name}" for name, number in names.items()) or environment.cpu


def version(package: str, environment: Environment, phases: Iterable[PhaseResult]) -> str | None:
    """A package's version where the engine ran, or else in the parent's environment; None when neither has it."""
    in_phases = (phase.versions[package] for phase in phases if package in phase.versions)
    return next(in_phases, environment.versions.get(package))
