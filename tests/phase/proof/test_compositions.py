"""The compositions: what their names say about positions, steps, chunks and neighbours."""

from collections import Counter
from dataclasses import replace

import pytest
from msgspec.structs import replace as msgspec_replace

from bi_experiments.phase.proof.compositions import compose, composition, needed_classes
from bi_experiments.phase.proof.material import Material
from bi_experiments.phase.proof.requests import Batch, EngineLimits, Request
from bi_experiments.phase.proof.steps import StepClass
from bi_experiments.records import StepKind, TrialInput, Workload
from tests.phase.proof.fake_engine import LIMITS, TOKEN_IDS, WORKLOAD, FakeEngine, alone, material, plan


def batches(name: str, limits: EngineLimits = LIMITS, probes: int = 6, max_tokens: int = 8) -> list[Batch]:
    return list(compose(name, material(limits, probes, max_tokens)))


def lengths(batch: Batch) -> list[int]:
    return [len(request.prompt) for request in batch.requests]


def first_step(batch: Batch, limits: EngineLimits = LIMITS) -> list[int]:
    """Tokens of each request in the first step: in order, each whole while the step's tokens last."""
    left, step = limits.max_num_batched_tokens, []
    for length in [
        length for request, length in zip(batch.requests, lengths(batch), strict=True) for _ in range(request.samples)
    ]:
        step.append(min(length, left))
        left -= step[-1]
    return [tokens for tokens in step[: limits.max_num_seqs] if tokens]


def test_probes_and_neighbours_leave_room_for_their_output() -> None:
    short = replace(LIMITS, max_model_len=64)
    for name in ("batch_8", "ragged", "step_257", "chunked_prefill", "shuffled"):
        for batch in batches(name, short):
            assert all(len(request.prompt) + request.max_tokens <= 64 for request in batch.requests)


def test_a_composition_does_not_depend_on_what_ran_before_it() -> None:
    used = material()
    list(compose("shuffled", used))
    assert list(compose("ragged", used)) == batches("ragged")


@pytest.mark.parametrize("size", [2, 3, 8, 32])
@pytest.mark.parametrize("probes", [1, 2, 6])
def test_batches_have_their_size_and_probes_first_in_the_middle_and_last(size: int, probes: int) -> None:
    made = batches(f"batch_{size}", probes=probes)
    assert {len(batch.requests) for batch in made} == {size}
    places = {probed.position for batch in made for probed in batch.probed}
    assert {0, size - 1} <= places
    assert min(abs(place - (size - 1) / 2) for place in places) <= 1 + size / 10
    for probe in range(probes):
        own = {probed.position for batch in made for probed in batch.probed if probed.probe == probe}
        assert len(own) == min(size, 3)


def test_every_probe_is_at_its_stated_position_and_compared_with_itself_alone() -> None:
    prompts = material().prompts
    for name in ("batch_8", "shuffled", "ragged", "step_256", "seeded", "samples_2"):
        for batch in batches(name):
            for probed in batch.probed:
                assert batch.requests[probed.position].prompt == prompts[probed.probe]
                assert probed.reference == batch.requests[probed.position]


@pytest.mark.parametrize("name", ["batch_8", "shuffled", "ragged", "seeded", "samples_2", "prefill"])
def test_no_probe_is_left_out(name: str) -> None:
    roomy = replace(LIMITS, max_num_batched_tokens=2048)
    assert {probed.probe for batch in batches(name, roomy) for probed in batch.probed} == set(range(6))


def test_shuffled_orders_differ() -> None:
    first, second = batches("shuffled")
    assert first.requests != second.requests
    assert set(first.requests) == set(second.requests)


def test_ragged_neighbours_differ_widely_in_prompt_and_output_length() -> None:
    (batch,) = batches("ragged")
    probes = {probed.position for probed in batch.probed}
    neighbours = [request for at, request in enumerate(batch.requests) if at not in probes]
    sizes = [len(request.prompt) for request in neighbours]
    assert min(sizes) == 1
    assert max(sizes) >= 100
    assert len({request.max_tokens for request in neighbours}) > 1


