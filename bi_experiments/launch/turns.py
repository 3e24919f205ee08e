"""The two phases of a pair: one after the other, or alive together and taking turns."""

from collections.abc import Sequence
from contextlib import ExitStack

from bi_experiments.launch.process import PhaseProcess, cannot_start, follow


def run_alone(phase: PhaseProcess) -> None:
    """Run one phase to its end."""
    with phase:
        follow(phase)


def run_by_turns(first: PhaseProcess, second: PhaseProcess, first_goes_first: Sequence[bool]) -> None:
    """Keep both phases alive and let them take turns, trial by trial.

    Each is initialised and warmed up while the other is idle or not yet there, so that nothing is timed
    alongside another engine. A phase that fails leaves the turns to the other.

    Args:
        first: The phase that is initialised first.
        second: The other.
        first_goes_first: For every turn, whether the phase that is initialised first also goes first in it.
    """
    both = [first, second]
    with ExitStack() as stack:
        for phase in both:
            stack.push(phase)  # first: a signal may come before `enter_context` has noted the phase
            phase.__enter__()
            follow(phase, until=lambda result: result.warmup_time_s is not None)
            if cannot_start(phase.result):
                return
        for done, in_order in enumerate(first_goes_first, start=1):
            for phase in both if in_order else reversed(both):
                if phase.alive:
                    phase.give_turn()
                    follow(phase, until=lambda result, done=done: len(result.trials) == done)  # type: ignore[misc]
        for phase in both:
            if phase.alive:
                phase.give_turn()
                follow(phase)
            phase.end()  # not with the other, whose probes come after it
