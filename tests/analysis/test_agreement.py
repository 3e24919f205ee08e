"""Whether two sets of launches compute the same: arms, and experiments."""

from collections.abc import Sequence
from math import log

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.agreement import (
    Alike,
    AloneDigest,
    alone_digest,
    compare_arms,
    outputs_agree,
    outputs_alike,
    outputs_in_common,
)
from bi_experiments.analysis.comparison import compare_experiment
from bi_experiments.records import AloneOutput, Arm, ArmAgreement, ExperimentResult, PhaseResult, ProbeResult
from tests import factories

Entries = tuple[tuple[int, float], ...]
HALF: Entries = ((7, log(0.5)), (8, log(0.25)))


def alone(*positions: Entries, probe: int = 0) -> AloneOutput:
    return AloneOutput(probe=probe, token_ids=tuple(entries[0][0] for entries in positions), logprobs=positions)


def probe(composition: str, digest: str, difference: float = 0.0) -> ProbeResult:
    return ProbeResult(
        probe=0,
        composition=composition,
        batch=0,
        position=0,
        equal=not difference,
        first_difference=0 if difference else None,
        tokens_equal=True,
        largest_logprob_difference=difference,
        digest=digest,
    )


def agreement(
    baseline: AloneOutput,
    other: AloneOutput,
    dtype: str = "float32",
    between_batches: float = 0.0,
    composition: str = "batch_8",
) -> ArmAgreement:
    itself = (probe(composition, "a", between_batches),)
    observed = factories.observed(dtype=dtype)
    found = compare_arms(
        [
            factories.phase(Arm.BASELINE, alone=(baseline,), observed=observed, probes=itself),
            factories.phase(Arm.BATCH_INVARIANT, alone=(other,), observed=observed),
        ]
    )
    assert found is not None
    return found


def test_equal_outputs_are_no_distance_apart() -> None:
    found = agreement(alone(HALF, HALF), alone(HALF, HALF))
    assert (found.largest_logprob_difference, found.kl_mean, found.kl_largest) == (0.0, 0.0, 0.0)
    assert (found.tokens, found.tokens_equal_pct, found.explained) == (2, 100.0, True)


def test_the_divergence_is_over_the_returned_tokens_and_the_rest() -> None:
    other = ((7, log(0.25)), (8, log(0.25)))
    found = agreement(alone(HALF), alone(other))
    assert found.kl_mean == pytest.approx(0.5 * log(2) + 0.25 * log(0.25 / 0.5))
    assert found.largest_logprob_difference == pytest.approx(log(2))


def test_tokens_after_the_first_other_one_have_another_context_and_do_not_count() -> None:
    swapped = ((8, log(0.5)), (7, log(0.25)))
    far = ((7, -90.0),)
    found = agreement(alone(HALF, HALF, HALF, HALF), alone(HALF, swapped, far, far))
    assert found.tokens == 2
    assert found.tokens_equal_pct == 25.0
    assert found.largest_logprob_difference == pytest.approx(log(2))


@pytest.mark.parametrize(
    ("dtype", "apart", "between_batches", "explained"),
    [
        ("float32", 1e-3, 0.0, False),  # TF32 in one arm alone
        ("float32", 1e-3, 2e-6, False),
        ("float32", 1e-5, 2e-6, True),
        ("bfloat16", 0.1, 0.05, True),
        ("bfloat16", 2.0, 0.05, False),
        ("bfloat16", 0.8, 0.3, True),
        ("bfloat16", 2.0, 0.3, False),
    ],
)
def test_rounding_explains_what_the_baseline_differs_from_itself_by_and_little_more(
    dtype: str, apart: float, between_batches: float, explained: bool
) -> None:
    other = tuple((token, logprob - apart) for token, logprob in HALF)
    assert agreement(alone(HALF), alone(other), dtype, between_batches).explained is explained


def test_what_decode_and_prefill_differ_by_is_not_between_batches() -> None:
    assert agreement(alone(HALF), alone(HALF), between_batches=0.5).between_batches == 0.5
    assert agreement(alone(HALF), alone(HALF), between_batches=0.5, composition="prefill").between_batches == 0.0


def test_without_probes_alone_there_is_nothing_to_say() -> None:
    assert compare_arms(factories.phases([7.0])) is None
    assert compare_arms([factories.phase(Arm.BASELINE, alone=(alone(HALF),))]) is None


def arms_apart(apart: float) -> list[PhaseResult]:
    """An experiment in which the mode is faster, its outputs that far from the baseline's."""
    outputs = {
        Arm.BASELINE: (alone(HALF),),
        Arm.BATCH_INVARIANT: (alone(tuple((token, logprob - apart) for token, logprob in HALF)),),
    }
    return [replace(phase, alone=outputs[phase.arm]) for phase in factories.phases([-30.0, -31.0, -30.5])]


@pytest.mark.parametrize(("apart", "saves"), [(0.0, True), (5.0, False)])
def test_arms_that_do_not_compute_the_same_save_nothing(apart: float, saves: bool) -> None:
    comparison = compare_experiment(arms_apart(apart), factories.protocol(), 3, 2)
    assert comparison is not None
    assert ("saves" in comparison.sentence) is saves
    assert ("do not compute the same" in comparison.sentence) is not saves