@pytest.mark.parametrize("tokens", [255, 256, 257])
@pytest.mark.parametrize("max_model_len", [64, 1024])
def test_the_first_step_has_exactly_as_many_tokens_as_the_name_says(tokens: int, max_model_len: int) -> None:
    limits = replace(LIMITS, max_model_len=max_model_len)
    made = batches(f"step_{tokens}", limits)
    assert made
    for batch in made:
        assert sum(lengths(batch)) == sum(first_step(batch, limits)) == tokens
        assert len(batch.requests) <= limits.max_num_seqs
        assert batch.probed


def test_chunked_prefill_splits_the_probes_prompt() -> None:
    made = batches("chunked_prefill")
    assert made
    for batch in made:
        (probed,) = batch.probed
        assert probed.reference == batch.requests[probed.position]
        scheduled = first_step(batch)
        assert sum(scheduled) == LIMITS.max_num_batched_tokens
        assert len(scheduled) == probed.position + 1
        assert 0 < scheduled[probed.position] < len(batch.requests[probed.position].prompt)


def test_chunked_prefill_splits_a_prompt_into_pieces_longer_than_those_that_are_computed_as_if_decoding() -> None:
    roomy = replace(LIMITS, max_num_batched_tokens=4096, max_model_len=4096)
    short, long = batches("chunked_prefill", roomy)
    assert [len(each.requests[each.probed[0].position].prompt) for each in (short, long)] == [300, 2048]
    piece = first_step(long, roomy)[long.probed[0].position]
    assert min(piece, 2048 - piece) > 512


