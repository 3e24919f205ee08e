"""The steps that output tokens come from, by the first-come-first-served rule."""

from dataclasses import replace

import pytest

from bi_experiments.phase.proof.requests import EngineLimits
from bi_experiments.phase.proof.steps import (
    CONTEXTS,
    SEQUENCES,
    StepClass,
    StepTokens,
    counted,
    lower_end,
    schedule,
    share_by_rule,
    upper_end,
)
from bi_experiments.records import StepKind

LIMITS = EngineLimits(
    max_num_batched_tokens=100, max_num_seqs=4, max_model_len=1024, prefix_caching=False, block_size=16
)


def kinds(sequences: list[tuple[int, int]], limits: EngineLimits = LIMITS) -> list[list[StepKind]]:
    return [[step.kind for step in steps] for steps in schedule(sequences, limits)]


def test_every_output_token_has_a_step_and_the_first_comes_from_the_prefill() -> None:
    made = schedule([(10, 3), (20, 1)], LIMITS)
    assert [len(steps) for steps in made] == [3, 1]
    assert made[0] == [
        StepClass(StepKind.PREFILL, 1, 0, padded=False),
        StepClass(StepKind.DECODE, 1, 1, padded=False),
        StepClass(StepKind.DECODE, 1, 1, padded=False),
    ]


def test_a_prompt_that_does_not_fit_the_step_is_processed_beside_the_decodes_of_the_others() -> None:
    assert kinds([(60, 4), (139, 1)]) == [
        [StepKind.PREFILL, StepKind.BESIDE_PREFILL, StepKind.DECODE, StepKind.DECODE],
        [StepKind.PREFILL],
    ]


def test_with_chunked_prefill_off_a_prompt_waits_for_a_step_that_it_fits_and_those_behind_it_too() -> None:
    whole = replace(LIMITS, chunked_prefill=False)
    made = schedule([(60, 3), (99, 1), (1, 1), (100, 1)], whole)
    assert [[step.kind for step in steps] for steps in made] == [
        [StepKind.PREFILL, StepKind.BESIDE_PREFILL, StepKind.BESIDE_PREFILL],
        [StepKind.PREFILL],
        [StepKind.PREFILL],
        [StepKind.PREFILL],
    ]
    assert not any(step.split for steps in made for step in steps)


def test_a_long_prompt_beside_others_is_split_where_the_engine_takes_fewer_tokens_of_one() -> None:
    limits = replace(LIMITS, long_prefill_tokens=25)
    both, one = schedule([(60, 2), (60, 2)], limits), schedule([(60, 2)], limits)
    assert [[step.split for step in steps] for steps in both] == [[True, False], [True, False]]
    assert [step.kind for step in both[0]] == [StepKind.PREFILL, StepKind.DECODE]
    assert not one[0][0].split


def test_a_prompt_that_took_several_steps_has_a_class_of_its_own() -> None:
    made = schedule([(60, 2), (139, 2)], LIMITS)
    assert [[(step.kind, step.split) for step in steps] for steps in made] == [
        [(StepKind.PREFILL, False), (StepKind.BESIDE_PREFILL, False)],
        [(StepKind.PREFILL, True), (StepKind.DECODE, False)],
    ]
    assert [one.split for one in counted(None, [made[0][0], made[1][0]])] == [False, True]


def test_a_sequence_that_a_step_has_no_room_for_waits_until_another_leaves() -> None:
    assert kinds([(1, 3), (1, 2), (1, 2), (1, 2), (1, 1)])[0] == [
        StepKind.PREFILL,
        StepKind.DECODE,
        StepKind.BESIDE_PREFILL,
    ]


def test_classes_of_contexts_and_sequences_begin_at_their_lower_ends() -> None:
    roomy = replace(LIMITS, max_num_batched_tokens=4096, max_num_seqs=64)
    made = schedule([(512, 3), *[(1, 3)] * 8], roomy)
    assert [(step.context, step.sequences) for step in made[0]] == [(129, 0), (513, 9), (513, 9)]


@pytest.mark.parametrize(("tokens", "padded"), [(3, True), (4, False), (8, False), (9, False)])
def test_a_step_smaller_than_its_graph_is_padded(tokens: int, padded: bool) -> None:
    limits = replace(LIMITS, graph_sizes=frozenset({4, 8}))
    (steps,) = schedule([(tokens, 1)], limits)
    assert steps[0].padded is padded


def test_without_graphs_nothing_is_padded() -> None:
    assert not any(step.padded for steps in schedule([(3, 4)], LIMITS) for step in steps)


@pytest.mark.parametrize("ends", [CONTEXTS, SEQUENCES])
def test_classes_follow_each_other_without_a_gap(ends: tuple[int, ...]) -> None:
    for value in range(1, 3000):
        low = lower_end(value, ends)
        below = upper_end(low, ends)
        assert low <= value
        assert below is None or value < below


def test_tokens_are_counted_by_class() -> None:
    counts = counted("ragged", [step for steps in schedule([(10, 3), (20, 1)], LIMITS) for step in steps])
    assert [(one.composition, one.kind, one.tokens) for one in counts] == [
        ("ragged", StepKind.PREFILL, 2),
        ("ragged", StepKind.DECODE, 2),
    ]


@pytest.mark.parametrize(
    ("steps", "share"),
    [
        ([(3, 0), (0, 3), (0, 3), (0, 1)], 1.0),
        ([(1, 0), (2, 1), (0, 3), (0, 2)], 0.8),  # the engine started before all were queued
        ([], 0.0),
    ],
)
def test_what_the_engine_counted_is_held_against_the_rule(steps: list[tuple[int, int]], share: float) -> None:
    sequences = [(10, 4), (10, 3), (10, 3)]
    counted_steps = [StepTokens(*each) for each in steps]
    assert share_by_rule(sequences, LIMITS, counted_steps) == pytest.approx(share)
