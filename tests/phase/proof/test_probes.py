"""Running probes, on a generator that a test can sabotage."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bi_experiments.analysis.verdict_sentences import place
from bi_experiments.phase import engine
from bi_experiments.phase.proof.probes import (
    RAW_LOGPROBS,
    on_engine,
    run_compositions,
    run_probes,
)
from bi_experiments.phase.proof.requests import EngineLimits, Output, Request, Sample
from bi_experiments.records import (
    TIMED,
    Fault,
    ProbeDone,
    ProbePlan,
    ProbeResult,
    Sampling,
    StepKind,
    event_from_line,
    event_to_line,
)
from tests.phase.proof.fake_engine import (
    LIMITS,
    SAMPLE,
    TOKEN_IDS,
    WORKLOAD,
    FakeEngine,
    plan,
    with_next_bits,
    with_other_token,
)

STANDARD = (
    "needle", "batch_2", "batch_8", "batch_32", "shuffled", "ragged", "step_255", "step_256", "step_257",
    "chunked_prefill", "long_prompt", "seeded", "samples_2",
)  # fmt: skip


def run(
    engine: FakeEngine, probe_plan: ProbePlan, limits: EngineLimits = LIMITS, keep_folder: Path | None = None
) -> list[ProbeResult]:
    events: list[ProbeDone] = []
    run_compositions(engine, probe_plan, WORKLOAD, limits, TOKEN_IDS, events.append, keep_folder)
    return [result for event in events for result in event.results]


def test_nothing_differs_on_an_invariant_engine() -> None:
    results = run(FakeEngine(), plan(*STANDARD, "prefill", "workload", "output_512"))
    assert {result.composition for result in results} == {*STANDARD, "prefill", "workload", "output_512"}
    for result in results:
        assert result.equal
        assert result.tokens_equal
        assert result.first_difference is None
        assert result.largest_logprob_difference == 0.0


def test_every_output_of_a_launch_is_told_apart() -> None:
    results = run(FakeEngine(), plan(*STANDARD))
    keys = [(one.composition, one.batch, one.position, one.probe, one.sample) for one in results]
    assert len(set(keys)) == len(keys)


def test_outputs_at_the_same_place_that_answer_other_requests_say_so() -> None:
    """A composition of one name may ask another engine for something else."""
    smaller = replace(LIMITS, max_num_batched_tokens=LIMITS.max_num_batched_tokens // 2)
    one, two = (
        {
            (result.composition, result.batch, result.position, result.probe, result.sample): result
            for result in run(FakeEngine(), plan(*STANDARD), limits)
        }
        for limits in (LIMITS, smaller)
    )
    both = [(one[key], two[key]) for key in one.keys() & two.keys()]
    asked_alike = [left.request == right.request for left, right in both]
    assert any(asked_alike)
    assert not all(asked_alike)
    assert all((left.request == right.request) is (left.digest == right.digest) for left, right in both)


def test_samples_are_compared_one_by_one() -> None:
    clean = FakeEngine()
    run(clean, plan("samples_2", probes=2))
    alone = [requests[0] for requests, _ in clean.batches if len(requests) == 1]
    second_samples = {clean([request], True)[0].samples[1] for request in alone}

    def second_sample_differs(requests: Sequence[Request], _: int, sample: Sample) -> Sample:
        return with_next_bits(sample, 2) if len(requests) > 1 and sample in second_samples else sample

    results = run(FakeEngine(second_sample_differs), plan("samples_2", probes=2))
    assert {(one.sample, one.first_difference) for one in results} == {(0, None), (1, 2)}


def test_the_steps_that_the_batches_were_made_for_are_passed_on() -> None:
    limits = replace(LIMITS, graph_sizes=frozenset({16, 8}), borders=(8, 16, 64))
    events: list[ProbeDone] = []
    run_compositions(FakeEngine(), plan("batch_1", "borders"), WORKLOAD, limits, TOKEN_IDS, events.append, None)
    assert {(event.graph_sizes, event.borders) for event in events} == {((8, 16), (8, 16, 64))}


def test_a_shorter_output_alone_is_the_beginning_of_a_longer_one() -> None:
    clean = FakeEngine()
    run(clean, plan("batch_8", "step_256", "without_logprobs", max_tokens=24))
    alone = [requests[0] for requests, _ in clean.batches if len(requests) == 1]
    # Without logprobs they run again: asking for some may change the tokens.
    assert [request.max_tokens for request in alone] == [24] * 6 + [16] * 6

    def last_token(requests: Sequence[Request], _: int, sample: Sample) -> Sample:
        return with_next_bits(sample, 15) if len(requests) > 1 else sample

    results = run(FakeEngine(last_token), plan("batch_8", "step_256", max_tokens=24))
    assert {(one.composition, one.first_difference) for one in results} == {("batch_8", 15), ("step_256", 15)}


def test_references_are_run_alone_and_once() -> None:
    engine = FakeEngine()
    run(engine, plan("batch_8", "shuffled", "step_256"))
    alone = [requests[0] for requests, _ in engine.batches if len(requests) == 1]
    assert len(alone) == len(set(alone)) == 6


@pytest.mark.parametrize("token", [0, 3, 7])
def test_a_single_bit_is_found_where_it_is_with_equal_tokens(token: int) -> None:
    def last_position(requests: Sequence[Request], at: int, sample: Sample) -> Sample:
        return with_next_bits(sample, token, rank=4) if len(requests) > 1 and at == len(requests) - 1 else sample

    results = run(FakeEngine(last_position), plan("batch_8"))
    differing = [one for one in results if not one.equal]
    assert {one.position for one in differing} == {7}
    assert {one.position for one in results if one.equal} == {0, 1, 2, 4, 5}
    for one in differing:
        assert one.first_difference == token
        assert one.tokens_equal
        assert 0 < one.largest_logprob_difference < 1e-5


def test_a_kernel_that_depends_on_the_batch_only_above_256_tokens_is_found_there_alone() -> None:
    def above_256(requests: Sequence[Request], _: int, sample: Sample) -> Sample:
        return with_next_bits(sample, 5) if sum(len(each.prompt) for each in requests) == 257 else sample

    results = run(FakeEngine(above_256), plan("step_255", "step_256", "step_257"))
    assert {one.composition for one in results if not one.equal} == {"step_257"}
    assert all(not one.equal and one.first_difference == 5 for one in results if one.composition == "step_257")


def test_logprobs_after_the_first_other_token_do_not_count() -> None:
    def other_token(requests: Sequence[Request], _: int, sample: Sample) -> Sample:
        return with_other_token(with_next_bits(sample, 2), 4) if len(requests) > 1 else sample

    for one in run(FakeEngine(other_token), plan("shuffled")):
        assert not one.tokens_equal
        assert one.first_difference == 2
        assert one.largest_logprob_difference < 1e-5


def test_prefill_is_compared_with_the_decode() -> None:
    def prefill_differs(requests: Sequence[Request], _: int, sample: Sample) -> Sample:
        return with_next_bits(sample, 1) if requests[0].scored_from is not None else sample

    assert all(one.first_difference == 1 for one in run(FakeEngine(prefill_differs), plan("prefill")))


def test_hot_prefixes_are_compared_with_cold_ones_and_only_where_the_cache_was_used() -> None:
    limits = EngineLimits(512, 32, 1024, prefix_caching=True, block_size=16)
    engine = FakeEngine(cached_tokens=16)
    assert run(engine, plan("prefix_cache"), limits)
    hot = [requests for requests, empty_cache in engine.batches if not empty_cache]
    assert hot
    for requests in hot:
        before = engine.batches.index((requests, False)) - 1
        assert engine.batches[before] == (requests, True)
    assert run(FakeEngine(cached_tokens=0), plan("prefix_cache"), limits) == []


def test_prompts_found_in_the_prefix_cache_are_in_none_of_the_ledgers_steps() -> None:
    events: list[ProbeDone] = []
    limits = replace(LIMITS, prefix_caching=True)
    run_compositions(
        FakeEngine(cached_tokens=16), plan("prefix_cache"), WORKLOAD, limits, TOKEN_IDS, events.append, None
    )
    (event,) = events
    assert event.results
    assert {one.composition for one in event.steps} == {None}


def test_results_come_by_composition_and_survive_the_pipe() -> None:
    events: list[ProbeDone] = []
    run_compositions(FakeEngine(), plan("batch_2", "ragged"), WORKLOAD, LIMITS, TOKEN_IDS, events.append, None)
    assert [{one.composition for one in event.results} for event in events] == [{"batch_2"}, {"ragged"}]
    assert [event_from_line(event_to_line(event)) for event in events] == events


def test_an_impossible_composition_gives_no_result() -> None:
    assert run(FakeEngine(), plan("batch_64")) == []


def test_an_unknown_composition_is_refused_before_anything_runs() -> None:
    engine = FakeEngine()
    with pytest.raises(ValueError, match="nonesuch"):
        run(engine, plan("batch_8", "nonesuch"))
    assert engine.batches == []


def test_raw_logprobs_are_kept_only_when_asked_for(tmp_path: Path) -> None:
    run(FakeEngine(), plan("batch_2", probes=2), keep_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    results = run(FakeEngine(), plan("batch_2", probes=2, keep=True), keep_folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / RAW_LOGPROBS).read_text().splitlines()]
    assert len(lines) == len(results)
    assert lines[0]["alone"] == lines[0]["in_batch"]
    assert len(lines[0]["alone"][0]["logprobs"]) == 8


# --- Faults, repeats, the negative control, what the ledger is made of ----------------------------------------------


def with_logprob(sample: Sample, value: float) -> Sample:
    """The sample with that value as its last logprob."""
    last = (*sample.logprobs[-1][:-1], (sample.logprobs[-1][-1][0], value))
    return Sample(sample.token_ids, (*sample.logprobs[:-1], last))


@pytest.mark.parametrize(("value", "fault"), [(math.nan, Fault.NAN), (-math.inf, Fault.INFINITE)])
def test_output_that_is_no_number_is_a_fault_though_it_is_the_same_alone_and_in_the_batch(
    value: float, fault: Fault
) -> None:
    results = run(FakeEngine(lambda _, __, sample: with_logprob(sample, value)), plan("batch_8"))
    assert all(one.equal and one.fault is fault for one in results)


def test_the_same_logprobs_at_every_position_are_a_fault() -> None:
    def constant(_: Sequence[Request], __: int, sample: Sample) -> Sample:
        return Sample(sample.token_ids[:1] * 8, sample.logprobs[:1] * 8)

    assert {one.fault for one in run(FakeEngine(constant), plan("batch_8"))} == {Fault.CONSTANT}


def test_ordinary_output_has_no_fault() -> None:
    assert {one.fault for one in run(FakeEngine(), plan(*STANDARD, "without_logprobs"))} == {None}


def test_what_differs_alone_is_seen_in_batch_1() -> None:
    calls = iter(range(1000))

    def every_fifth(_: Sequence[Request], __: int, sample: Sample) -> Sample:
        return with_next_bits(sample, 1) if next(calls) % 5 == 2 else sample

    assert any(not one.equal for one in run(FakeEngine(every_fifth), plan("batch_1")))


@pytest.mark.parametrize("always", [True, False])
def test_the_first_batch_that_differs_runs_again(always: bool) -> None:
    seen: set[tuple[Request, ...]] = set()

    def once(requests: Sequence[Request], at: int, sample: Sample) -> Sample:
        differs = len(requests) > 1 and (always or tuple(requests) not in seen)
        if at == len(requests) - 1:
            seen.add(tuple(requests))
        return with_next_bits(sample, 1) if differs else sample

    results = run(FakeEngine(once), plan("batch_8"))
    assert {one.repeatable for one in results if one.batch == 0} == {always}
    assert {one.repeatable for one in results if one.batch > 0} == {None}


@pytest.mark.parametrize(("repeats", "repeatable"), [(1, True), (2, False)])
def test_noise_that_repeats_once_by_chance_is_seen_by_a_second_repeat(repeats: int, repeatable: bool) -> None:
    seen: Counter[tuple[Request, ...]] = Counter()

    def twice(requests: Sequence[Request], at: int, sample: Sample) -> Sample:
        seen[tuple(requests)] += at == 0
        return with_next_bits(sample, 1) if len(requests) > 1 and seen[tuple(requests)] <= 2 else sample

    results = run(FakeEngine(twice), msgspec.structs.replace(plan("batch_8"), repeats=repeats))
    assert {one.repeatable for one in results if one.batch == 0} == {repeatable}


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_batch_with_a_difference_and_its_probe_alone_run_again_as_often_as_planned(repeats: int) -> None:
    engine = FakeEngine(lambda requests, _, sample: with_next_bits(sample, 1) if len(requests) > 1 else sample)
    run(engine, msgspec.structs.replace(plan("batch_8"), repeats=repeats))
    ran = Counter(requests for requests, _ in engine.batches)
    assert sorted(ran.values())[-2:] == [1 + repeats] * 2


def test_a_difference_of_what_was_timed_does_not_keep_a_batch_from_running_again() -> None:
    last = WORKLOAD.trials[1].prompts

    def in_the_last_trial(requests: Sequence[Request], _: int, sample: Sample) -> Sample:
        ran.append(tuple(request.prompt for request in requests))
        return with_next_bits(sample, 1) if ran[-1] == last and ran.count(last) <= len(last) else sample

    ran: list[tuple[object, ...]] = []
    timed = {0: [(1,) * 4] * len(WORKLOAD.trials[0].prompts)}
    events: list[ProbeDone] = []
    of_plan = plan("trial", trial_prompts=9)
    run_compositions(
        FakeEngine(in_the_last_trial), of_plan, WORKLOAD, LIMITS, TOKEN_IDS, events.append, None, timed=timed
    )
    results = [one for event in events for one in event.results]
    assert {one.equal for one in results if one.composition == TIMED} == {False}
    assert {(one.batch, one.equal, one.repeatable) for one in results if one.composition == "trial"} == {
        (0, True, None), (1, False, False),
    }  # fmt: skip


def test_a_probe_alone_that_does_not_come_back_is_not_blamed_on_the_batch() -> None:
    alone: set[Request] = set()

    def first_alone(requests: Sequence[Request], _: int, sample: Sample) -> Sample:
        differs = len(requests) == 1 and requests[0] not in alone
        alone.update(requests if len(requests) == 1 else ())
        return with_next_bits(sample, 1) if differs else sample

    results = run(FakeEngine(first_alone), plan("batch_8"))
    assert {one.repeatable for one in results if one.batch == 0} == {False}


def test_a_batch_that_was_to_be_preempted_and_was_not_gives_no_result() -> None:
    limits = replace(LIMITS, blocks_can_be_held=True)
    assert run(FakeEngine(), plan("preempted"), limits)
    assert run(FakeEngine(preemptions=0), plan("preempted"), limits) == []


def test_sampled_prompts_of_the_workload_are_marked() -> None:
    results = run(FakeEngine(), plan("trial", "batch_8"))
    assert {one.sampled for one in results if one.composition == "batch_8"} == {False}
    assert sum(one.sampled for one in results) == 4


@pytest.mark.parametrize(("time_s", "sampled", "left_out"), [(None, 7, 0), (1e6, 7, 0), (0.0, 4, 3)])
def test_once_time_is_over_only_needed_prompts_of_the_workload_are_compared(
    time_s: float | None, sampled: int, left_out: int
) -> None:
    events: list[ProbeDone] = []
    of_plan = plan("trial", trial_prompts=9)
    run_compositions(FakeEngine(), of_plan, WORKLOAD, LIMITS, TOKEN_IDS, events.append, None, time_s=time_s)
    (event,) = events
    assert sum(one.sampled for one in event.results) == len(event.results) == sampled
    assert event.left_out == left_out


def test_the_prompts_that_are_left_out_are_the_last_drawn() -> None:
    whole = {(one.batch, one.position) for one in run(FakeEngine(), plan("trial", trial_prompts=9)) if one.sampled}
    events: list[ProbeDone] = []
    of_plan = plan("trial", trial_prompts=9)
    run_compositions(FakeEngine(), of_plan, WORKLOAD, LIMITS, TOKEN_IDS, events.append, None, time_s=0.0)
    sampled = {(one.batch, one.position) for event in events for one in event.results if one.sampled}
    assert sampled < whole
    assert len(sampled) == 4


def as_timed(
    changed: tuple[int, int] | None = None,
    sampling: Sampling = WORKLOAD.sampling,
    engine: FakeEngine | None = None,
) -> list[ProbeResult]:
    """The results of a plan whose workload was timed; one output has another last token than alone."""
    engine, workload = engine or FakeEngine(), msgspec.structs.replace(WORKLOAD, sampling=sampling)
    token_ids = {
        number: [
            engine([Request(prompt, sampling.max_tokens, logprobs=False)], True, None)[0].samples[0].token_ids
            for prompt in one.prompts
        ]
        for number, one in enumerate(WORKLOAD.trials)
    }
    if changed is not None:
        trial, at = changed
        token_ids[trial][at] = (*token_ids[trial][at][:-1], 1)
    events: list[ProbeDone] = []
    of_plan = plan("batch_8", "trial", "workload", trial_prompts=1)
    run_compositions(engine, of_plan, workload, LIMITS, TOKEN_IDS, events.append, None, timed=token_ids)
    return [one for event in events for one in event.results if one.composition == TIMED]


def test_what_was_timed_is_compared_by_its_tokens_each_prompt_once() -> None:
    places = [(number, at) for number, one in enumerate(WORKLOAD.trials) for at in range(len(one.prompts))]
    found = as_timed()
    assert sorted((one.batch, one.position) for one in found) == places
    assert all(one.equal and one.positions == WORKLOAD.sampling.max_tokens for one in found)


def test_another_token_of_a_timed_output_differs() -> None:
    (differing,) = (one for one in as_timed((1, 2)) if not one.equal)
    assert (differing.batch, differing.position) == (1, 2)
    assert differing.first_difference == WORKLOAD.sampling.max_tokens - 1


@pytest.mark.parametrize("token", range(WORKLOAD.sampling.max_tokens))
def test_a_token_that_asking_for_logprobs_changes_is_not_put_down_to_the_batch(token: int) -> None:
    def by_logprobs(batch: Sequence[Request], at: int, sample: Sample) -> Sample:
        return sample if batch[at].logprobs else with_other_token(sample, token)

    assert all(one.equal for one in as_timed(engine=FakeEngine(by_logprobs)))
    (differing,) = (one for one in as_timed((1, 2), engine=FakeEngine(by_logprobs)) if not one.equal)
    assert differing.first_difference == WORKLOAD.sampling.max_tokens - 1


@pytest.mark.parametrize("changed", [None, (1, 2)])
def test_what_was_timed_takes_a_step_of_the_engine_only_where_it_differs(changed: tuple[int, int] | None) -> None:
    engine = FakeEngine()
    as_timed(changed, engine=engine)
    timed = sum(len(one.prompts) for one in WORKLOAD.trials)
    without = [batch for batch, _ in engine.batches if not batch[0].logprobs][timed:]
    assert len(without) == (0 if changed is None else 1)


@pytest.mark.parametrize("change", [{"temperature": 0.7}, {"ignore_eos": False}])
def test_timed_outputs_that_are_sampled_or_may_end_early_are_no_greedy_continuations(change: dict[str, object]) -> None:
    assert as_timed(sampling=msgspec.structs.replace(WORKLOAD.sampling, **change)) == []


def test_the_steps_of_the_workload_and_of_the_probes_are_counted() -> None:
    events: list[ProbeDone] = []
    run_compositions(FakeEngine(), plan("batch_1", "batch_8"), WORKLOAD, LIMITS, TOKEN_IDS, events.append, None)
    steps = [step for event in events for step in event.steps]
    tokens = {name: sum(step.tokens for step in steps if step.composition == name) for name in (None, "batch_8")}
    assert tokens == {None: 7 * 4, "batch_8": 18 * 8}
    assert all(step.composition in {None, event.results[0].composition} for event in events for step in event.steps)


def changed_tokens(engine: FakeEngine, of_plan: ProbePlan, limits: EngineLimits = LIMITS) -> dict[StepKind, int]:
    events: list[ProbeDone] = []
    run_compositions(engine, of_plan, WORKLOAD, limits, TOKEN_IDS, events.append, None)
    changed = Counter[StepKind]()
    for step in (step for event in events for step in event.steps if step.composition is not None):
        assert step.changed is not None
        assert step.changed <= step.tokens
        changed[step.kind] += step.changed
    return {kind: tokens for kind, tokens in changed.items() if tokens}


@pytest.mark.parametrize(("token", "kind"), [(0, StepKind.PREFILL), (3, StepKind.DECODE)])
def test_tokens_that_changed_are_counted_in_the_class_of_their_step(token: int, kind: StepKind) -> None:
    engine = FakeEngine(lambda batch, _, sample: with_next_bits(sample, token) if len(batch) > 1 else sample)
    assert changed_tokens(engine, plan("batch_8", max_tokens=8)) == {kind: 18}
    assert changed_tokens(FakeEngine(), plan("batch_8")) == {}


def test_tokens_behind_another_token_id_do_not_count_as_changed() -> None:
    def diverge(batch: Sequence[Request], _: int, sample: Sample) -> Sample:
        other = tuple(token + 1 if at >= 2 else token for at, token in enumerate(sample.token_ids))
        return Sample(other, sample.logprobs) if len(batch) > 1 else sample

    assert changed_tokens(FakeEngine(diverge), plan("batch_8", max_tokens=8)) == {StepKind.DECODE: 18}


def test_tokens_behind_another_token_id_are_not_comparable() -> None:
    def diverge(batch: Sequence[Request], _: int, sample: Sample) -> Sample:
        return with_other_token(sample, 2) if len(batch) > 1 else sample

    events: list[ProbeDone] = []
    for engine_ in (FakeEngine(diverge), FakeEngine()):
        run_compositions(engine_, plan("batch_8", max_tokens=8), WORKLOAD, LIMITS, TOKEN_IDS, events.append, None)
    diverged, same = ([one for one in event.steps if one.composition is not None] for event in events)
    assert sum(one.comparable or 0 for one in diverged) == 18 * 3
    assert sum(one.tokens for one in diverged) == 18 * 8
    assert all(one.comparable == one.tokens for one in same)
    assert {one.comparable for event in events for one in event.steps if one.composition is None} == {None}


def test_a_changed_token_of_a_scored_prompt_is_of_the_prompts_step_and_said_as_the_prompts() -> None:
    def change(batch: Sequence[Request], at: int, sample: Sample) -> Sample:
        scored = batch[at].score_prompt and len(batch) > 1 and len(batch[at].prompt) > 30
        return with_next_bits(sample, 5) if scored else sample

    assert set(changed_tokens(FakeEngine(change), plan("prompt_logprobs"))) == {StepKind.PREFILL}
    results = run(FakeEngine(change), plan("prompt_logprobs"))
    assert {place(one) for one in results if not one.equal} == {"prompt token 7"}
    assert {one.prompt_positions for one in results} > {0, 299}
    assert all(one.positions == one.prompt_positions + 8 for one in results)


def test_what_was_not_made_is_passed_on_though_there_is_no_result() -> None:
    events: list[ProbeDone] = []
    run_compositions(FakeEngine(), plan("step_4096"), WORKLOAD, LIMITS, TOKEN_IDS, events.append, None)
    assert [(event.results, event.not_made[0].why) for event in events] == [((), "max_num_batched_tokens is 512")]


def test_outputs_alone_are_kept_with_the_negative_control() -> None:
    events: list[ProbeDone] = []
    run_compositions(FakeEngine(), plan("batch_1", "batch_8"), WORKLOAD, LIMITS, TOKEN_IDS, events.append, None)
    assert [len(event.alone) for event in events] == [6, 0]
    assert [event_from_line(event_to_line(event)) for event in events] == events


def test_outputs_alone_that_are_no_numbers_are_not_kept() -> None:
    events: list[ProbeDone] = []
    engine = FakeEngine(lambda _, __, sample: with_logprob(sample, math.nan))
    run_compositions(engine, plan("batch_1"), WORKLOAD, LIMITS, TOKEN_IDS, events.append, None)
    assert [event.alone for event in events] == [()]


@pytest.mark.parametrize(
    ("keeps_prompts", "empty_cache", "emptied"), [(True, True, 1), (True, False, 0), (False, True, 0)]
)
def test_the_prefix_cache_is_emptied_where_there_is_one_and_a_batch_is_to_find_nothing(
    monkeypatch: pytest.MonkeyPatch, keeps_prompts: bool, empty_cache: bool, emptied: int
) -> None:
    done: list[bool] = []

    def empties(succeeds: bool) -> Any:  # noqa: ANN401  what of vLLM's `LLM` is called
        def reset() -> bool:
            done.append(succeeds)
            return succeeds

        return SimpleNamespace(reset_prefix_cache=reset)

    monkeypatch.setattr(engine, "keeps_prompts", lambda _: keeps_prompts)
    monkeypatch.setattr(engine, "generate_together", lambda *_: [Output((SAMPLE,))])
    assert on_engine(empties(True), 5)([], empty_cache) == [Output((SAMPLE,))]
    assert done == [True] * emptied
    if emptied:
        with pytest.raises(RuntimeError, match="did not empty its prefix cache"):
            on_engine(empties(False), 5)([], empty_cache)


def test_no_special_and_no_added_token_is_in_a_random_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: set[int] = set()

    class Tokenizer:
        all_special_ids = (0, 1)

        def get_added_vocab(self) -> dict[str, int]:
            return {"<tool>": 5, "<s>": 0}

        def encode(self, text: str) -> list[int]:
            return list(text.encode())

    class Engine:
        def get_tokenizer(self) -> Tokenizer:
            return Tokenizer()

    fake = FakeEngine()

    def generate_together(_: object, requests: Sequence[Request], __: int) -> list[Output]:
        drawn.update(token for request in requests if not isinstance(request.prompt, str) for token in request.prompt)
        return fake(requests, True)

    monkeypatch.setattr(engine, "limits", lambda *_: LIMITS)
    monkeypatch.setattr(engine, "keeps_prompts", lambda _: False)
    monkeypatch.setattr(engine, "vocabulary_size", lambda _: 8)
    monkeypatch.setattr(engine, "generate_together", generate_together)
    run_probes(
        Engine(),
        plan("batch_8"),
        WORKLOAD,
        max_num_batched_tokens=512,
        max_num_seqs=32,
        max_model_len=1024,
        emit=lambda _: None,
        keep_folder=None,
        time_s=None,
    )
    assert drawn == {2, 3, 4, 6, 7}
