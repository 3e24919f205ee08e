"""The two phases of a pair: one after the other, or alive together and taking turns."""

import random
from contextlib import ExitStack

from bi_experiments.launch.process import PhaseProcess, cannot_start, follow


def run_alone(phase: PhaseProcess) -> None:
    """Run one phase to its end."""
    with phase:
        follow(phase)


def run_by_turns(first: PhaseProcess, second: PhaseProcess, num_trials: int, rng: random.Random) -> None:
    """Keep both phases alive and let them take turns, trial by trial, in random order.

    Each is initialised and warmed up while the other is idle or not yet there, so that nothing is timed
    alongside another engine. A phase that fails leaves the turns to the other.

    Args:
        first: The phase that is initialised first.
        second: The other.
        num_trials: Trials of each.
        rng: Decides which phase goes first in each trial.
    """
    both = [first, second]
    with ExitStack() as stack:
        for phase in both:
            stack.enter_context(phase)
            follow(phase, until=lambda result: result.warmup_time_s is not None)
            if cannot_start(phase.result):
                return
        for done in range(1, num_trials + 1):
            for phase in rng.sample(both, k=2):
                if phase.alive:
                    phase.give_turn()
                    follow(phase, until=lambda result, done=done: len(result.trials) == done)  # type: ignore[misc]
        for phase in both:
            if phase.alive:
                phase.give_turn()
                follow(phase)