def test_arms_that_nobody_compared_are_not_said_to_save() -> None:
    comparison = compare_experiment(factories.phases([-44.0, -45.0, -44.5]), factories.protocol(), 3, 2)
    assert comparison is not None
    assert comparison.sentence.endswith("; whether both arms compute the same was not checked.")


# --- Between experiments --------------------------------------------------------------------------------------------


def experiment(probes: Sequence[ProbeResult], **changes: object) -> ExperimentResult:
    phases = (factories.phase(Arm.BASELINE), factories.phase(Arm.BATCH_INVARIANT, probes=tuple(probes)))
    return factories.experiment_result(phases, **changes)


def test_outputs_of_two_experiments_are_compared_by_their_digests() -> None:
    first = experiment([probe("batch_1", "a"), probe("batch_8", "b"), probe("ragged", "c")])
    second = experiment([probe("batch_1", "a"), probe("batch_8", "other"), probe("seeded", "d")])
    assert outputs_in_common(first, second) == (1, 2)
    assert (
        outputs_agree([first], [second])
        == "Of 2 probe outputs of the second arm that A and B share, 1 is not the same to the bit."
    )
    assert (
        outputs_agree([first], [first])
        == "All 3 probe outputs of the second arm that A and B share are the same to the bit."
    )


def test_every_experiment_of_a_is_compared_with_every_one_of_b() -> None:
    same = experiment([probe("batch_1", "a")])
    other = experiment([probe("batch_1", "b")])
    assert outputs_agree([same], [same, other]) == (
        "Of 2 probe outputs of the second arm that A and B share, over 2 pairs of experiments, "
        "1 is not the same to the bit."
    )
    assert outputs_agree([same, same], [same]) == (
        "All 2 probe outputs of the second arm that A and B share, over 2 pairs of experiments, "
        "are the same to the bit."
    )


def test_prompts_of_other_workloads_are_not_compared() -> None:
    first, second = (experiment([probe("trial", digest)], workload_digest=digest * 64) for digest in "ab")
    assert outputs_in_common(first, second) == (0, 0)
    assert outputs_agree([first], [second]) is None


def test_other_probes_are_not_compared() -> None:
    first = experiment([probe("batch_1", "a")])
    second = replace(first, configuration={**first.configuration, "verify": {"max_tokens": 9}})
    assert outputs_agree([first], [second]) is None


def test_outputs_of_other_requests_are_not_compared_though_their_place_is_the_same() -> None:
    """What a composition asks may depend on the engine, of which its name says nothing."""
    first, second = (
        experiment([replace(probe("batch_1", "a"), request="x"), replace(probe("long_prompt", digest), request=asked)])
        for digest, asked in (("b", "y"), ("c", "z"))
    )
    assert outputs_in_common(first, second) == (1, 1)
    assert outputs_in_common(first, first) == (2, 2)
    old = experiment([probe("batch_1", "a")])
    assert outputs_in_common(first, old) == (0, 0)
    ones = [alone_digest(experiment([replace(probe("batch_1", "a"), request=asked)])) for asked in "xy"]
    assert ones[0] is not None
    assert ones[1] is not None
    assert ones[0].probed != ones[1].probed


def test_one_word_for_the_outputs_alone() -> None:
    one, same, other = (
        alone_digest(experiment([probe("batch_1", digest), probe("batch_8", extra)]))
        for digest, extra in (("a", "x"), ("a", "y"), ("b", "x"))
    )
    assert one == same
    assert one is not None
    assert other is not None
    assert one.probed == other.probed
    assert one.digest != other.digest
    assert alone_digest(experiment([probe("batch_8", "x")])) is None


def test_outputs_that_differ_between_launches_agree_with_no_other_experiment() -> None:
    def launched(*digests: str, started_at: float = 1.0) -> ExperimentResult:
        phases = [
            factories.phase(Arm.BATCH_INVARIANT, pair, probes=(probe("batch_1", digest), probe("seeded", "same")))
            for pair, digest in enumerate(digests)
        ]
        return factories.experiment_result(phases, started_at=started_at)

    one, same, apart, also = launched("a"), launched("a", "a"), launched("a", "b"), launched("b", "a", started_at=2.0)
    assert alone_digest(one) == alone_digest(same)
    assert outputs_in_common(one, same) == outputs_in_common(apart, apart) == (2, 2)
    assert outputs_in_common(one, apart) == outputs_in_common(apart, also) == (1, 2)
    named = [(name, alone_digest(result)) for name, result in (("one", one), ("apart", apart), ("also", also))]
    (alike,) = outputs_alike([(name, found) for name, found in named if found is not None])
    assert alike.sentence == "Outputs differ: probes alone gave other bits, 3 kinds of them: one; apart; also."


def test_experiments_with_the_same_outputs_are_named_together() -> None:
    def alike(*digests: str) -> list[Alike]:
        return outputs_alike([(f"tp={2**at}", AloneDigest("probes", digest)) for at, digest in enumerate(digests)])

    assert alike("a") == []
    assert [one.agree for one in alike("a", "a", "a")] == [True]
    (differ,) = alike("a", "b", "a", "a", "a", "a")
    assert not differ.agree
    assert differ.sentence.endswith("2 kinds of them: tp=1, tp=4, tp=8, tp=16 and 1 more; tp=2.")
    assert outputs_alike([("one", AloneDigest("p", "a")), ("two", AloneDigest("q", "b"))]) == []