def test_a_prompt_of_each_class_of_prefill_ends_in_a_step_of_its_own() -> None:
    workload = of_lengths((10,) * 5, (200,) * 3 + (20, 300))
    limits = replace(LIMITS, max_num_batched_tokens=512)
    made = Material.drawn(plan(), workload, limits, TOKEN_IDS, alone)
    found = list(compose("last_chunk", made))
    assert made.not_made == []
    for batch in found:
        (probed,) = batch.probed
        tokens = [made.prompt_length(request) for request in batch.requests]
        assert probed.position == len(tokens) - 1
        assert sum(tokens) == 512 + min(9, tokens[-1] // 2)
        assert {request.max_tokens for request in batch.requests[:-1]} == {1}
    assert [made.prompt_length(batch.requests[-1]) > 128 for batch in found] == [False, True]


def test_a_prompt_that_no_step_takes_but_for_its_end_has_no_last_chunk() -> None:
    made = Material.drawn(plan(), of_lengths((600,)), LIMITS, TOKEN_IDS, alone)
    assert list(compose("last_chunk", made)) == []
    assert [one.what for one in made.not_made] == ["the prompts from 513 tokens on"]


def test_a_long_prompt_is_split_at_different_places() -> None:
    behind, before = batches("long_prompt")
    chunks = [first_step(batch)[batch.probed[0].position] for batch in (behind, before)]
    assert chunks[0] < chunks[1] == LIMITS.max_num_batched_tokens < len(behind.probed[0].reference.prompt)


@pytest.mark.parametrize("name", ["seeded", "samples_2", "samples_3"])
def test_seeded_prompts_are_whole_in_the_first_step(name: str) -> None:
    for batch in batches(name):
        sequences = [len(request.prompt) for request in batch.requests for _ in range(request.samples)]
        assert first_step(batch) == sequences
        sampled = [batch.requests[probed.position] for probed in batch.probed]
        assert all(request.temperature == 0.6 and request.seed is not None for request in sampled)
        assert len({request.seed for request in sampled}) == len(sampled)


@pytest.mark.parametrize("name", ["seeded", "samples_2", "step_256", "borders"])
def test_prompts_that_must_be_whole_are_no_longer_than_the_threshold_of_long_ones(name: str) -> None:
    made = material(replace(LIMITS, long_prefill_tokens=50, borders=(256,)))
    found = list(compose(name, made))
    assert found
    for batch in found:
        assert max(len(request.prompt) for request in batch.requests) <= 50
    if name != "borders":  # which takes one probe alone
        assert "long_prefill_token_threshold is 50" in made.not_made[0].why


def test_samples_have_their_number() -> None:
    probed = [batch.requests[each.position] for batch in batches("samples_3") for each in batch.probed]
    assert {request.samples for request in probed} == {3}


@pytest.mark.parametrize("probes", [1, 2, 6])
def test_no_batch_is_the_probe_alone_again(probes: int) -> None:
    names = ("batch_2", "shuffled", "ragged", "step_256", "chunked_prefill", "long_prompt", "seeded", "samples_2")
    assert all(len(batch.requests) > 1 for name in (*names, "output_512") for batch in batches(name, probes=probes))


def test_long_outputs_have_their_length() -> None:
    (batch,) = batches("output_512")
    assert {batch.requests[probed.position].max_tokens for probed in batch.probed} == {512}


def test_the_prefix_cache_is_warm_for_prompts_longer_than_a_block() -> None:
    made = batches("prefix_cache", replace(LIMITS, prefix_caching=True))
    assert made
    for batch in made:
        assert batch.primed
        assert lengths(batch)[0] > LIMITS.block_size


def test_prefill_scores_the_output_of_the_decode() -> None:
    engine = FakeEngine()
    for batch in batches("prefill"):
        (scored,) = batch.requests
        (probed,) = batch.probed
        (decoded,) = engine([probed.reference], True)[0].samples
        assert scored.prompt == (*probed.reference.prompt, *decoded.token_ids)
        assert scored.scored_from == len(probed.reference.prompt)


def test_the_needle_is_where_the_largest_trial_has_it() -> None:
    (batch,) = batches("needle")
    assert [request.prompt for request in batch.requests] == list(WORKLOAD.trials[1].prompts)
    (probed,) = batch.probed
    assert probed.position == 3
    assert probed.reference.prompt == WORKLOAD.needle


def test_workload_compares_every_prompt_of_every_trial() -> None:
    made = batches("workload")
    assert [[request.prompt for request in batch.requests] for batch in made] == [
        list(trial.prompts) for trial in WORKLOAD.trials
    ]
    assert [probed.probe for batch in made for probed in batch.probed] == list(range(7))
    assert {request.max_tokens for batch in made for request in batch.requests} == {WORKLOAD.sampling.max_tokens}


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("batch_64", LIMITS),
        ("borders", LIMITS),
        ("preempted", LIMITS),
        ("preempted", replace(LIMITS, blocks_can_be_held=True, max_num_seqs=2)),
        ("arrivals", replace(LIMITS, max_model_len=64)),
        ("drawn_3", replace(LIMITS, max_num_seqs=1)),
        ("without_logprobs", replace(LIMITS, max_num_seqs=1)),
        ("step_513", LIMITS),
        ("step_257", replace(LIMITS, max_model_len=10, max_num_seqs=4)),
        ("chunked_prefill", replace(LIMITS, max_model_len=10)),
        ("chunked_prefill", replace(LIMITS, chunked_prefill=False)),
        ("last_chunk", replace(LIMITS, chunked_prefill=False)),
        ("long_prompt", replace(LIMITS, max_model_len=512)),
        ("samples_2", replace(LIMITS, max_num_seqs=2)),
        ("output_1024", LIMITS),
        ("prefix_cache", LIMITS),
    ],
)
def test_what_the_engine_cannot_make_is_not_made_and_said(name: str, limits: EngineLimits) -> None:
    made = material(limits)
    assert list(compose(name, made)) == []
    assert made.not_made
    assert {one.composition for one in made.not_made} == {name}


