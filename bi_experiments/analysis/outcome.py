"""The exit code of a finished experiment: what it says of the phases, the proof, and the limit that CI sets."""

from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ExitCode
from bi_experiments.records import Arm, Comparison, ExperimentResult, Invariance, PhaseStatus, Reproducibility
from bi_experiments.wording import band, signed

_VIOLATIONS = (Invariance.VIOLATED, Invariance.NOT_DETERMINISTIC)


def exit_code(result: ExperimentResult, config: ExperimentConfig) -> ExitCode:
    """What the process's exit status says about an experiment; what keeps the number from being complete comes first.

    Args:
        result: The finished experiment.
        config: Its configuration, for `verify.strict`, `verify.strict_launches` and the gate.
    """
    statuses = {phase.status for phase in result.phases}
    if PhaseStatus.INTERRUPTED in statuses:
        return ExitCode.INTERRUPTED
    if statuses & {PhaseStatus.FAILED, PhaseStatus.TIMED_OUT}:
        return ExitCode.PHASE_FAILED
    arms = result.invariance.arms if result.invariance else ()
    mode = next((one for one in arms if one.arm is Arm.BATCH_INVARIANT), None)
    if mode is not None and config.verify.strict and mode.verdict in _VIOLATIONS:
        return ExitCode.INVARIANCE_VIOLATED
    if mode is not None and config.verify.strict_launches and mode.reproducible is Reproducibility.NOT_REPRODUCIBLE:
        return ExitCode.INVARIANCE_VIOLATED
    if config.gate.max_overhead_pct is None or result.comparison is None:
        return ExitCode.DONE
    return decide_gate(result.comparison, config.gate.max_overhead_pct)


def decide_gate(comparison: Comparison, max_overhead_pct: float) -> ExitCode:
    """Compare the interval of the trial time's overhead with the limit.

    `OVER_GATE` when the whole interval is over the limit, `DONE` when none of it is, `GATE_UNDECIDED` when the limit
    lies within it or there is no interval.
    """
    trial_time = comparison.metric("trial_time")
    if trial_time is None or trial_time.low_pct is None or trial_time.high_pct is None:
        return ExitCode.GATE_UNDECIDED
    if trial_time.low_pct > max_overhead_pct:
        return ExitCode.OVER_GATE
    if trial_time.high_pct <= max_overhead_pct:
        return ExitCode.DONE
    return ExitCode.GATE_UNDECIDED


def describe_gate(comparison: Comparison, max_overhead_pct: float) -> str:
    """The decision in one line, with what to do where it is undecided."""
    limit = f"the gate of {max_overhead_pct:g} %"
    trial_time = comparison.metric("trial_time")
    if trial_time is None or trial_time.change_pct is None or trial_time.low_pct is None or trial_time.high_pct is None:
        return f"Gate undecided: no interval to hold against {limit}; set protocol.pairs=3 or more."
    overhead = f"{signed(trial_time.change_pct)} {band(trial_time.low_pct, trial_time.high_pct)} trial time"
    match decide_gate(comparison, max_overhead_pct):
        case ExitCode.OVER_GATE:
            return f"Over the gate: the whole interval of {overhead} is over {limit}."
        case ExitCode.DONE:
            return f"Within the gate: the whole interval of {overhead} is at or under {limit}."
        case _:
            return f"Gate undecided: {limit} lies within the interval of {overhead}; more pairs narrow it."
