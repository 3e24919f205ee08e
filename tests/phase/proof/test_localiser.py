"""What the localiser makes of an engine's outputs and of what its workers compared: no engine, no torch."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace as replaced
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from bi_experiments.analysis.location import describe
from bi_experiments.phase import engine
from bi_experiments.phase.proof.localiser import _Search, first_of, output_token, plain
from bi_experiments.phase.proof.requests import Batch, Output, Probed, Request, Sample
from bi_experiments.records import Arm, LocatePlan, Location, ModuleDifference
from tests import factories
from tests.analysis.test_location import LINEAR
from tests.phase.proof.fake_engine import LIMITS, WORKLOAD, FakeEngine, plan, with_next_bits

EQUAL = replace(LINEAR, differing=0, module="model.norm")
PROBE = Request(prompt=(7,) * 5, max_tokens=3)
BEHIND = replace(LINEAR, inputs_equal=False, module="model.layers.9")


def on(rank: int, *modules: ModuleDifference) -> list[ModuleDifference]:
    return [replace(one, rank=rank) for one in modules]


class Model:
    """An engine whose outputs are those of a `FakeEngine`, and whose workers name one module."""

    def __init__(self, sabotage: Callable[["Model", int, Sample], Sample]) -> None:
        self.observed = False
        self.ran: Counter[int] = Counter()
        self._generate = FakeEngine(lambda requests, at, sample: sabotage(self, self._size(requests, at), sample))

    def _size(self, requests: Sequence[Request], at: int) -> int:
        return len(requests) if requests[at].prompt == PROBE.prompt else 1

    def generate(self, _: object, requests: Sequence[Request], logprobs: int) -> list[Output]:
        self.ran[len(requests)] += 1
        return self._generate(requests, True)

    def observe(self, *_: object, compare: bool = False) -> None:
        self.observed = True

    def compared(self, _: object) -> list[ModuleDifference]:
        self.observed = False
        return [EQUAL, LINEAR]


def located(model: Model, monkeypatch: pytest.MonkeyPatch, observe: bool = True, at: int = 1) -> Location:
    for name, value in {
        "keeps_prompts": lambda _: False,
        "generate_together": model.generate,
        "next_request_number": lambda _: 0,
        "observe_modules": model.observe,
        "end_observation": model.compared,
        "ranks_a_stage": lambda _: 1,
    }.items():
        monkeypatch.setattr(engine, name, value)
    asked = LocatePlan(composition="batch_4", batch=0, position=at, sample=0, observe=observe, shrink_time_s=60.0)
    others = [Request(prompt=(90 + number,) * 4, max_tokens=4) for number in range(3)]
    batch = Batch((*others[:at], PROBE, *others[at:]), (Probed(0, at, PROBE),))
    named = Location(arm=Arm.BATCH_INVARIANT, composition="batch_4", batch=0, position=at, sample=0, logprobs=5)
    llm: Any = model
    return _Search(llm, asked, plan("batch_4"), 64).run(named, batch, PROBE)


@pytest.mark.parametrize("tokens", [39, 40, 41])
def test_a_batch_is_composed_for_the_steps_that_the_plan_names_whatever_this_engine_has(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = SimpleNamespace(
        all_special_ids=(), get_added_vocab=dict, encode=lambda text: [ord(one) for one in text]
    )
    for name, value in {
        "keeps_prompts": False,
        "limits": LIMITS,
        "tokenizer": tokenizer,
        "vocabulary_size": 500,
    }.items():
        monkeypatch.setattr(engine, name, lambda *_, value=value: value)
    asked = LocatePlan(composition="borders", batch=tokens - 39, position=1, sample=0, observe=True, shrink_time_s=1.0)
    llm: Any = None

    def composed(asked: LocatePlan) -> tuple[Batch, Request] | None:
        return _Search(llm, asked, plan("borders"), LIMITS.max_model_len).find(WORKLOAD, factories.observed())

    assert composed(asked) is None
    found = composed(replace(asked, graph_sizes=(40,), borders=(40,)))
    assert found is not None
    batch, reference = found
    assert sum(len(request.prompt) for request in batch.requests) == tokens
    assert batch.requests[1] == reference


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_probe_that_changes_in_company_has_an_operator_and_a_smallest_batch(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    changed = Model(lambda _, size, sample: with_next_bits(sample, 1) if size > 1 else sample)
    found = located(changed, monkeypatch, at=at)
    assert (found.first_difference, found.first, found.stopped, found.not_shrunk) == (1, LINEAR, None, None)
    assert found.smallest is not None
    assert sorted(len(one.prompt) for one in found.smallest.requests) == [1, len(PROBE.prompt)]
    assert (found.smallest.first, found.smallest.first_difference) == (LINEAR, 1)


def test_a_batch_that_changes_by_itself_is_not_blamed_on_the_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_random(model: Model, size: int, sample: Sample) -> Sample:
        return with_next_bits(sample, model.ran[4] % 2) if size > 1 else sample

    found = located(Model(at_random), monkeypatch)
    assert found.stopped == "the batch gives other bits when it runs again, so that nothing can be said about the batch"
    assert found.first is None

    def later(model: Model, size: int, sample: Sample) -> Sample:  # equal in the first runs
        return with_next_bits(sample, 0, rank=int(model.ran[4] > 3)) if size > 1 else sample

    assert located(Model(later), monkeypatch).stopped == found.stopped


def test_hooks_that_change_the_output_are_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    def hooked(model: Model, size: int, sample: Sample) -> Sample:
        return with_next_bits(sample, 0 if model.observed else 1) if size > 1 else sample

    found = located(Model(hooked), monkeypatch)
    assert found.stopped == "the observed model gave other bits than the unobserved one, so that nothing can be said"
    assert (found.first_difference, found.first, found.smallest) == (1, None, None)


def test_an_operator_is_kept_where_the_smallest_batch_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(model: Model, size: int, sample: Sample) -> Sample:
        return with_next_bits(sample, 1) if size == 4 or (size > 1 and model.ran[2] < 3) else sample

    found = located(Model(once), monkeypatch)
    assert (found.first, found.smallest) == (LINEAR, None)
    assert "No smaller batch is given: the smallest batch that was found did not change it again." in describe(found)


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
