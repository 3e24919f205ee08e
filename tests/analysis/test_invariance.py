"""Verdicts: what is held to be proved, refuted or left open."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.invariance import greedy_tokens, judge, judged_anew, upper_bound_pct
from bi_experiments.analysis.ledger import source
from bi_experiments.records import (
    Arm,
    ExperimentResult,
    Fault,
    Invariance,
    NeedleCheck,
    PhaseStatus,
    ProbeResult,
    Reproducibility,
    StepKind,
    from_json,
)
from tests import factories
from tests.analysis.probed_phases import (
    CHANGED,
    STEPS,
    UNCHANGED,
    both,
    launches,
    probe,
    probes,
    report,
    step,
    verdicts,
)

DIFFERENT = NeedleCheck(equal=False, first_difference=2)
VERSION_1 = Path(__file__).parent / "version_1_result.json"


# --- The headline ---------------------------------------------------------------------------------------------------


def test_holds_when_nothing_differs_where_the_baseline_does_and_the_workload_is_covered() -> None:
    judged = report(both(CHANGED, UNCHANGED))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS
    assert judged.verdict(Arm.BASELINE) is Invariance.VIOLATED
    assert judged.sentence == (
        "Batch invariance holds: none of 4 probe outputs (4 prompts) changed with the batch, while 2 of 4 probe "
        "outputs did without the mode. Reproducible: 4 probe outputs (batch_8) the same in 2 launches."
    )


def test_one_differing_probe_of_one_launch_violates_and_is_named() -> None:
    judged = report(both(CHANGED, (UNCHANGED[0], probes(None, None, None, 17))))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    verdict = judged.arms[1]
    assert (verdict.differing, verdict.total) == (1, 4)
    assert verdict.first is not None
    assert (verdict.first.probe, verdict.first.first_difference) == (3, 17)
    assert judged.sentence.startswith("VIOLATED: probe 4 changed at output token 18 in composition batch_8")
    assert "1 of 4 probe outputs" in judged.sentence
    assert "|delta logprob| 0.016" in judged.sentence


def test_no_control_when_the_baseline_does_not_differ_either() -> None:
    judged = report(both(UNCHANGED, UNCHANGED))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NO_CONTROL
    assert judged.verdict(Arm.BASELINE) is Invariance.NO_CONTROL
    assert judged.sentence.startswith("No control: ")
    assert "use a wider model or verify=full." in judged.sentence


def test_no_control_without_a_baseline() -> None:
    judged = report(launches(Arm.BATCH_INVARIANT, *UNCHANGED))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NO_CONTROL
    assert "no baseline" in judged.sentence


def test_not_probed_when_the_mode_was_never_probed() -> None:
    judged = report([*launches(Arm.BASELINE, *CHANGED), factories.phase(Arm.BATCH_INVARIANT)])
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_PROBED
    assert judged.sentence == "Not probed: no probe of the batch-invariant arm was run."


def test_a_needle_licenses_nothing_but_the_needle() -> None:
    needles = [probes(3, composition="needle"), probes(None, composition="needle")]
    others = probes(None, None, None)
    steps = (step(None), step("batch_8", 10), step("needle", 10))
    judged = report(both([(*needles[0], *others)], [(*needles[1], *others)], steps=steps))
    assert verdicts(judged) == {"needle": Invariance.HOLDS, "batch_8": Invariance.NO_CONTROL}
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NO_CONTROL


def test_needles_of_the_timed_trials_license_nothing() -> None:
    phases = both(UNCHANGED, UNCHANGED)
    phases[0] = factories.with_trial(phases[0], 1, needle=DIFFERENT)
    assert report(phases).verdict(Arm.BATCH_INVARIANT) is Invariance.NO_CONTROL


# --- Each composition -----------------------------------------------------------------------------------------------


def test_a_composition_that_an_arm_did_not_run_has_no_verdict_there() -> None:
    ragged = probes(1, 1, composition="ragged")
    judged = report(both([(*CHANGED[0], *ragged)], [UNCHANGED[0]]))
    assert verdicts(judged) == {"batch_8": Invariance.HOLDS}
    assert all(one.verdict is None for one in judged.compositions if one.arm is Arm.BASELINE)


def test_the_composition_that_is_violated_is_named_and_the_others_keep_theirs() -> None:
    ragged = [probes(first, None, composition="ragged") for first in (1, 5)]
    judged = report(both([(*CHANGED[0], *ragged[0])], [(*UNCHANGED[0], *ragged[1])]))
    assert verdicts(judged) == {"batch_8": Invariance.HOLDS, "ragged": Invariance.VIOLATED}
    assert "in composition ragged" in judged.sentence


@pytest.mark.parametrize("fault", [Fault.NAN, Fault.INFINITE, Fault.CONSTANT])
def test_a_faulty_output_violates_under_its_own_name_though_nothing_differs(fault: Fault) -> None:
    judged = report(both(CHANGED, [probes(None, None, None, None, fault=fault)]))
    assert verdicts(judged) == {"batch_8": Invariance.VIOLATED}
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    assert f"the output is {fault} in composition batch_8" in judged.sentence


def test_one_output_for_all_prompts_is_constant() -> None:
    judged = report(both(CHANGED, [probes(None, None, None, None, digest="the same")]))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    assert "the output is constant" in judged.sentence


def test_few_tokens_without_logprobs_may_be_equal_for_two_prompts() -> None:
    tokens = probes(None, None, composition="without_logprobs", digest="the same")
    judged = report(both(CHANGED, [(*UNCHANGED[0], *tokens)]))
    assert verdicts(judged)["without_logprobs"] is Invariance.NO_CONTROL


def test_a_faulty_baseline_is_no_control() -> None:
    judged = report(both([probes(0, 0, 0, 0, fault=Fault.NAN)], [UNCHANGED[0]]))
    assert verdicts(judged) == {"batch_8": Invariance.NO_CONTROL}


# --- The negative control -------------------------------------------------------------------------------------------


def alone(*differs_at: int | None) -> tuple[ProbeResult, ...]:
    return probes(*differs_at, composition="batch_1")


def test_what_differs_alone_is_not_deterministic_and_not_blamed_on_the_batch() -> None:
    judged = report(both(CHANGED, [(*alone(None, 2), *CHANGED[0])]))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_DETERMINISTIC
    assert verdicts(judged) == {"batch_1": Invariance.NOT_DETERMINISTIC, "batch_8": Invariance.NOT_DETERMINISTIC}
    assert judged.sentence.startswith("Not deterministic: 1 of 2 probe outputs alone differ from the same prompt alone")


def test_a_batch_that_differs_from_itself_is_not_deterministic_either() -> None:
    unrepeatable = probes(None, 0, None, 3, repeatable=False)
    judged = report(both(CHANGED, [(*alone(None, None), *unrepeatable)]))
    assert verdicts(judged) == {"batch_1": None, "batch_8": Invariance.NOT_DETERMINISTIC}
    assert "gave other bits when it ran again, in batch_8" in judged.sentence


def test_noise_of_the_baseline_is_no_positive_control() -> None:
    judged = report(both([(*alone(None, 0, None, None), *CHANGED[0])], [(*alone(None, None), *UNCHANGED[0])]))
    assert verdicts(judged)["batch_8"] is Invariance.NO_CONTROL
    assert "the baseline differs from itself alone too, in 1 of 4 probe outputs" in judged.sentence


@pytest.mark.parametrize(
    ("baseline", "control"),
    [
        (probes(3, 3, 3, 3), False),  # however often it differs
        (probes(None, 3, repeatable=True), True),
        (probes(3, None, repeatable=True), False),  # the probe that differs from itself alone
        (probes(3, None, composition="trial", repeatable=True), True),  # not that probe, but a prompt of the workload
        (probes(None, 3, repeatable=False), False),
    ],
)
def test_beside_noise_only_what_comes_back_bit_by_bit_of_a_probe_that_is_the_same_alone_is_a_control(
    baseline: tuple[ProbeResult, ...], control: bool
) -> None:
    composition = baseline[0].composition
    noisy = (*alone(0, None, None, None), *baseline)
    judged = report(both([noisy], [probes(None, None, None, None, composition=composition)]))
    assert verdicts(judged)[composition] is (Invariance.HOLDS if control else Invariance.NO_CONTROL)


def test_a_batch_of_the_baseline_that_does_not_repeat_is_no_control() -> None:
    judged = report(both([probes(None, 0, None, 3, repeatable=False)], [UNCHANGED[0]]))
    assert verdicts(judged)["batch_8"] is Invariance.NO_CONTROL


# --- Decode against prefill -------------------------------------------------------------------------------------------


def test_decode_and_prefill_that_compute_other_bits_are_said_and_are_no_violation() -> None:
    found = probes(2, None, 0, composition="prefill")
    steps = (*STEPS, step("prefill", 3, kind=StepKind.PREFILL, sequences=0))
    judged = report(both([(*CHANGED[0], *found)], [(*UNCHANGED[0], *found)], steps=steps))
    assert verdicts(judged) == {"batch_8": Invariance.HOLDS, "prefill": None}
    mode = judged.arms[1]
    assert (mode.verdict, mode.differing, mode.total, mode.first) == (Invariance.HOLDS, 0, 4, None)
    assert "holds: none of 4 probe outputs (4 prompts) changed with the batch, while 2 of 4" in judged.sentence
    assert (
        "Decode and prefill compute other bits (2 of 3 probe outputs, largest |delta logprob| 0.016)" in judged.sentence
    )
    same = report(both([(*CHANGED[0], *found)], [(*UNCHANGED[0], *probes(None, composition="prefill"))], steps=steps))
    assert "Decode and prefill" not in same.sentence


@pytest.mark.parametrize("differs_at", [None, 0])
def test_what_a_preemption_changes_is_not_said_to_be_independent_of_the_batch(differs_at: int | None) -> None:
    found = (*probes(2, None, composition="prefill"), *probes(differs_at, composition="preempted"))
    judged = report(both([(*CHANGED[0], *found)], [(*UNCHANGED[0], *found)]))
    said = "whether a sequence is preempted does depend on the batch"
    assert (said in judged.sentence) is (differs_at is not None)


def test_decode_against_prefill_is_no_control_and_no_probe_of_any_step() -> None:
    prefill = [probes(1, 1, composition="prefill"), probes(None, None, composition="prefill")]
    workload = step(None, kind=StepKind.PREFILL, sequences=0)
    steps = (workload, replace(workload, composition="prefill", tokens=2))
    judged = report(both([prefill[0]], [prefill[1]], steps=steps))
    assert verdicts(judged) == {"prefill": None}
    assert [row.verdict for row in judged.ledger] == [Invariance.NOT_PROBED]
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_PROBED
    assert judged.verdict(Arm.BASELINE) is Invariance.NO_CONTROL


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [({"fault": Fault.NAN}, Invariance.VIOLATED), ({"repeatable": False}, Invariance.NOT_DETERMINISTIC)],
)
def test_a_fault_and_a_lot_in_decode_against_prefill_count_as_elsewhere(
    changes: dict[str, object], verdict: Invariance
) -> None:
    found = probes(2, None, composition="prefill", **changes)
    judged = report(both(CHANGED, [(*UNCHANGED[0], *found)]))
    assert judged.verdict(Arm.BATCH_INVARIANT) is verdicts(judged)["prefill"] is verdict


# --- What says which steps there are ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workload", "tokens"),
    [
        ({"temperature": 0.0, "ignore_eos": True, "max_tokens": 64}, None),
        ({"temperature": 0.0, "ignore_eos": False, "max_tokens": 64}, 64),
        ({"temperature": 0.6, "ignore_eos": True, "max_tokens": 64}, 64),
        ({}, None),
    ],
)
def test_what_stands_for_sampled_outputs_and_such_as_may_end_early_is_said(
    workload: dict[str, object], tokens: int | None
) -> None:
    assert greedy_tokens({"workload": workload}) == tokens
    sampled = probes(*[None] * 20, composition="trial", sampled=True)
    phases = both([(*CHANGED[0], *probes(*[0] * 20, composition="trial"))], [(*UNCHANGED[0], *sampled)])
    judged = judge(phases, "standard", greedy_tokens=tokens)
    assert judged is not None
    own = "13.9 % of this workload's outputs could change" in judged.sentence
    greedy = (
        "13.9 % of the greedy continuations of 64 tokens of this workload's prompts could change" in judged.sentence
    )
    assert (own, greedy) == (tokens is None, tokens is not None)
    assert ("for outputs of 64 tokens" in source(99.0, judged.greedy_tokens)) is (tokens is not None)


# --- The bound ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differing", "sampled", "bound"), [(0, 300, 0.994), (0, 40, 7.216), (1, 300, 1.571), (5, 5, 100.0)]
)
def test_the_bound_is_clopper_pearsons(differing: int, sampled: int, bound: float) -> None:
    assert upper_bound_pct(differing, sampled) == pytest.approx(bound, abs=0.001)


def test_without_a_sample_there_is_no_bound() -> None:
    assert upper_bound_pct(0, 0) is None
    assert report(both(CHANGED, UNCHANGED)).bound_pct is None


def test_the_bound_rests_on_sampled_workload_prompts_each_counted_once() -> None:
    sampled = probes(*[None] * 20, composition="trial", sampled=True)
    added = probes(None, composition="trial", position=50)
    again = probes(*[None] * 20, composition="workload", sampled=True)
    mode = (*UNCHANGED[0], *sampled, *added, *again)
    control = (*CHANGED[0], *probes(*[0] * 20, composition="trial"))
    judged = report(both([control, control], [mode, mode]))
    assert judged.sampled == 20
    assert judged.bound_pct == pytest.approx(13.911, abs=0.001)
    assert (
        "At most 13.9 % of this workload's outputs could change (20 prompts sampled; 95 % confidence)."
        in judged.sentence
    )


def test_timed_tokens_that_change_violate_though_no_probe_with_logprobs_does() -> None:
    timed = probes(None, 2, composition="timed", largest_logprob_difference=0.0)
    judged = report(both([(*CHANGED[0], *timed)], [(*UNCHANGED[0], *timed)]))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    assert judged.sentence.startswith(
        "VIOLATED: probe 2 changed at output token 3 in composition timed, the only one of 6 probe outputs."
    )


def test_a_sampled_prompt_whose_timed_tokens_changed_counts_as_changed() -> None:
    sampled = probes(None, None, None, composition="trial", sampled=True)
    timed = probes(None, 2, None, 2, composition="timed")  # the last of them was not drawn
    judged = report(both([CHANGED[0]], [(*UNCHANGED[0], *sampled, *timed)]))
    assert (judged.sampled, judged.sampled_differing) == (3, 1)
    assert "(3 prompts sampled, of which 1 changed; 95 % confidence)" in judged.sentence


def test_timed_tokens_are_not_put_down_to_the_batch_where_the_same_batch_does_not_repeat() -> None:
    trial = probes(None, 0, composition="trial", repeatable=False)
    timed = probes(None, 2, composition="timed")
    judged = report(both([(*trial, *timed)], [(*trial, *timed)]))
    assert verdicts(judged) == {"trial": Invariance.NOT_DETERMINISTIC, "timed": Invariance.NOT_DETERMINISTIC}
    assert judged.sentence == "Not deterministic: the same batch gave other bits when it ran again, in trial."
    same = report(both([(*trial, *timed)], [probes(None, None, composition="timed")]))
    assert verdicts(same) == {"timed": Invariance.NO_CONTROL}


@pytest.mark.parametrize("differing", [0, 1])
def test_where_every_prompt_was_compared_nothing_is_bounded(differing: int) -> None:
    total = 32
    prompts = step(None, total, sequences=0, kind=StepKind.PREFILL)
    steps = (*STEPS, prompts, replace(prompts, composition="workload", changed=1))
    found = probes(*[0] * differing, *[None] * (total - differing), composition="workload", sampled=True)
    changed = probes(*[0] * total, composition="workload")
    phases = [
        replace(phase, left_out=4) for phase in both([(*CHANGED[0], *changed)], [(*UNCHANGED[0], *found)], steps=steps)
    ]
    judged = report(phases)
    assert (judged.census, judged.left_out) == (True, 0)
    assert judged.bound_pct == pytest.approx(100 * differing / total)
    which = "; 1 of them changed" if differing else ""
    assert f"All of this workload's prompts were compared ({total}){which}." in judged.sentence
    fewer = [replace(phase, probes=phase.probes[:-1]) for phase in phases]
    assert (report(fewer).census, report(fewer).left_out) == (False, 4)


# --- From launch to launch ------------------------------------------------------------------------------------------


def test_launches_that_disagree_do_not_violate_where_each_agrees_with_itself_but_have_a_verdict() -> None:
    other = (probe(0), replace(probe(1), digest="something else"), probe(2), probe(3))
    judged = report(both(CHANGED, (UNCHANGED[0], other)))
    verdict = judged.arms[1]
    assert verdict.verdict is Invariance.HOLDS
    assert verdict.reproducible is Reproducibility.NOT_REPRODUCIBLE
    assert (verdict.differing, verdict.launches_compared, verdict.launches_differing) == (0, 2, 1)
    assert judged.sentence.endswith(
        "But not reproducible: 1 of 4 probe outputs (batch_8) not the same in all 2 launches."
    )


def test_a_launch_that_was_cut_short_counts_for_what_it_ran() -> None:
    judged = report(both((*CHANGED, CHANGED[0]), (*UNCHANGED, UNCHANGED[0][:2])))
    assert judged.sentence.endswith("Reproducible: 4 probe outputs (batch_8) the same in 2 to 3 launches.")


def test_one_launch_says_nothing_of_launches() -> None:
    judged = report(both(CHANGED[:1], UNCHANGED[:1]))
    assert judged.arms[1].reproducible is Reproducibility.ONE_LAUNCH
    assert "reproducible" not in judged.sentence.lower()


def test_later_launches_may_run_fewer_compositions() -> None:
    ragged = probes(0, 0, composition="ragged")
    same = probes(None, None, composition="ragged")
    judged = report(both([(*CHANGED[0], *ragged), CHANGED[1]], [(*UNCHANGED[0], *same), UNCHANGED[1]]))
    assert judged.arms[1].reproducible is Reproducibility.REPRODUCIBLE
    assert judged.sentence.endswith("Reproducible: 4 probe outputs (batch_8) the same in 2 launches.")


# --- Needles, controls, what is missing -----------------------------------------------------------------------------


def test_a_needle_that_changes_in_a_trial_violates() -> None:
    phases = both(CHANGED, UNCHANGED)
    phases[-1] = factories.with_trial(phases[-1], 1, needle=DIFFERENT)
    judged = report(phases)
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    assert judged.needle_differing == {Arm.BASELINE: 0, Arm.BATCH_INVARIANT: 1}
    assert judged.needle_total == {Arm.BASELINE: 8, Arm.BATCH_INVARIANT: 8}
    assert judged.sentence.startswith("VIOLATED: the needle's tokens changed in 1 of 8 trials.")


@pytest.mark.parametrize(("second", "verdict"), [(CHANGED, Invariance.VIOLATED), (UNCHANGED, Invariance.NO_CONTROL)])
def test_a_control_is_another_baseline(second: Sequence[Sequence[ProbeResult]], verdict: Invariance) -> None:
    judged = report([*launches(Arm.BASELINE, *CHANGED), *launches(Arm.CONTROL, *second)])
    assert judged.verdict(Arm.CONTROL) is verdict
    assert judged.verdict(Arm.BATCH_INVARIANT) is None
    assert judged.sentence.startswith("Without the mode 2 of 4 probe outputs of the baseline and ")
    assert "as expected" in judged.sentence


def test_failed_phases_are_judged_by_what_they_have() -> None:
    phases = both(CHANGED, (UNCHANGED[0], probes(None)))
    phases[-1] = replace(phases[-1], status=PhaseStatus.FAILED, error="out of memory", trials=())
    judged = report(phases)
    assert judged.arms[1].total == 4
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS


def test_compositions_are_counted_for_both_arms_each_output_once() -> None:
    mixed = (probe(0, "ragged", 1, tokens_equal=False), probe(1, "ragged"), probe(0, "seeded", 0))
    judged = report(both((mixed, mixed), (probes(None), probes(None))))
    counts = {(one.composition, one.arm): one for one in judged.compositions}
    ragged = counts["ragged", Arm.BASELINE]
    assert (ragged.differing, ragged.total, ragged.tokens_differing) == (1, 2, 1)
    assert ragged.largest_logprob_difference == 0.016
    assert counts["seeded", Arm.BASELINE].tokens_differing == 0
    assert counts["batch_8", Arm.BATCH_INVARIANT].total == 1
    assert ("ragged", Arm.BATCH_INVARIANT) not in counts


def test_compositions_without_a_result_are_named() -> None:
    judged = report(both(CHANGED, UNCHANGED), compositions=("batch_8", "prefix_cache"))
    assert judged.not_run == ("prefix_cache",)


def test_nothing_is_judged_when_verification_is_off_or_nothing_ran() -> None:
    assert judge(both(CHANGED, CHANGED), "off") is None
    assert judge([factories.phase(trials=())], "standard") is None
    assert judge([], "standard") is None


# --- Stored records -------------------------------------------------------------------------------------------------


def test_a_record_of_version_1_is_judged_by_the_rules_of_today() -> None:
    stored = from_json(VERSION_1.read_bytes(), ExperimentResult, VERSION_1)
    assert stored.version == 1
    assert stored.invariance is not None
    assert stored.invariance.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS
    judged = judged_anew(stored).invariance
    assert judged is not None
    # Its probes never were in the workload's own steps, and its chunked prefill had no positive control.
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_PROBED
    found = verdicts(judged)
    assert found["batch_8"] is Invariance.HOLDS
    assert found["chunked_prefill"] is Invariance.NO_CONTROL
    assert judged.not_run == ("long_prompt",)


def test_a_record_of_today_keeps_its_verdict() -> None:
    result = factories.experiment_result(invariance=factories.invariance_report())
    assert judged_anew(result) is result
