"""The answer in sentences and words: what it is about, what it rests on, when it is good news."""

import pytest
from msgspec.structs import replace

from bi_experiments.records import Arm, Difference
from bi_experiments.report.answer import badges, sentences, subject
from tests import factories
from tests.analysis.probed_phases import both, probes, report


@pytest.mark.parametrize(("explained", "tone"), [(None, "open"), (False, "open"), (True, "good")])
def test_faster_is_good_news_where_both_arms_are_known_to_compute_the_same(explained: bool | None, tone: str) -> None:
    report = factories.proof_report()
    assert report.agreement is not None
    agreement = None if explained is None else replace(report.agreement, explained=explained)
    faster = factories.comparison(factories.metric(-44.3, -45.0, -43.6, verdict=Difference.FASTER))
    result = factories.experiment_result(comparison=faster, invariance=replace(report, agreement=agreement))
    assert badges(result)[0] == ("total time", "faster", tone)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((1, 1), "1 prompt of 3 words, 16 tokens"),
        ((1, 2), "1 to 2 prompts of 3 to 200 words, 16 tokens"),
        ((2, 4), "2 to 4 prompts of 136 to 200 words, 16 tokens"),
    ],
)
def test_the_subject_of_a_batch_of_one_is_the_needle(sizes: tuple[int, ...], said: str) -> None:
    trials = tuple(factories.trial(index, batch_size=size) for index, size in enumerate(sizes))
    phases = [replace(phase, trials=trials) for phase in factories.phases()]
    configuration = factories.whole_result(None, "workload.needle=There once was").configuration
    result = factories.experiment_result(phases, configuration=configuration)
    assert f" · {said} · " in subject(result)


def test_prompts_that_have_fewer_words_than_asked_for_are_not_said_to_have_as_many() -> None:
    configuration = factories.whole_result(None, "workload=vllm_script").configuration
    result = factories.experiment_result(factories.phases(), configuration=configuration)
    assert "words" not in subject(result)


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        (Arm.BATCH_INVARIANT, "2 of the workload's also as they were timed (without logprobs), by their tokens."),
        (Arm.BASELINE, "not those of the timed trials, which ask for none."),
    ],
)
def test_how_many_outputs_were_compared_as_they_were_timed_is_said_of_the_second_arm(arm: Arm, said: str) -> None:
    trial = probes(None, None, None, composition="trial", positions=64)
    tokens = probes(None, composition="without_logprobs", positions=99)
    timed = probes(None, None, composition="timed", positions=64)
    phases = [
        replace(phase, probes=(*phase.probes, *timed)) if phase.arm is arm else phase
        for phase in both([(*trial, *tokens)], [(*trial, *tokens)])
    ]
    result = replace(factories.whole_result(), phases=tuple(phases), invariance=report(phases))
    end = f"Outputs compared: up to 64 tokens of the workload's prompts, with logprobs asked for; {said}"
    assert any(one.endswith(end) for one in sentences(result))


def test_prompts_of_their_own_in_every_pair_are_not_all_proved() -> None:
    phases = both([probes(None, composition="trial", positions=64)], [probes(None, composition="trial", positions=64)])
    result = replace(factories.whole_result(), phases=tuple(phases), invariance=report(phases))
    said = "The workload's prompts are here those of the first pair (workload.fresh_prompts)."
    for fresh in (True, False):
        workload = {**result.configuration["workload"], "fresh_prompts": fresh}
        one = replace(result, configuration={**result.configuration, "workload": workload})
        assert any(said in sentence for sentence in sentences(one)) is fresh
