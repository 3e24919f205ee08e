"""Which arm runs when."""

import hashlib
import random
import time
from dataclasses import dataclass
from pathlib import Path

from bi_experiments.config.schema import Order
from bi_experiments.files import write_atomically
from bi_experiments.records import Arm, OrderSeed, RecordError, from_json, to_json


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
    second = Arm.second(control)
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


UNCOUNTED = Slot(index=-1, pair=-1, arm=Arm.BASELINE, launch=-1)
"""The uncounted launch, before all others, in no pair (`protocol.discard_first`)."""


def own_seed(configuration: bytes, path: Path, *, keep: bool) -> int:
    """The seed of an experiment that was given none, written down so that a resumed one has the same plan.

    It follows from the configuration and the time, so that two experiments differ in their order.

    Args:
        configuration: The experiment's configuration, in any encoding.
        path: Where the seed is kept.
        keep: Whether the seed of an earlier start is used again.
    """
    if keep:
        try:
            return from_json(path.read_bytes(), OrderSeed, path).seed
        except (FileNotFoundError, RecordError):
            pass  # no earlier start got so far
    digest = hashlib.sha256(configuration + str(time.time_ns()).encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    write_atomically(path, to_json(OrderSeed(seed=seed)))
    return seed


def trial_order(trials: int, seed: int, pair: int) -> tuple[int, ...]:
    """The random order in which both phases of a pair run their trials."""
    return tuple(random.Random(f"{seed}-trials-{pair}").sample(range(trials), k=trials))


def baseline_first_in_turn(trials: int, seed: int, pair: int) -> tuple[bool, ...]:
    """Whether the baseline goes first in each turn of a pair.

    Of each two consecutive turns it does so in one. Every second pair is the mirror of the one before: which arm opens
    a pair, and has an odd number's last turn, is balanced too.
    """
    rng = random.Random(f"{seed}-turns-{pair // 2}")
    first: list[bool] = []
    for _ in range((trials + 1) // 2):
        first += rng.sample([True, False], k=2)
    return tuple(one != bool(pair % 2) for one in first[:trials])
