"""The search for the smallest batch, on functions that say when a probe changes."""

import random
import time
from collections.abc import Callable, Sequence

import pytest

from bi_experiments.phase.proof.requests import Request
from bi_experiments.phase.proof.shrinking import Shrinker, split

PROBE = Request(prompt=(7,) * 5, max_tokens=3)


def neighbour(number: int, length: int = 8, max_tokens: int = 4) -> Request:
    return Request(prompt=(number,) * length, max_tokens=max_tokens)


def shrunk(
    requests: Sequence[Request],
    position: int,
    differs: Callable[[Sequence[Request]], bool],
    time_s: float = 60.0,
    max_model_len: int = 1024,
) -> Shrinker:
    def asked(batch: Sequence[Request], at: int) -> bool:
        assert batch[at] == PROBE
        assert all(len(one.prompt) + one.max_tokens <= max_model_len for one in batch)
        return differs(batch)

    shrinker = Shrinker(requests, position, asked, time.monotonic() + time_s, max_model_len)
    shrinker.shrink()
    return shrinker


def names(shrinker: Shrinker) -> list[int]:
    return [int(request.prompt[0]) for request in shrinker.requests if request != PROBE]


@pytest.mark.parametrize("seed", range(20))
def test_exactly_the_neighbours_that_matter_are_left_in_their_order(seed: int) -> None:
    rng = random.Random(seed)
    others = [neighbour(10 + number) for number in range(rng.randint(1, 31))]
    needed = set(rng.sample([one.prompt[0] for one in others], k=rng.randint(1, min(4, len(others)))))
    position = rng.randint(0, len(others))
    batch = [*others[:position], PROBE, *others[position:]]
    found = shrunk(batch, position, lambda requests: needed <= {request.prompt[0] for request in requests})
    assert names(found) == sorted(needed)
    assert found.requests[found.position] == PROBE
    assert all(len(request.prompt) == 1 and request.max_tokens == 1 for request in found.requests if request != PROBE)
    assert found.whole


@pytest.mark.parametrize("border", [2, 9, 40, 255])
def test_a_border_in_the_prompt_tokens_is_found_and_confirmed_above(border: int) -> None:
    batch = [neighbour(1, 300), PROBE, neighbour(2, 300)]
    found = shrunk(batch, 1, lambda requests: any(len(one.prompt) >= border for one in requests if one != PROBE))
    length, differing, equal = found.border()
    assert length == border
    assert differing[0] == border + 1
    assert equal == ()


def test_one_neighbour_is_preferred_to_several_short_ones() -> None:
    batch = [PROBE, *(neighbour(10 + number, 20) for number in range(6)), neighbour(1, 300)]
    found = shrunk(batch, 0, lambda requests: sum(len(one.prompt) for one in requests) >= 5 + 40)
    assert names(found) == [1]
    assert found.border()[0] == 40


def test_a_difference_at_one_length_alone_is_no_border() -> None:
    found = shrunk([PROBE, neighbour(1, 16)], 0, lambda requests: any(len(one.prompt) == 16 for one in requests))
    assert found.border()[0] == 16
    assert found.border()[1:] == ((), (17, 18, 23, 32))


@pytest.mark.parametrize("border", [2, 3, 7])
def test_every_larger_number_of_tokens_is_tried_as_it_is_called_and_once(border: int) -> None:
    seen: list[int] = []

    def differs(requests: Sequence[Request]) -> bool:
        seen.append(max((len(one.prompt) for one in requests if one != PROBE), default=0))
        return seen[-1] >= border

    found = shrunk([PROBE, neighbour(1, 300)], 0, differs)
    ran = len(seen)
    assert found.border() == (border, tuple(sorted({border + 1, border + 2, border + 7, 2 * border})), ())
    assert set(seen[ran:]) <= {border - 1, *found.border()[1]}
    assert set(found.border()[1]) <= set(seen)


def test_prompts_that_the_model_cannot_take_with_their_output_are_not_tried() -> None:
    def differs(requests: Sequence[Request]) -> bool:
        return any(len(one.prompt) >= 40 and one.max_tokens >= 4 for one in requests if one != PROBE)

    found = shrunk([PROBE, neighbour(1, 44)], 0, differs, max_model_len=48)
    assert found.border() == (40, (41, 42), ())


def test_no_border_is_claimed_where_one_token_less_was_not_tried() -> None:
    def slow(requests: Sequence[Request]) -> bool:
        time.sleep(0.05)
        return any(len(one.prompt) >= 40 for one in requests if one != PROBE)

    found = shrunk([PROBE, neighbour(1, 300)], 0, slow, time_s=0.12)
    assert len(found.requests[1].prompt) > 40
    assert found.border() == (None, (), ())
    assert not found.whole


def test_the_sum_of_tokens_is_shared_among_the_neighbours_that_are_left() -> None:
    batch = [PROBE, *(neighbour(10 + number, 10) for number in range(8))]
    found = shrunk(batch, 0, lambda requests: sum(len(one.prompt) for one in requests) >= 5 + 25)
    assert sum(len(one.prompt) for one in found.requests) == 30
    assert len(found.requests) == 4


def test_no_batch_runs_twice_and_none_after_the_time() -> None:
    seen: list[tuple[Request, ...]] = []

    def differs(requests: Sequence[Request]) -> bool:
        seen.append(tuple(requests))
        return len(requests) > 3

    batch = [PROBE, *(neighbour(10 + number) for number in range(9))]
    found = shrunk(batch, 0, differs)
    assert len(seen) == len(set(seen)) == found.tried
    late = shrunk(batch, 0, differs, time_s=0.0)
    assert late.requests == tuple(batch)
    assert late.tried == 0
    assert not late.whole


def test_items_are_split_into_pieces_of_nearly_the_same_size() -> None:
    assert split([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4, 5]]
    assert split([1, 2], 5) == [[1], [2]]
