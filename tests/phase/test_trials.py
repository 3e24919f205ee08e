"""What a phase warms up with."""

from dataclasses import replace

import pytest

from bi_experiments.phase import engine
from bi_experiments.phase.engine import Finished, RequestTimes
from bi_experiments.phase.proof.steps import StepTokens
from bi_experiments.phase.trials import (
    one_of_each_shape,
    split_prompts,
    steps_by_rule_pct,
    steps_of_every_size,
    warm_up,
)
from tests.phase.proof.fake_engine import LIMITS

BORDERS = replace(LIMITS, borders=(1, 8, 64, 512), max_num_batched_tokens=512, max_num_seqs=32, max_model_len=100)


def test_a_batch_of_every_shape_is_warmed_up_the_largest_first() -> None:
    assert one_of_each_shape([[100] * 17, [100] * 32, [100] * 18, [100] * 48], 4096) == (3, 1, 2)


def test_every_size_that_kernels_change_at_is_one_step_and_so_is_a_token_less() -> None:
    made = [[len(request.prompt) for request in batch] for batch in steps_of_every_size(BORDERS)]
    assert [sum(lengths) for lengths in made] == [1, 7, 8, 63, 64, 511, 512]
    assert [len(lengths) for lengths in made[:3]] == [1, 7, 8]
    assert all(max(lengths) < 100 and len(lengths) <= 32 for lengths in made)


@pytest.mark.parametrize("sizes", [(8, 600), (8,)])
def test_no_step_is_larger_than_the_largest_which_is_among_them(sizes: tuple[int, ...]) -> None:
    made = [
        sum(len(request.prompt) for request in batch) for batch in steps_of_every_size(replace(BORDERS, borders=sizes))
    ]
    assert made == [7, 8, 511, 512]


def test_what_takes_more_sequences_than_the_engine_has_is_left_out() -> None:
    made = list(steps_of_every_size(replace(BORDERS, max_num_seqs=3)))
    assert [sum(len(request.prompt) for request in batch) for batch in made] == [1, 7, 8, 63, 64]


def test_no_prompt_of_a_step_is_found_in_the_prefix_cache_of_another_one() -> None:
    for batch in steps_of_every_size(BORDERS):
        longer = [request.prompt[:16] for request in batch if len(request.prompt) > 1]
        assert len(set(longer)) == len(longer)


def test_a_prompt_of_which_the_engine_takes_fewer_tokens_is_shorter() -> None:
    made = list(steps_of_every_size(replace(BORDERS, long_prefill_tokens=30)))
    assert {sum(len(request.prompt) for request in batch) for batch in made} == {1, 7, 8, 63, 64, 511, 512}
    assert max(len(request.prompt) for batch in made for request in batch) == 30


def test_the_prefix_cache_is_empty_before_each_batch_of_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(engine, "empty_prefix_cache", lambda _: done.append("empty"))
    monkeypatch.setattr(engine, "generate", lambda *_: done.append("batch"))
    monkeypatch.setattr(engine, "generate_together", lambda *_, **__: done.append("step"))
    batches = [[{"prompt_token_ids": [7] * length}] * 2 for length in (10, 100)]
    assert warm_up(None, batches, None, BORDERS) == 7
    assert done == ["empty", "batch"] * 2 + ["empty", "step"] * 7


def test_an_engine_that_reports_no_such_size_has_none() -> None:
    assert list(steps_of_every_size(LIMITS)) == []


@pytest.mark.parametrize(("ends_at", "share_pct"), [(4, 100.0), (2, 100 * 44 / 48), (1, 100 * 42 / 48)])
def test_outputs_that_end_early_are_held_against_the_lengths_that_the_ledger_has(
    ends_at: int, share_pct: float
) -> None:
    lengths = [4] * 10 + [ends_at] * 2
    requests = [Finished(5, (7,) * length, 0, None) for length in lengths]
    steps = [StepTokens(12, 0), *(StepTokens(0, sum(length > at for length in lengths)) for at in (1, 2, 3))]
    assert steps_by_rule_pct(requests, 4, LIMITS, steps) == pytest.approx(share_pct)


def finished(*times_s: tuple[float, float], last_s: float = 9.0, preemptions: int = 0) -> list[Finished]:
    """Requests of five prompt tokens that were scheduled and had their first token at these times."""
    return [
        Finished(5, (7,), 0, RequestTimes(0.1, scheduled_s, first_s, last_s, preemptions))
        for scheduled_s, first_s in times_s
    ]


def test_a_prompt_took_several_steps_where_another_ended_between_its_first_step_and_its_first_token() -> None:
    first, second, third = (1.0, 1.5), (1.6, 2.0), (2.1, 2.5)
    left_over, over_three = (1.0, 2.0), (1.0, 2.5)
    assert split_prompts(finished(first, first, left_over, second, third), 100) == (2,)
    assert split_prompts(finished(first, over_three, second, (1.6, 2.5), third), 100) == (1, 3)
    assert split_prompts(finished(first, second), 100) == ()


def in_steps(*steps: str, ahead: int) -> list[Finished]:
    """Requests named by a letter, each in all the steps that it is part of: its prompt is complete in the last one.

    `ahead` steps are in flight when one is scheduled, as in vLLM's `step_with_batch_queue`.
    """
    scheduled_s = {number: float(2 * number) for number in range(len(steps))}
    ended_s = {number: 2.0 * (number + ahead) + 1 for number in range(len(steps))}  # the first waits for `ahead` others
    names = sorted(set("".join(steps)))
    took = [[number for number, step in enumerate(steps) if name in step] for name in names]
    return finished(*((scheduled_s[numbers[0]], ended_s[numbers[-1]]) for numbers in took), last_s=99.0)


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_steps_in_flight_are_not_taken_for_pieces_of_a_prompt(ahead: int) -> None:
    steps = "ab", "bc", "de", "ef", "g", "hi"
    assert split_prompts(in_steps(*steps, ahead=ahead), 100, ahead) == (1, 4)
    assert split_prompts(in_steps("ab", "cd", "ef", "gh", ahead=ahead), 100, ahead) == ()


@pytest.mark.parametrize("ahead", [1, 4])
def test_a_prompt_that_a_later_one_overtakes_took_several_steps_however_many_are_in_flight(ahead: int) -> None:
    steps = "a", "bc", "cd", "ce", "f"
    assert split_prompts(in_steps(*steps, ahead=ahead), 100, ahead) == (2,)


def test_a_step_in_which_an_output_ended_is_one_too() -> None:
    ends = finished((0.5, 1.0), last_s=3.0)
    assert split_prompts([*ends, *finished((2.5, 4.0))], 100) == (1,)
    assert split_prompts([*ends, *finished((3.5, 4.0))], 100) == ()


def test_a_prompt_that_is_longer_than_a_step_took_several_unless_it_was_cached() -> None:
    (alone,) = finished((1.0, 1.5))
    assert split_prompts([alone], 4) == (0,)
    assert split_prompts([replace(alone, cached_tokens=1)], 4) == ()


def test_prompts_of_an_engine_without_statistics_are_not_said_to_be_whole() -> None:
    assert split_prompts([*finished((1.0, 1.5)), Finished(5, (7,), 0, None)], 100) is None


def test_a_prompt_that_was_put_back_may_have_been_computed_whole_later() -> None:
    assert split_prompts([*finished((0.5, 1.0)), *finished((0.5, 6.0), preemptions=1)], 100) is None