@pytest.mark.parametrize(
    ("name", "limits", "said"),
    [
        (
            "arrivals",
            replace(LIMITS, max_num_batched_tokens=1024),
            ["contexts of 1024 and 2048 tokens", "the arriving"],
        ),
        ("step_257", LIMITS, ["the probe of 300 tokens"]),
        (
            "seeded",
            replace(LIMITS, max_num_batched_tokens=100),
            ["probes of 96 and 300 tokens", "the probe of 300 tokens"],
        ),
        ("output_1000", LIMITS, ["the probe of 96 tokens"]),
        ("prefix_cache", replace(LIMITS, prefix_caching=True), ["probes of 1, 3 and 10 tokens"]),
        ("borders", replace(LIMITS, borders=(8, 4096)), ["steps of 4095, 4096 and 4097 tokens"]),
    ],
)
def test_what_a_composition_does_without_is_said(name: str, limits: EngineLimits, said: list[str]) -> None:
    made = material(limits)
    assert list(compose(name, made))
    what = [one.what or "" for one in made.not_made]
    assert all(any(each.startswith(start) for each in what) for start in said)


@pytest.mark.parametrize("name", ["batch_8", "shuffled", "sizes", "ragged", "trial", "workload", "needle"])
def test_where_nothing_is_left_out_nothing_is_said(name: str) -> None:
    made = material()
    assert list(compose(name, made))
    assert made.not_made == []


@pytest.mark.parametrize("name", ["batches_8", "batch", "step_", "batch_0", "shuffled_2", "nonesuch"])
def test_unknown_names_are_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(ValueError, match=r"verify.compositions has .*chunked_prefill") as error:
        composition(name)
    assert "\n" not in str(error.value)


def test_requests_are_told_apart_by_everything_that_changes_their_output() -> None:
    request = Request((1, 2), 8)
    assert len({request, replace(request, seed=1), replace(request, max_tokens=9), replace(request, samples=2)}) == 4


# --- Controls and the workload's own steps --------------------------------------------------------------------------


def classes(batch: Batch, limits: EngineLimits = LIMITS) -> list[list[StepClass]]:
    return material(limits).step_classes(batch.requests)


def test_batch_1_is_every_probe_alone_more_than_once() -> None:
    made = batches("batch_1")
    assert all(len(batch.requests) == 1 for batch in made)
    assert sorted(probed.probe for batch in made for probed in batch.probed) == sorted([*range(6)] * 2)


def of_lengths(*lengths_of_trials: tuple[int, ...]) -> Workload:
    """Trials of texts with so many characters, each a token."""
    trials = tuple(
        TrialInput(prompts=tuple(chr(65 + at) * length for at, length in enumerate(each)), needle_position=0)
        for each in lengths_of_trials
    )
    return msgspec_replace(WORKLOAD, trials=trials)


def trial_batches(workload: Workload, limits: EngineLimits = LIMITS, trial_prompts: int = 2) -> list[Batch]:
    return list(compose("trial", Material.drawn(plan(trial_prompts=trial_prompts), workload, limits, TOKEN_IDS, alone)))


def test_trial_samples_from_every_trial_in_that_trials_batch() -> None:
    made = trial_batches(WORKLOAD)
    assert all(len(batch.probed) >= 2 for batch in made)
    assert [[request.prompt for request in batch.requests] for batch in made] == [
        list(trial.prompts) for trial in WORKLOAD.trials
    ]
    assert {request.max_tokens for batch in made for request in batch.requests} == {WORKLOAD.sampling.max_tokens}
    assert sorted(probed.draw for batch in made for probed in batch.probed if probed.draw is not None) == [0, 1, 2, 3]
    probed = [each.probe for batch in made for each in batch.probed]
    assert len(set(probed)) == len(probed)


def test_every_prompt_of_the_workload_is_as_likely_to_be_drawn_as_any_other() -> None:
    workload = of_lengths((3,) * 4, (3,) * 12)
    drawn = Counter[int]()
    for seed in range(400):
        made = Material.drawn(msgspec_replace(plan(trial_prompts=2), seed=seed), workload, LIMITS, TOKEN_IDS, alone)
        drawn.update(
            probed.probe for batch in compose("trial", made) for probed in batch.probed if probed.draw is not None
        )
    assert drawn.total() == 4 * 400
    # 100 of each on average; six standard deviations of the binomial.
    assert all(100 - 52 < drawn[prompt] < 100 + 52 for prompt in range(16))


