"""The proof on a real engine: it sees every sabotage of the plugin, and does not claim what it could not have seen.

One engine runs them all, and each of them only the compositions that matter to it.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.invariance import judge
from bi_experiments.config.compose import compose
from bi_experiments.experiment import run_single_phase
from bi_experiments.records import Arm, Fault, Invariance, InvarianceReport, PhaseResult, ProbeResult
from tests.engine.interpreter import in_place_of_the_phase

pytestmark = pytest.mark.engine

SMALL = (
    "experiment=cpu_demo",
    "model.seeded.num_hidden_layers=2",
    "workload.num_trials=1",
    "workload.max_batch_size=32",
    "workload.min_prompt=32",
    "workload.max_prompt=128",
    "workload.max_tokens=24",  # a trial whose prompts need several steps, so that some decode beside others' prefill
    "protocol.warmup=0",
    "protocol.caches=user",
    "verify.probes=3",
    "verify.trial_prompts=2",
    "verify.time_share=null",
)


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory) -> PhaseResult:
    """A phase that ran its probes once for each sabotage of `sabotage.IN_TURN`."""
    folder = tmp_path_factory.mktemp("in_turn")
    interpreter = in_place_of_the_phase("sabotage.py", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CACHE_ROOT", str(folder / "caches"))
        return run_single_phase(compose([*SMALL, f"runtime.python={interpreter}"]), Arm.BATCH_INVARIANT)


class Judged(NamedTuple):
    """What the probes said of one sabotage."""

    report: InvarianceReport
    results: dict[str, list[ProbeResult]]
    """By composition."""

    @property
    def violated(self) -> set[str]:
        """The compositions that are violated."""
        return {one.composition for one in self.report.compositions if one.verdict is Invariance.VIOLATED}


def probes_of(phase: PhaseResult, sabotage: str) -> PhaseResult:
    """The phase as if it had run its probes with that sabotage alone."""
    probes = [
        replace(one, composition=one.composition.removeprefix(f"{sabotage} "))
        for one in phase.probes
        if one.composition.startswith(f"{sabotage} ")
    ]
    return replace(phase, probes=tuple(probes))


def judged(phase: PhaseResult, sabotage: str) -> Judged:
    """The verdict on the probes that ran with that sabotage."""
    own = probes_of(phase, sabotage)
    report = judge([own], "standard")
    assert report is not None
    by_composition: dict[str, list[ProbeResult]] = defaultdict(list)
    for result in own.probes:
        by_composition[result.composition].append(result)
    return Judged(report, by_composition)


def differing(results: Sequence[ProbeResult]) -> list[ProbeResult]:
    return [result for result in results if not result.equal]


@pytest.mark.parametrize(
    ("sabotage", "seen_in"),
    [
        ("nothing", set()),
        ("tiles_off", {"batch_8"}),
        ("kv_split_on", {"batch_8"}),
        ("above_256_tokens", {"step_257"}),
        ("position_in_batch", {"batch_8"}),
        ("decode_beside_prefill", {"arrivals", "trial"}),
        ("long_decode_beside_prefill", {"arrivals"}),
        ("exactly_29", {"sizes"}),
        ("after_20_tokens", {"sizes"}),
        ("returns_nan", {"batch_1", "batch_8"}),
        ("last_row_of_the_largest_step", {"chunked_prefill"}),
        ("later_chunk_of_a_prompt", {"chunked_prefill"}),
        ("after_a_larger_step", {"ragged"}),
        ("one_shard_of_the_vocabulary", {"batch_32"}),
        ("logits_of_prompts", {"prompt_logprobs"}),
        ("seeds_off", {"seeded"}),
    ],
)
def test_a_sabotage_is_seen_by_the_compositions_that_show_it_and_by_no_other(
    in_turn: PhaseResult, sabotage: str, seen_in: set[str]
) -> None:
    found = judged(in_turn, sabotage)
    assert found.violated == seen_in
    assert (found.report.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED) is bool(seen_in)
    assert {"batch_1"} < found.results.keys()  # others ran that do not show it, or nothing is broken


def test_the_first_token_that_differs_is_the_first_that_the_sabotage_reaches(in_turn: PhaseResult) -> None:
    def first_in(sabotage: str, composition: str) -> set[int | None]:
        return {one.first_difference for one in differing(judged(in_turn, sabotage).results[composition])}

    # The step of 257 tokens is the prefill: already the first output token comes from it.
    assert first_in("above_256_tokens", "step_257") == {0}
    # The prefill of eight prompts is a larger step than eight rows: the first decoded token is the second.
    assert first_in("position_in_batch", "batch_8") == {1}
    assert first_in("after_20_tokens", "sizes") == {20}


def test_the_probes_that_differ_are_those_that_the_sabotage_reaches(in_turn: PhaseResult) -> None:
    in_batch = judged(in_turn, "position_in_batch").results["batch_8"]
    # The first position is the reference's own.
    assert {one.position for one in differing(in_batch)} == {one.position for one in in_batch} - {0}
    # The probes have contexts of 129 and 512 tokens.
    assert {one.probe for one in differing(judged(in_turn, "long_decode_beside_prefill").results["arrivals"])} == {1}


def test_a_kernel_that_draws_lots_is_not_deterministic_and_not_blamed_on_the_batch(in_turn: PhaseResult) -> None:
    found = judged(in_turn, "draws_lots")
    assert found.report.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_DETERMINISTIC
    assert found.report.sentence.startswith("Not deterministic: ")
    assert differing(found.results["batch_1"])
    assert not found.violated


def test_output_that_is_no_number_is_a_violation_with_a_name_of_its_own(in_turn: PhaseResult) -> None:
    report = judged(in_turn, "returns_nan").report
    assert {one.fault for one in report.compositions} == {Fault.NAN}
    assert "the output is NaN" in report.sentence


@pytest.mark.parametrize(
    ("baseline", "verdict"),
    [
        ("nothing", Invariance.NO_CONTROL),
        ("draws_lots", Invariance.NO_CONTROL),
        ("tiles_off", Invariance.HOLDS),
    ],
)
def test_only_a_baseline_that_differs_with_the_batch_shows_that_the_probes_would_see_it(
    in_turn: PhaseResult, baseline: str, verdict: Invariance
) -> None:
    mode = probes_of(in_turn, "nothing")
    report = judge([replace(probes_of(in_turn, baseline), arm=Arm.BASELINE), mode], "standard")
    assert report is not None
    assert {one.verdict for one in report.compositions if one.composition == "batch_8" and one.verdict} == {verdict}


def test_the_engine_counted_the_steps_of_the_trial_as_the_rule_says(in_turn: PhaseResult) -> None:
    assert [trial.ruled_pct for trial in in_turn.trials] == [100.0]
