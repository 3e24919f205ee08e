"""The exit code of a finished experiment: what it says of the phases, the proof, and the limit that CI sets."""

from bi_experiments.analysis.metrics import PRIMARY
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ExitCode
from bi_experiments.records import (
    Arm,
    Comparison,
    ExperimentResult,
    Invariance,
    Metric,
    PhaseStatus,
    Reproducibility,
)
from bi_experiments.wording import band, signed

VIOLATIONS = (Invariance.VIOLATED, Invariance.NOT_DETERMINISTIC)
"""Verdicts of the mode that say that it does not hold."""


def exit_code(result: ExperimentResult, config: ExperimentConfig) -> ExitCode:
    """What the process's exit status says about an experiment; what keeps the number from being complete comes first.

    Args:
        result: The finished experiment.
        config: Its configuration, for `verify.strict`, `verify.strict_launches` and the gate.
    """
    if result.interrupted:
        return ExitCode.INTERRUPTED
    statuses = {phase.status for phase in result.launches}
    if statuses & {PhaseStatus.FAILED, PhaseStatus.TIMED_OUT}:
        return ExitCode.PHASE_FAILED
    arms = result.invariance.arms if result.invariance else ()
    mode = next((one for one in arms if one.arm is Arm.BATCH_INVARIANT), None)
    if mode is not None and config.verify.strict and mode.verdict in VIOLATIONS:
        return ExitCode.INVARIANCE_VIOLATED
    if mode is not None and config.verify.strict_launches and mode.reproducible is Reproducibility.NOT_REPRODUCIBLE:
        return ExitCode.INVARIANCE_VIOLATED
    if config.gate.max_overhead_pct is None or result.comparison is None:
        return ExitCode.DONE
    return decide_gate(result.comparison, config.gate.max_overhead_pct)


def primary(comparison: Comparison) -> Metric | None:
    """The metric that an experiment is about: its total time; the trial time in records that have no other."""
    return comparison.metric(PRIMARY) or comparison.metric("trial_time")


def decide_gate(comparison: Comparison, max_overhead_pct: float) -> ExitCode:
    """Compare the interval of the total time's overhead with the limit.

    `OVER_GATE` when the whole interval is over the limit, `DONE` when none of it is, `GATE_UNDECIDED` when the limit
    lies within it, there is no interval, or the time is withheld.
    """
    total_time = primary(comparison)
    if total_time is None or total_time.low_pct is None or total_time.high_pct is None:
        return ExitCode.GATE_UNDECIDED
    if total_time.low_pct > max_overhead_pct:
        return ExitCode.OVER_GATE
    if total_time.high_pct <= max_overhead_pct:
        return ExitCode.DONE
    return ExitCode.GATE_UNDECIDED


def describe_gate(comparison: Comparison, max_overhead_pct: float) -> str:
    """The decision in one line, with what to do where it is undecided."""
    limit = f"the gate of {max_overhead_pct:g} %"
    total_time = primary(comparison)
    if total_time is not None and total_time.withheld is not None:
        return f"Gate undecided: there is nothing to hold against {limit}, since {total_time.withheld}."
    if total_time is None or total_time.change_pct is None or total_time.low_pct is None or total_time.high_pct is None:
        return f"Gate undecided: no interval to hold against {limit}; it takes two complete pairs (protocol.pairs)."
    overhead = f"{signed(total_time.change_pct)} {band(total_time.low_pct, total_time.high_pct)} total time"
    match decide_gate(comparison, max_overhead_pct):
        case ExitCode.OVER_GATE:
            return f"Over the gate: the whole interval of {overhead} is over {limit}."
        case ExitCode.DONE:
            return f"Within the gate: the whole interval of {overhead} is at or under {limit}."
        case _:
            return f"Gate undecided: {limit} lies within the interval of {overhead}; more pairs narrow it."
