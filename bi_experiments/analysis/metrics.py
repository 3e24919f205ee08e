"""Paired ratios and their intervals: what the phases of an experiment say, in numbers.

Trial k is the same prompts in every phase. With t its time, d = ln(t_batch_invariant / t_baseline) within one pair, and
D_b is the mean of d over the trials of pair b. The change is exp(mean D) - 1 and its 95 % interval
exp(mean D ± t(0.975, B-1) s_D / sqrt(B)) - 1 over the B pairs. The pair is the unit because the trials of one launch
share its memory layout, clocks and neighbours: they are not independent, and an interval that counts them as if they
were is too narrow. What a launch yields only once (its initialisation, a quantile over its requests) enters as a
single value instead of a mean over trials; the estimator is the same.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, quantiles
from typing import Literal, TypeAlias

from bi_experiments.analysis.estimates import (
    AMOUNT,
    HIGHER_IS_QUICKER,
    LOWER_IS_QUICKER,
    Direction,
    paired_estimate,
    verdict,
)
from bi_experiments.analysis.pairs import (
    Pair,
    Values,
    complete_pairs,
    log_ratio,
    output_tokens,
    trial_time_differences,
    trial_times,
)
from bi_experiments.records import Metric, PhaseResult

# --- One phase ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PhaseSummary:
    """One phase in the numbers that benchmarks of inference engines usually print."""

    init_time_s: float
    avg_time_s: float
    """Mean time of a trial."""
    min_time_s: float
    max_time_s: float
    total_tokens: int
    """Generated tokens of all trials."""
    total_prompts: int
    throughput: float
    """Generated tokens per second of trial time."""
    prompts_per_sec: float
    trial_times_s: tuple[float, ...]


def summarise(phase: PhaseResult) -> PhaseSummary:
    """Sum up a phase that has at least one trial.

    Raises:
        ValueError: The phase has no trial, or its engine was never built.
    """
    if phase.init_time_s is None or not phase.trials:
        raise ValueError(f"phase {phase.index} ({phase.arm}) has no trial to sum up: {phase.error or phase.status}")
    times = trial_times(phase)
    return PhaseSummary(
        init_time_s=phase.init_time_s,
        avg_time_s=fmean(times),
        min_time_s=min(times),
        max_time_s=max(times),
        total_tokens=sum(output_tokens(phase)),
        total_prompts=sum(trial.batch_size for trial in phase.trials),
        throughput=_throughput(phase)[0],
        prompts_per_sec=_prompts_per_sec(phase)[0],
        trial_times_s=times,
    )


# --- Pairs ----------------------------------------------------------------------------------------------------------


# --- Estimates ------------------------------------------------------------------------------------------------------


def half_width_pct(phases: Iterable[PhaseResult]) -> float | None:
    """Half the width of the trial time's interval, in percentage points; None with fewer than two complete pairs."""
    differences = trial_time_differences(complete_pairs(phases))
    return paired_estimate(differences).half_width_pct if differences else None


# --- Metrics --------------------------------------------------------------------------------------------------------


LatencyField: TypeAlias = Literal["time_to_first_token_s", "time_per_output_token_s", "end_to_end_s"]


@dataclass(frozen=True)
class _Quantity:
    """Something that is compared between the arms."""

    name: str
    unit: str
    values: Callable[[PhaseResult], Values]
    direction: Direction = LOWER_IS_QUICKER
    needs_equal_tokens: bool = False
    """Whether the ratio means nothing when the arms generated different numbers of tokens."""
    percentile: int | None = None
    """Which percentile over the requests of a launch it is, if it is one."""


def _cpu_times(phase: PhaseResult) -> Values:
    return tuple(trial.cpu_time_s for trial in phase.trials)


def _total_time(phase: PhaseResult) -> Values:
    return (sum(trial_times(phase)),)


def _init_time_cold(phase: PhaseResult) -> Values:
    return (phase.init_time_s,) if phase.launch == 0 and phase.init_time_s is not None else ()


def _init_time_warm(phase: PhaseResult) -> Values:
    return (phase.init_time_s,) if phase.launch > 0 and phase.init_time_s is not None else ()


def _throughput(phase: PhaseResult) -> Values:
    return (sum(output_tokens(phase)) / sum(trial_times(phase)),)


def _prompts_per_sec(phase: PhaseResult) -> Values:
    return (sum(trial.batch_size for trial in phase.trials) / sum(trial_times(phase)),)


def _peak_memory(phase: PhaseResult) -> Values:
    return () if phase.peak_memory_bytes is None else (phase.peak_memory_bytes / 2**30,)