def test_the_first_drawn_are_compared_however_long_it_takes() -> None:
    made = trial_batches(of_lengths((3,) * 9, (3,) * 30), trial_prompts=8)
    probed = [each for batch in made for each in batch.probed]
    assert {each.draw for each in probed if each.draw is not None} == set(range(16))
    assert {each.draw for each in probed if each.needed} >= set(range(4))
    assert all(sum(each.needed for each in batch.probed) >= 2 for batch in made)


def test_trial_samples_no_more_than_there_are() -> None:
    assert [len(batch.probed) for batch in trial_batches(WORKLOAD, trial_prompts=9)] == [3, 4]


def test_trial_adds_prompts_until_every_class_that_the_workload_needs_is_compared_and_does_not_count_them() -> None:
    workload = of_lengths((10,) * 20 + (200,), (20,) * 15 + (400, 100))
    made = trial_batches(workload, trial_prompts=1)
    of_trials = [classes(batch) for batch in made]
    needed = needed_classes(step for steps in of_trials for each in steps for step in each)
    compared = {
        step
        for batch, steps in zip(made, of_trials, strict=True)
        for probed in batch.probed
        for step in steps[probed.position]
    }
    assert needed <= compared
    assert sum(probed.draw is not None for batch in made for probed in batch.probed) == 2
    assert sum(len(batch.probed) for batch in made) > 2


def test_a_prompt_that_takes_several_steps_is_compared_however_few_there_are() -> None:
    limits = replace(LIMITS, max_num_batched_tokens=500, max_num_seqs=64)
    (batch,) = trial_batches(of_lengths((9,) * 60), limits, trial_prompts=1)
    steps = classes(batch, limits)
    assert [at for at, each in enumerate(steps) if each[0].split] == [55]
    assert 55 in {probed.position for probed in batch.probed if probed.needed}


@pytest.mark.parametrize("name", ["chunked_prefill", "last_chunk"])
def test_the_probes_of_split_prompts_are_in_the_class_of_those(name: str) -> None:
    made = Material.drawn(plan(), of_lengths((200,) * 3), LIMITS, TOKEN_IDS, alone)
    batches = list(compose(name, made))
    assert batches
    for batch in batches:
        (probed,) = batch.probed
        assert made.step_classes(batch.requests)[probed.position][0].split


def test_classes_with_less_than_a_hundredth_of_the_tokens_are_not_needed() -> None:
    often = StepClass(StepKind.DECODE, 1, 9, padded=False)
    seldom = StepClass(StepKind.DECODE, 129, 9, padded=False)
    prefill = StepClass(StepKind.PREFILL, 1025, 0, padded=False)
    assert needed_classes([often] * 200 + [seldom]) == {often}
    assert needed_classes([often] * 99 + [seldom]) == {often, seldom}
    assert needed_classes([often] * 999 + [prefill]) == {often, prefill}


def test_the_probes_of_arrivals_decode_while_a_prompt_of_each_length_that_fits_is_processed() -> None:
    roomy = replace(LIMITS, max_num_batched_tokens=1024, max_model_len=2048)
    made = batches("arrivals", roomy)
    assert {len(batch.requests[-1].prompt) for batch in made} == {9, 10, 33, 300}
    contexts = set()
    for batch in made:
        steps = classes(batch, roomy)
        for probed in batch.probed:
            assert steps[probed.position][0].kind is StepKind.PREFILL
            assert steps[probed.position][1].kind is StepKind.BESIDE_PREFILL
            contexts.add(len(batch.requests[probed.position].prompt))
        assert batch.requests[-1].prompt not in {probed.reference.prompt for probed in batch.probed}
    assert contexts == {129, 512, 1024}


