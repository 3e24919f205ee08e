import pytest

from bi_experiments.analysis.pairs import Pair, pair_time_s
from bi_experiments.records import Arm
from tests import factories


def pair(baseline: tuple[float, float], second: tuple[float, float]) -> Pair:
    """A pair from the start and the length of its phases, in seconds."""
    first, other = (
        factories.phase(arm, started_at=at, wall_time_s=length)
        for arm, (at, length) in ((Arm.BASELINE, baseline), (Arm.BATCH_INVARIANT, second))
    )
    return Pair(first, other)


@pytest.mark.parametrize(
    ("pairs", "mean_s"),
    [
        ([pair((0, 100), (100, 100)), pair((200, 200), (400, 200)), pair((600, 300), (900, 300))], 400.0),
        ([pair((0, 100), (10, 80)), pair((200, 60), (210, 70))], 90.0),  # phases that were alive together
        ([pair((0, 100), (100, 100)), pair((200, 100), (5000, 100))], 200.0),  # interrupted between its phases
    ],
)
def test_the_time_of_a_pair_is_the_mean_of_all(pairs: list[Pair], mean_s: float) -> None:
    assert pair_time_s(pairs) == pytest.approx(mean_s)
