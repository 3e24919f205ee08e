"""The exit code of a finished experiment."""

from bi_experiments import gate
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ExitCode
from bi_experiments.records import Arm, ExperimentResult, Invariance, PhaseStatus


def exit_code(result: ExperimentResult, config: ExperimentConfig) -> ExitCode:
    """What the process's exit status says about an experiment; what keeps the number from being complete comes first.

    Args:
        result: The finished experiment.
        config: Its configuration, for `verify.strict` and the gate.
    """
    statuses = {phase.status for phase in result.phases}
    if PhaseStatus.INTERRUPTED in statuses:
        return ExitCode.INTERRUPTED
    if statuses & {PhaseStatus.FAILED, PhaseStatus.TIMED_OUT}:
        return ExitCode.PHASE_FAILED
    verdict = result.invariance.verdict(Arm.BATCH_INVARIANT) if result.invariance else None
    if config.verify.strict and verdict is Invariance.VIOLATED:
        return ExitCode.INVARIANCE_VIOLATED
    if config.gate.max_overhead_pct is None or result.comparison is None:
        return ExitCode.DONE
    return gate.decide(result.comparison, config.gate.max_overhead_pct)
