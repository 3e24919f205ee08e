"""Any bit in which two outputs differ is found, where it is."""

import math

import pytest

from bi_experiments.phase.proof.bits import (
    comparable_tokens,
    differences,
    digest,
    first_difference,
    largest_logprob_difference,
)
from bi_experiments.phase.proof.requests import Sample
from tests.phase.proof.fake_engine import SAMPLE, with_next_bits, with_other_token


def test_the_digest_changes_with_any_bit() -> None:
    changed = [with_next_bits(SAMPLE, token, rank) for token in range(3) for rank in range(2)]
    changed += [with_other_token(SAMPLE, 2), Sample(SAMPLE.token_ids[:2], SAMPLE.logprobs[:2])]
    swapped = (SAMPLE.logprobs[0][1], SAMPLE.logprobs[0][0])
    changed.append(Sample(SAMPLE.token_ids, (swapped, *SAMPLE.logprobs[1:])))
    assert len({digest(SAMPLE), *map(digest, changed)}) == 1 + len(changed)
    assert digest(SAMPLE) == digest(Sample(SAMPLE.token_ids, SAMPLE.logprobs))


def test_minus_zero_is_not_zero() -> None:
    zero, minus_zero = (Sample((1,), (((1, value),),)) for value in (0.0, -0.0))
    assert first_difference(zero, minus_zero) == 0


def test_a_shorter_output_differs_where_it_ends() -> None:
    assert first_difference(SAMPLE, Sample(SAMPLE.token_ids[:2], SAMPLE.logprobs[:2])) == 2


def test_a_difference_that_is_no_number_counts_as_the_largest() -> None:
    broken = Sample((1,), (((1, math.nan),),))
    difference = largest_logprob_difference(Sample((1,), (((1, -1.0),),)), broken)
    assert math.isfinite(difference)
    assert difference > 1e300
    assert largest_logprob_difference(broken, broken) == 0.0


@pytest.mark.parametrize("tokens", [(7, 8, 9), (7, 8), (7, 1, 9), (1, 8, 9), (7, 8, 9, 10)])
def test_what_differs_is_comparable(tokens: tuple[int, ...]) -> None:
    other = Sample(tokens, (*SAMPLE.logprobs, SAMPLE.logprobs[0])[: len(tokens)])
    assert set(differences(SAMPLE, other)) <= set(comparable_tokens(SAMPLE, other))
    first = first_difference(SAMPLE, other)
    assert len(comparable_tokens(SAMPLE, other)) == (3 if first is None else first + 1)