def _requests(phase: PhaseResult, field: LatencyField) -> Values:
    """The timings of all requests of all trials; none unless every trial has them."""
    latencies = [trial.latencies for trial in phase.trials if trial.latencies is not None]
    if len(latencies) < len(phase.trials):
        return ()
    return tuple(value for latency in latencies for value in getattr(latency, field))


def _percentile(phase: PhaseResult, field: LatencyField, percent: int) -> Values:
    requests = _requests(phase, field)
    return (quantiles(requests, n=100, method="inclusive")[percent - 1],) if len(requests) > 1 else ()


_LATENCIES: tuple[tuple[str, LatencyField], ...] = (
    ("time_to_first_token", "time_to_first_token_s"),
    ("time_per_output_token", "time_per_output_token_s"),
    ("end_to_end_latency", "end_to_end_s"),
)

_QUANTITIES = (
    _Quantity("trial_time", "s", trial_times),
    _Quantity("total_time", "s", _total_time),
    _Quantity("cpu_time", "s", _cpu_times),
    _Quantity("init_time_cold", "s", _init_time_cold),
    _Quantity("init_time_warm", "s", _init_time_warm),
    _Quantity("throughput", "tokens/s", _throughput, HIGHER_IS_QUICKER, needs_equal_tokens=True),
    _Quantity("prompts_per_sec", "prompts/s", _prompts_per_sec, HIGHER_IS_QUICKER),
    *(
        _Quantity(f"{name}_p{percent}", "s", partial(_percentile, field=field, percent=percent), percentile=percent)
        for name, field in _LATENCIES
        for percent in (50, 90, 99)
    ),
    _Quantity("peak_memory", "GiB", _peak_memory, AMOUNT),
)


def compare_phases(phases: Iterable[PhaseResult], equivalence_pct: float) -> tuple[Metric, ...]:
    """Compare the arms in every quantity that was measured, over the complete pairs.

    `trial_time` and `cpu_time` are per trial, the rest per launch; `init_time_cold` rests on launch 0 of each arm and
    so never has an interval, `init_time_warm` on the later launches. `_p50`, `_p90`, `_p99` are percentiles over the
    requests of all trials of a launch (linear between order statistics). A quantity that no complete pair has in both
    arms is missing from the result; one whose ratio would mislead is there, withheld, with the reason.

    Args:
        phases: The phases of one experiment, complete pairs or not.
        equivalence_pct: Changes within plus or minus this many per cent count as none.
    """
    pairs = complete_pairs(phases)
    metrics = (_metric(quantity, pairs, equivalence_pct) for quantity in _QUANTITIES)
    return tuple(metric for metric in metrics if metric is not None)


def _metric(quantity: _Quantity, pairs: Sequence[Pair], equivalence_pct: float) -> Metric | None:
    measured = [pair for pair in pairs if all(quantity.values(phase) for phase in pair)]
    if not measured:
        return None
    baseline = [quantity.values(pair.baseline) for pair in measured]
    batch_invariant = [quantity.values(pair.second) for pair in measured]
    withheld = _why_withheld(quantity, measured)
    estimate = None
    if withheld is None:
        estimate = paired_estimate(
            [log_ratio(one, other) for one, other in zip(batch_invariant, baseline, strict=True)]
        )
    change, low, high = estimate or (None, None, None)
    return Metric(
        name=quantity.name,
        unit=quantity.unit,
        baseline=fmean(map(fmean, baseline)),
        batch_invariant=fmean(map(fmean, batch_invariant)),
        change_pct=change,
        low_pct=low,
        high_pct=high,
        pairs=len(measured),
        verdict=verdict(low, high, equivalence_pct, quantity.direction),
        withheld=withheld,
    )


def _why_withheld(quantity: _Quantity, pairs: Sequence[Pair]) -> str | None:
    if quantity.needs_equal_tokens and any(output_tokens(pair[0]) != output_tokens(pair[1]) for pair in pairs):
        return "the arms generated different numbers of tokens"
    if quantity.percentile is not None:
        # With fewer requests not even one is expected beyond the percentile: it would be the maximum in disguise.
        needed = math.ceil(100 / (100 - quantity.percentile))
        requests = min(sum(trial.batch_size for trial in phase.trials) for pair in pairs for phase in pair)
        if requests < needed:
            return f"a launch has {requests} requests and this percentile needs {needed}"
    if any(value <= 0 for pair in pairs for phase in pair for value in quantity.values(phase)):
        return "a value of 0 has no ratio"
    return None
