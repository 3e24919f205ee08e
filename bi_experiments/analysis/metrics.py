"""Paired ratios and their intervals: what the phases of an experiment say, in numbers.

Trial k is the same prompts in both phases of a pair. Every launch yields one value L: the log of its total time, of its
initialisation, of a percentile over its requests, or the mean log over its trials. The launch is the unit because the
trials of one launch share its memory layout, clocks and neighbours: they are not independent, and an interval that
counts them as if they were is too narrow.

By turns, D_b is the difference of L within pair b, the change is exp(mean D) - 1, and its 95 % interval
exp(mean D ± t(0.975, B-1) s_D / sqrt(B)) - 1 over the B pairs. One after the other, the L of the two arms are two
independent samples and the interval is Welch's. One metric, the total time, is what the experiment is about; of the
others a change is called one only if Holm's procedure over all of them lets it. Throughputs are the total time once
more where the arms generated as many tokens: they have its interval, inverted, and its verdict.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, quantiles
from typing import Literal, TypeAlias

import msgspec

from bi_experiments.analysis.design import Design, FoundCaches
from bi_experiments.analysis.estimates import (
    AMOUNT,
    CONFIDENCE,
    HIGHER_IS_QUICKER,
    LOWER_IS_QUICKER,
    Direction,
    per_cent,
    verdict,
)
from bi_experiments.analysis.multiplicity import holm
from bi_experiments.analysis.pairs import (
    Pair,
    Values,
    complete_pairs,
    equal_tokens,
    mean_log,
    output_tokens,
    trial_times,
)
from bi_experiments.records import Difference, Metric, PhaseResult
from bi_experiments.wording import LABELS

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

    @property
    def by_name(self) -> dict[str, float]:
        """What vLLM's own script prints of the trials, under its names, which MLflow's metrics have too."""
        return {
            "avg_time": self.avg_time_s,
            "min_time": self.min_time_s,
            "max_time": self.max_time_s,
            "total_tokens": self.total_tokens,
            "total_prompts": self.total_prompts,
            "throughput": self.throughput,
            "prompts_per_sec": self.prompts_per_sec,
        }


def summarise(phase: PhaseResult) -> PhaseSummary:
    """Sum up a phase that has at least one trial.

    Raises:
        ValueError: The phase has no trial, or its engine was never built.
    """
    if phase.init_time_s is None or not phase.trials:
        raise ValueError(
            f"phase {phase.index + 1} ({LABELS[phase.arm]}) has no trial to sum up: {phase.error or phase.status}"
        )
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


def own_s_per_token(phases: Iterable[PhaseResult]) -> float | None:
    """Time of the second arm for each token that it generated, in seconds; None without a complete pair.

    Unlike the overhead it cannot be lowered by a slower baseline.
    """
    launches = [pair.second for pair in complete_pairs(phases)]
    tokens = sum(sum(output_tokens(phase)) for phase in launches)
    return sum(sum(trial_times(phase)) for phase in launches) / tokens if tokens else None


# --- Metrics --------------------------------------------------------------------------------------------------------

PRIMARY = "total_time"
"""The metric that an experiment is about."""
RECIPROCALS = ("throughput", "prompts_per_sec")
"""What is the total time again, inverted, where the arms generated as many tokens."""
INIT_TIME = "init_time"
"""What the metrics of initialisation are called, before the caches that the launches found (`FoundCaches`)."""
UNEQUAL_TOKENS = "the arms generated different numbers of tokens"
"""Why times are withheld."""


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
    found: FoundCaches | None = None
    """Of which launches it is, by the compile caches that they found; None: of all."""


def _cpu_times(phase: PhaseResult) -> Values:
    return tuple(trial.cpu_time_s for trial in phase.trials)


def _total_time(phase: PhaseResult) -> Values:
    return (sum(trial_times(phase)),)


def _init_time(phase: PhaseResult) -> Values:
    return () if phase.init_time_s is None else (phase.init_time_s,)


def _request_time_per_token(phase: PhaseResult) -> Values:
    return _requests(phase, "time_per_output_token_s")


def _throughput(phase: PhaseResult) -> Values:
    return (sum(output_tokens(phase)) / sum(trial_times(phase)),)


def _prompts_per_sec(phase: PhaseResult) -> Values:
    return (sum(trial.batch_size for trial in phase.trials) / sum(trial_times(phase)),)


def peak_memory_bytes(phase: PhaseResult) -> int | None:
    """Largest resident set of a phase on the CPU; None on a device, filled up to a share that is set."""
    return None if phase.observed is None or phase.observed.device != "cpu" else phase.peak_memory_bytes


def _peak_memory(phase: PhaseResult) -> Values:
    found = peak_memory_bytes(phase)
    return () if found is None else (found / 2**30,)


def _decode_step(phase: PhaseResult) -> Values:
    """Median time of a step in which all sequences decode: what each of them waits for its next token."""
    steps = [trial.decode_step_s for trial in phase.trials if trial.decode_step_s is not None]
    return tuple(steps) if len(steps) == len(phase.trials) else ()


def _energy_per_token(phase: PhaseResult) -> Values:
    """Energy of all devices during the trials, from their own counters, for each token generated."""
    times_s = {trial.index: trial.time_s for trial in phase.trials}
    read = [one for one in phase.clocks if one.trial in times_s and one.power_w is not None]
    tokens = sum(output_tokens(phase))
    if not tokens or not read or len(read) < len(phase.clocks) or {one.trial for one in read} != times_s.keys():
        return ()
    return (sum((one.power_w or 0.0) * times_s[one.trial] for one in read) / tokens,)


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
    _Quantity(PRIMARY, "s", _total_time, needs_equal_tokens=True),
    _Quantity("trial_time", "s", trial_times, needs_equal_tokens=True),
    _Quantity("cpu_time", "s", _cpu_times, needs_equal_tokens=True),
    *(_Quantity(f"{INIT_TIME}_{found}", "s", _init_time, found=found) for found in FoundCaches),
    _Quantity("throughput", "tokens/s", _throughput, HIGHER_IS_QUICKER),
    _Quantity("prompts_per_sec", "prompts/s", _prompts_per_sec, HIGHER_IS_QUICKER, needs_equal_tokens=True),
    _Quantity("request_time_per_token", "s", _request_time_per_token),
    *(
        _Quantity(
            f"{name}_p{percent}",
            "s",
            partial(_percentile, field=field, percent=percent),
            needs_equal_tokens=name == "end_to_end_latency",
            percentile=percent,
        )
        for name, field in _LATENCIES
        for percent in (50, 90, 99)
    ),
    _Quantity("decode_step", "s", _decode_step),
    _Quantity("energy_per_token", "J/token", _energy_per_token, AMOUNT),
    _Quantity("peak_memory", "GiB", _peak_memory, AMOUNT),
)


def compare_phases(phases: Iterable[PhaseResult], design: Design) -> tuple[Metric, ...]:
    """Compare the arms in every quantity that was measured, over the complete pairs.

    `total_time` comes first, since it is what the experiment is about. `trial_time`, `cpu_time` and
    `request_time_per_token` compare the trials and the requests one by one, the rest is one value a launch.
    `init_time_cold` rests on the launches that found empty caches, `init_time_warm` on the others: with caches of an
    arm's own the first launch is the only cold one, and has no interval. With the user's caches, of which nothing is
    known, they are `init_time_first_launch` and `init_time_later_launches`. `_p50`, `_p90`, `_p99` are percentiles over
    the requests of all trials of a launch (linear between order statistics). `decode_step` is the time of a step in
    which every sequence decodes, `energy_per_token` that of all devices in the trials over the tokens generated. A
    quantity that no complete pair has in both arms is missing from the result; one whose ratio would mislead is there,
    withheld, with the reason.

    Args:
        phases: The phases of one experiment, complete pairs or not.
        design: The rules that they were measured by.
    """
    pairs = complete_pairs(phases)
    metrics = [metric for quantity in _QUANTITIES if (metric := _metric(quantity, pairs, design)) is not None]
    if not metrics or (primary := metrics[0]).change_pct is None:
        return _together(metrics, settled=())
    same = [
        _reciprocal(metric, primary) if metric.name in RECIPROCALS and metric.withheld is None else metric
        for metric in metrics
    ]
    return _together(same, settled=(PRIMARY, *RECIPROCALS))


def _reciprocal(metric: Metric, primary: Metric) -> Metric:
    """The metric with what the primary one says of it."""
    ends = (primary.change_pct, primary.high_pct, primary.low_pct)
    change, low, high = (None if end is None else per_cent(-math.log1p(end / 100)) for end in ends)
    return msgspec.structs.replace(
        metric, change_pct=change, low_pct=low, high_pct=high, verdict=primary.verdict, p_value=primary.p_value
    )


def _together(metrics: Sequence[Metric], settled: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics, those that are not settled with the p value and the verdict that hold together (Holm).

    Args:
        metrics: All of them.
        settled: Names of the primary one and its reciprocals.
    """
    tested = [metric for metric in metrics if metric.name not in settled and metric.p_value is not None]
    adjusted = dict(
        zip([metric.name for metric in tested], holm([metric.p_value or 0.0 for metric in tested]), strict=True)
    )
    return tuple(
        msgspec.structs.replace(
            metric,
            adjusted_p_value=adjusted[metric.name],
            verdict=Difference.INCONCLUSIVE
            if adjusted[metric.name] >= 1 - CONFIDENCE and metric.verdict is not Difference.EQUIVALENT
            else metric.verdict,
        )
        if metric.name in adjusted
        else metric
        for metric in metrics
    )


