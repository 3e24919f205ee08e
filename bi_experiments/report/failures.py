"""What the engine said last in the phases that failed."""

from bi_experiments.paths import OutputFolder, log_tail
from bi_experiments.records import ExperimentResult, PhaseStatus


def last_words(result: ExperimentResult, folder: OutputFolder) -> str:
    """The end of the engine's log of every phase that failed; empty when none did."""
    lines: list[str] = []
    for phase in result.launches:
        if phase.status in {PhaseStatus.FAILED, PhaseStatus.TIMED_OUT}:
            log = folder.phase(phase.index, phase.arm).log
            if tail := log_tail(log):
                lines += [f"The end of {log}:", *tail]
    return "".join(f"{line}\n" for line in lines)
