"""What the localiser makes of what it was told: pure functions, no engine."""

from dataclasses import replace as replaced
from typing import Any

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from bi_experiments.phase.proof.localiser import first_of, output_token, plain
from bi_experiments.phase.proof.requests import Request
from bi_experiments.records import ModuleDifference
from tests.analysis.test_location import LINEAR

EQUAL = replace(LINEAR, differing=0, module="model.norm")
BEHIND = replace(LINEAR, inputs_equal=False, module="model.layers.9")


def on(rank: int, *modules: ModuleDifference) -> list[ModuleDifference]:
    return [replace(one, rank=rank) for one in modules]


def test_a_stage_of_the_pipeline_is_before_the_next_wherever_its_module_stands() -> None:
    layers = [*on(0, *[EQUAL] * 30, LINEAR), *on(1, BEHIND, BEHIND)]
    assert first_of(layers, ranks_a_stage=1) == replace(LINEAR, rank=0)


def test_of_the_ranks_of_a_stage_the_first_place_is_named() -> None:
    stage = [*on(0, EQUAL, EQUAL, BEHIND), *on(1, EQUAL, LINEAR, BEHIND)]
    assert first_of([*stage, *on(2, BEHIND), *on(3, BEHIND)], ranks_a_stage=2) == replace(LINEAR, rank=1)
    assert first_of(on(0, EQUAL), ranks_a_stage=2) is None


def test_a_scored_prompt_is_read_in_the_steps_of_the_first_output_token() -> None:
    scored = Request(prompt=(1, 2, 3), max_tokens=2, score_prompt=True)
    assert [output_token(first, scored) for first in (0, 1, 2, 3)] == [0, 0, 0, 1]
    assert output_token(1, replaced(scored, score_prompt=False)) == 1


@pytest.mark.parametrize("asked", [{"score_prompt": True}, {"logprobs": False}, {"samples": 3, "seed": 1}])
def test_a_request_is_recorded_with_all_that_it_asks_for(asked: dict[str, Any]) -> None:
    request = replaced(Request(prompt=(1, 2, 3), max_tokens=2), **asked)
    assert Request(**to_builtins(plain(request)) | {"prompt": request.prompt}) == request
