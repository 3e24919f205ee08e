"""What the phases of an arm found: each output once, launches apart."""

from msgspec.structs import replace

from bi_experiments.analysis.evidence import gather
from bi_experiments.records import Arm
from tests.analysis.probed_phases import UNCHANGED, launches, probe


def test_outputs_are_counted_once_and_launches_apart() -> None:
    found = gather(launches(Arm.BATCH_INVARIANT, *UNCHANGED))[Arm.BATCH_INVARIANT]
    assert (len(found.compared), len(found.launches)) == (4, 2)


def test_outputs_of_other_places_are_not_compared_between_launches() -> None:
    here, there = replace(probe(0), position=1, digest="a"), replace(probe(0), position=2, digest="b")
    assert gather(launches(Arm.BATCH_INVARIANT, (here,), (there,)))[Arm.BATCH_INVARIANT].launches_differing == 0
