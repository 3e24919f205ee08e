"""Which arm runs when."""

import random
from dataclasses import dataclass

from bi_experiments.config.schema import Order
from bi_experiments.records import Arm


@dataclass(frozen=True)
class Slot:
    """One launch in the schedule."""

    index: int
    """Position in the schedule, from 0."""
    pair: int
    """Pair, from 0."""
    arm: Arm
    launch: int
    """Which launch of this arm it is, from 0."""


def plan(pairs: int, order: Order, seed: int, control: bool) -> tuple[tuple[Slot, Slot], ...]:
    """Lay out the pairs.

    `balanced` is block-randomised: of each two consecutive pairs one is baseline first and one is baseline second, in
    random order. Every prefix of the schedule is balanced to within one pair, so that pairs can be added, or the last
    ones lost, without favouring an arm.

    Args:
        pairs: Number of pairs.
        order: Rule for the order within the pairs.
        seed: Seed of the random choices; a longer plan with the same seed begins with the shorter one.
        control: Whether the second arm is another baseline.
    """
    rng = random.Random(seed)
    second = Arm.CONTROL if control else Arm.BATCH_INVARIANT
    slots: list[tuple[Slot, Slot]] = []
    baseline_first = True
    for pair in range(pairs):
        if order is Order.baseline_first:
            baseline_first = True
        elif order is Order.balanced and pair % 2:
            baseline_first = not baseline_first
        else:
            baseline_first = rng.random() < 0.5
        arms = (Arm.BASELINE, second) if baseline_first else (second, Arm.BASELINE)
        slots.append((Slot(2 * pair, pair, arms[0], pair), Slot(2 * pair + 1, pair, arms[1], pair)))
    return tuple(slots)
