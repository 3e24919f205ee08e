"""What else ran on the machine."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from bi_experiments.config.schema import Interleave, ProtocolConfig
from bi_experiments.records import Finding, PhaseResult
from bi_experiments.wording import LABELS, count

LOAD_AVERAGE_S = 60.0
"""Time constant of the one-minute load average, in seconds."""


def busy_machine(phases: Iterable[PhaseResult], protocol: ProtocolConfig, cpu_count: int) -> Iterator[Finding]:
    """Load before a phase, the uncounted launch included, that the phases before it cannot explain.

    The load average forgets with a time constant of a minute, so what the previous phases left in it is at most the
    CPUs they used, times exp(-gap / 60 s). One CPU, or a tenth of many, is allowed for the system itself.
    """
    ordered = sorted(phases, key=lambda phase: phase.index)
    foreign = [(phase.load_average, phase) for phase in ordered[:1]]
    used = 0.0
    for before, phase in pairwise(ordered):
        used = max(used, _cpus_used(before))
        gap_s = max(0.0, phase.started_at - before.started_at - before.wall_time_s)
        foreign.append((phase.load_average - used * math.exp(-gap_s / LOAD_AVERAGE_S), phase))
    load, phase = max(foreign, key=lambda pair: pair[0])
    if load > max(1.0, 0.1 * cpu_count):
        what = "the uncounted launch" if phase.index < 0 else f"phase {phase.index + 1}"
        yield Finding(
            kind="neighbour",
            message=f"Something else was running in the minute before {what} ({LABELS[phase.arm]}): on average "
            f"{load:.1f} of its threads ran or waited for one of {count(cpu_count, 'CPU')}.",
            remedy=f"Stop it, if it still runs{or_take_turns(protocol)}.",
        )


def shared(beside: Sequence[str]) -> Iterator[Finding]:
    """Other experiments of this program ran on the machine at the same time."""
    if beside:
        yield Finding(
            kind="shared",
            message=f"Other experiments ran on this machine at the same time ({', '.join(beside)}): shared machines "
            "are noisier, since memory, caches and clocks are common to all of it.",
            remedy="For a final number run one at a time: hydra/launcher=local.",
        )


def _cpus_used(phase: PhaseResult) -> float:
    threads = 1 if phase.observed is None else phase.observed.threads
    times = sum(trial.time_s for trial in phase.trials)
    return max(threads, sum(trial.cpu_time_s for trial in phase.trials) / times) if phase.trials else threads


def or_take_turns(protocol: ProtocolConfig) -> str:
    """The remedy that makes a changing machine affect both arms, where it is not in use already."""
    if protocol.interleave is Interleave.trial:
        return ""
    return ", or run with protocol.interleave=trial, so that it affects both arms alike"