@pytest.mark.parametrize("sequences", [2, 8, 32])
def test_sizes_has_every_number_of_sequences_that_decode_together(sequences: int) -> None:
    limits = replace(LIMITS, max_num_seqs=sequences)
    made = batches("sizes", limits)
    decoding = set()
    for batch in made:
        assert sum(lengths(batch)) <= limits.max_num_batched_tokens
        longest = max(request.max_tokens for request in batch.requests)
        for token in range(1, longest):
            decoding.add(sum(request.max_tokens > token for request in batch.requests))
        assert any(batch.requests[probed.position].max_tokens == longest for probed in batch.probed)
    assert decoding == set(range(1, sequences + 1))


def test_sizes_of_more_sequences_than_steps_take_several_batches() -> None:
    limits = replace(LIMITS, max_num_seqs=300, max_num_batched_tokens=4096)
    made = batches("sizes", limits)
    assert len(made) > 1
    decoding = {
        sum(request.max_tokens > token for request in batch.requests)
        for batch in made
        for token in range(1, max(request.max_tokens for request in batch.requests))
    }
    assert decoding == set(range(1, 301))


def test_drawn_sizes_lie_between_two_and_the_largest_and_are_the_same_in_every_launch() -> None:
    made = batches("drawn_5")
    assert len(made) == 5
    assert len({len(batch.requests) for batch in made}) > 1
    assert all(2 <= len(batch.requests) <= LIMITS.max_num_seqs and batch.probed for batch in made)
    assert made == batches("drawn_5")


def test_borders_are_met_exactly_and_one_token_around_each() -> None:
    made = batches("borders", replace(LIMITS, borders=(16, 64, 512)))
    assert [sum(first_step(batch)) for batch in made] == [15, 16, 17, 63, 64, 65, 511, 512]
    assert all(sum(lengths(batch)) == sum(first_step(batch)) and len(batch.probed) == 1 for batch in made)


def test_preempted_has_fewer_blocks_than_its_sequences_come_to_need() -> None:
    (batch,) = batches("preempted", replace(LIMITS, blocks_can_be_held=True))
    block = LIMITS.block_size
    at_first = sum(-(-len(request.prompt) // block) for request in batch.requests)
    in_the_end = sum(-(-(len(request.prompt) + request.max_tokens - 1) // block) for request in batch.requests)
    assert batch.kv_blocks is not None
    assert at_first <= batch.kv_blocks < in_the_end
    assert len(batch.probed) == len(batch.requests)


def test_without_logprobs_asks_nobody_for_any() -> None:
    made = batches("without_logprobs")
    assert not any(request.logprobs for batch in made for request in batch.requests)
    assert {probed.probe for batch in made for probed in batch.probed} == set(range(6))
    assert all(not probed.reference.logprobs for batch in made for probed in batch.probed)


def test_prompt_logprobs_scores_the_prompts_of_the_probes() -> None:
    made = batches("prompt_logprobs")
    assert {probed.probe for batch in made for probed in batch.probed} == set(range(6))
    for batch in made:
        scored = {at for at, request in enumerate(batch.requests) if request.score_prompt}
        assert scored == {probed.position for probed in batch.probed}
        assert len(batch.requests) == 8


@pytest.mark.parametrize("name", ["needle", "shuffled", "ragged", "chunked_prefill", "seeded", "trial"])
def test_an_engine_of_one_sequence_has_no_batches(name: str) -> None:
    made = material(replace(LIMITS, max_num_seqs=1))
    assert list(compose(name, made)) == []
    assert [one.why for one in made.not_made] == ["max_num_seqs is 1"]
    assert list(compose("batch_1", made))


def test_the_threshold_of_long_prompts_is_said_where_it_keeps_a_prompt_from_being_split() -> None:
    limits = replace(LIMITS, long_prefill_tokens=100)
    made = Material.drawn(plan(), of_lengths((200,) * 3), limits, TOKEN_IDS, alone)
    assert list(compose("last_chunk", made)) == []
    assert "long_prefill_token_threshold is 100" in made.not_made[0].why