def _metric(quantity: _Quantity, pairs: Sequence[Pair], design: Design) -> Metric | None:
    launches = [pair for pair in pairs if quantity.found in {None, design.found(pair.second.launch)}]
    measured = [pair for pair in launches if all(quantity.values(phase) for phase in pair)]
    if not measured:
        return None
    baseline = [quantity.values(pair.baseline) for pair in measured]
    second = [quantity.values(pair.second) for pair in measured]
    withheld = _why_withheld(quantity, measured)
    estimate = None
    if withheld is None:
        estimate = design.over(measured, pairs).estimate(
            [mean_log(values) for values in baseline], [mean_log(values) for values in second], measured
        )
    change, low, high, p_value = estimate or (None, None, None, None)
    return Metric(
        name=quantity.name,
        unit=quantity.unit,
        baseline=_of_an_arm(baseline),
        second=_of_an_arm(second),
        change_pct=change,
        low_pct=low,
        high_pct=high,
        pairs=len(measured),
        verdict=verdict(low, high, design.equivalence_pct, quantity.direction),
        withheld=withheld,
        p_value=p_value,
    )


def _of_an_arm(launches: Sequence[Values]) -> float:
    """What stands in an arm's column: the geometric mean, whose ratio is the change; of a value of 0 the mean."""
    every = [value for values in launches for value in values]
    if min(every) <= 0:
        return fmean(map(fmean, launches))
    if min(every) == max(every):
        return every[0]  # not the exponential of its logarithm, which may be off by a bit
    return math.exp(fmean(mean_log(values) for values in launches))


def _why_withheld(quantity: _Quantity, pairs: Sequence[Pair]) -> str | None:
    if quantity.needs_equal_tokens and not equal_tokens(pairs):
        return UNEQUAL_TOKENS
    if quantity.percentile is not None:
        # With fewer requests not even one is expected beyond the percentile: it would be the maximum in disguise.
        needed = math.ceil(100 / (100 - quantity.percentile))
        requests = min(sum(trial.batch_size for trial in phase.trials) for pair in pairs for phase in pair)
        if requests < needed:
            return f"a launch has {requests} requests and this percentile needs {needed}"
    if any(value <= 0 for pair in pairs for phase in pair for value in quantity.values(phase)):
        return "a value of 0 has no ratio"
    return None
