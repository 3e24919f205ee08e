"""What the compositions are made of."""

import pytest

from bi_experiments.phase.proof.material import named, probe_lengths
from tests.phase.proof.fake_engine import TOKEN_IDS, material


def test_probes_have_ragged_lengths_from_one_token_to_several_hundred() -> None:
    assert probe_lengths(6, 400) == [1, 3, 11, 36, 121, 400]
    assert probe_lengths(1, 400) == [400]


def test_prompts_hold_only_the_given_ids_and_are_the_same_in_every_launch() -> None:
    first, second = material(), material()
    assert first.prompts == second.prompts
    assert {token for prompt in first.prompts for token in prompt} <= set(TOKEN_IDS)


def test_an_output_that_fills_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"verify.max_tokens=1024 leaves no room .* set verify.max_tokens=512"):
        material(max_tokens=1024)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([300], "the probe of 300 tokens"),
        ([1, 300], "probes of 1 and 300 tokens"),
        ([1, 2, 3, 4, 5, 6, 7], "probes of 1, 2, ... and 7 tokens"),
    ],
)
def test_things_are_named_by_their_tokens(tokens: list[int], words: str) -> None:
    assert named("probe", tokens) == words
