from collections import Counter
from pathlib import Path

import pytest

from bi_experiments.config.schema import Order
from bi_experiments.launch.schedule import Slot, baseline_first_in_turn, own_seed, plan, trial_order
from bi_experiments.records import Arm


def baseline_first(pairs: tuple[tuple[Slot, Slot], ...]) -> list[bool]:
    return [first.arm is Arm.BASELINE for first, _ in pairs]


@pytest.mark.parametrize("seed", range(20))
def test_balanced_order_stays_balanced_to_within_one_pair_wherever_it_is_cut(seed: int) -> None:
    first = baseline_first(plan(9, Order.balanced, seed, control=False))
    for length in range(1, 10):
        counts = Counter(first[:length])
        assert abs(counts[True] - counts[False]) <= 1


def test_balanced_order_is_random() -> None:
    orders = {tuple(baseline_first(plan(4, Order.balanced, seed, control=False))) for seed in range(50)}
    assert len(orders) == 4


def test_a_longer_plan_begins_with_the_shorter_one() -> None:
    for order in Order:
        assert plan(12, order, 3, control=False)[:5] == plan(5, order, 3, control=False)


def test_baseline_first_puts_every_baseline_first() -> None:
    assert all(baseline_first(plan(6, Order.baseline_first, 0, control=False)))


def test_every_pair_has_both_arms_and_every_slot_its_place() -> None:
    slots = [slot for pair in plan(5, Order.random, 1, control=False) for slot in pair]
    assert [slot.index for slot in slots] == list(range(10))
    for pair in range(5):
        assert {slot.arm for slot in slots if slot.pair == pair} == {Arm.BASELINE, Arm.BATCH_INVARIANT}
    for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT):
        assert [slot.launch for slot in slots if slot.arm is arm] == list(range(5))


def test_control_replaces_the_second_arm() -> None:
    arms = {slot.arm for pair in plan(3, Order.balanced, 0, control=True) for slot in pair}
    assert arms == {Arm.BASELINE, Arm.CONTROL}
    assert not Arm.CONTROL.batch_invariant


@pytest.mark.parametrize("trials", [1, 4, 5])
def test_either_arm_goes_first_in_as_many_turns_of_a_pair_and_at_each_place_of_two(trials: int) -> None:
    for seed in range(10):
        turns = [baseline_first_in_turn(trials, seed, pair) for pair in range(4)]
        assert all(len(one) == trials for one in turns)
        assert all(abs(2 * sum(one) - trials) <= 1 for one in turns)
        for place in range(trials):
            assert sum(one[place] for one in turns[:2]) == sum(one[place] for one in turns[2:]) == 1


def test_the_order_of_trials_is_random_and_the_same_for_a_pair() -> None:
    orders = [trial_order(5, 1, pair) for pair in range(20)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len(set(orders)) > 10
    assert trial_order(5, 1, 3) == orders[3]


def test_over_many_experiments_either_arm_goes_first_as_often_and_no_two_plans_need_be_alike(tmp_path: Path) -> None:
    plans, turns = [], []
    for number in range(200):
        seed = own_seed(b"{}", tmp_path / str(number), keep=False)
        plans.append(tuple(baseline_first(plan(4, Order.balanced, seed, control=False))))
        turns.append(baseline_first_in_turn(5, seed, 0))
    assert all(sum(one) == 2 for one in plans)
    assert len(set(plans)) == 4
    for orders in (plans, turns):
        for position in range(len(orders[0])):
            assert 60 < sum(order[position] for order in orders) < 140  # 100, with a standard deviation of 7


def test_two_experiments_have_two_seeds_and_a_resumed_one_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    seed = own_seed(b"{}", path, keep=True)
    assert own_seed(b"{}", path, keep=True) == seed
    assert own_seed(b"{}", path, keep=False) != seed
    assert 0 <= seed < 2**32
