"""The ledger: the classes of steps of a workload, what was probed in each, and the verdict that follows."""

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.ledger import in_words, source
from bi_experiments.records import Arm, Fault, Invariance, InvarianceReport, ProbeResult, StepKind
from tests import factories
from tests.analysis.probed_phases import (
    CHANGED,
    STEPS,
    UNCHANGED,
    both,
    counted,
    launches,
    probes,
    report,
    step,
    verdicts,
)


def test_a_class_of_the_workload_without_a_probe_is_not_probed_and_named() -> None:
    far = step(None, 300, context=1025, kind=StepKind.BESIDE_PREFILL)
    judged = report(both(CHANGED, UNCHANGED, steps=(*STEPS, far)))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_PROBED
    assert [(row.workload_pct, row.probe_tokens, row.verdict) for row in judged.ledger] == [
        (75.0, 0, Invariance.NOT_PROBED),
        (25.0, 10, Invariance.HOLDS),
    ]
    assert "75 % of this workload's output tokens" in judged.sentence
    assert "1025 to 2048 tokens of context, 9 to 16 sequences, alongside a prefill" in judged.sentence


def test_a_class_that_the_workload_hardly_has_is_listed_and_not_needed() -> None:
    judged = report(both(CHANGED, UNCHANGED, steps=(*STEPS, step(None, 1, context=1025))))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS
    assert judged.ledger[1].verdict is Invariance.NOT_PROBED


def test_the_needed_class_without_a_control_is_the_headline_whatever_holds_elsewhere() -> None:
    steps = (step(None), step("trial", 10), step("batch_8", 10, context=129))
    trials = probes(None, None, composition="trial")
    judged = report(both([(*CHANGED[0], *trials)], [(*UNCHANGED[0], *trials)], steps=steps))
    assert verdicts(judged) == {"batch_8": Invariance.HOLDS, "trial": Invariance.NO_CONTROL}
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NO_CONTROL
    assert "100 % of this workload's output tokens" in judged.sentence


@pytest.mark.parametrize(
    ("elsewhere", "verdict"),
    [(0, Invariance.NO_CONTROL), (1, Invariance.HOLDS), (None, Invariance.HOLDS)],
)
def test_a_class_of_steps_needs_a_control_of_its_own(elsewhere: int | None, verdict: Invariance) -> None:
    workload = (step(None), step(None, context=129))
    mode = (*workload, counted("batch_8", 0), counted("batch_8", 0, 129))
    baseline = (*workload, counted("batch_8", 3), counted("batch_8", elsewhere, 129))
    phases = [
        *launches(Arm.BASELINE, *CHANGED, steps=baseline),
        *launches(Arm.BATCH_INVARIANT, *UNCHANGED, steps=mode),
    ]
    judged = report(phases)
    assert verdicts(judged) == {"batch_8": Invariance.HOLDS}
    assert {row.context: row.verdict for row in judged.ledger} == {1: Invariance.HOLDS, 129: verdict}
    assert {row.context: row.control_tokens for row in judged.ledger} == {1: 3, 129: elsewhere}
    assert judged.verdict(Arm.BATCH_INVARIANT) is verdict


WITHOUT_OWN_CONTROL = (
    " No control of their own for 50 % of this workload's output tokens (129 to 512 tokens of context, 9 to 16 "
    "sequences): {} of the output without the mode had changed to other tokens before."
)


def two_classes(comparable: int | None, level: str = "standard", first: int = 3) -> InvarianceReport:
    """Without the mode `first` tokens changed in one class, none of those comparable in another one."""
    workload = (step(None), step(None, context=129))
    mode = (*workload, counted("batch_8", 0), counted("batch_8", 0, 129))
    baseline = (*workload, counted("batch_8", first), counted("batch_8", 0, 129, comparable=comparable))
    phases = [
        *launches(Arm.BASELINE, *CHANGED, steps=baseline),
        *launches(Arm.BATCH_INVARIANT, *UNCHANGED, steps=mode),
    ]
    return report(phases, level=level)


@pytest.mark.parametrize(("comparable", "amount"), [(0, "all"), (4, "most")])
def test_a_class_that_the_baseline_comes_to_with_other_tokens_is_said_beside_the_verdict(
    comparable: int, amount: str
) -> None:
    judged = two_classes(comparable)
    row = next(row for row in judged.ledger if row.context == 129)
    assert (row.control_tokens, row.control_of, row.control_behind) == (0, comparable, 10 - comparable)
    assert (row.verdict, row.probe_tokens) == (Invariance.NO_CONTROL, 10)
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS
    assert WITHOUT_OWN_CONTROL.format(amount) in judged.sentence


@pytest.mark.parametrize("comparable", [5, None])
def test_a_class_in_which_the_baseline_compared_half_of_its_tokens_without_a_change_decides(
    comparable: int | None,
) -> None:
    judged = two_classes(comparable)
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NO_CONTROL
    assert "without the mode none did either where 50 % of this workload's output tokens are (129" in judged.sentence
    assert "use a wider model" in judged.sentence
    assert "No control of their own" not in judged.sentence


@pytest.mark.parametrize("level", ["standard", "full"])
def test_classes_that_come_behind_other_tokens_decide_where_the_workload_has_nothing_else(level: str) -> None:
    workload = (step(None),)
    mode = (*workload, counted("batch_8", 0))
    phases = [
        *launches(Arm.BASELINE, *CHANGED, steps=(*workload, counted("batch_8", 0, comparable=0))),
        *launches(Arm.BATCH_INVARIANT, *UNCHANGED, steps=mode),
    ]
    judged = report(phases, level=level)
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NO_CONTROL
    assert "where 100 % of this workload's output tokens are (1 to 128 tokens of context" in judged.sentence
    assert "all of the output without the mode had changed to other tokens before: compare more" in judged.sentence
    assert "wider model" not in judged.sentence
    assert ("verify.trial_prompts" in judged.sentence) is (level == "standard")


def test_the_reasons_for_no_control_are_those_of_the_classes_that_decide() -> None:
    prefill = step(None, 5, context=1025, sequences=0, kind=StepKind.PREFILL)
    steps = (step(None), prefill, counted("batch_8", 0), replace(prefill, composition="batch_8", changed=0))
    judged = report(both(CHANGED, UNCHANGED, steps=steps))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NO_CONTROL
    why, beside = judged.sentence.split("use a wider model")
    assert "none did either where 95 % of this workload's output tokens are (1 to 128 tokens" in why
    assert "prefill" not in why
    assert "No control for the prefill of 100 % of this workload's prompts" in beside


@pytest.mark.parametrize(
    ("baseline", "alone", "why"),
    [
        (
            CHANGED[0],
            probes(None, 0, composition="batch_1"),
            "the baseline differs from itself alone too, in 1 of 2 probe outputs",
        ),
        (probes(None, 0, repeatable=False), (), "the same batch gave other bits when it ran again, in batch_8"),
        (probes(0, 0, fault=Fault.NAN), (), "the output is NaN, in batch_8"),
    ],
)
def test_what_may_not_be_the_batchs_doing_in_the_baseline_is_neither_counted_nor_said_to_be_unchanged(
    baseline: tuple[ProbeResult, ...], alone: tuple[ProbeResult, ...], why: str
) -> None:
    steps = (step(None), counted("batch_8", 3))
    mode = probes(None, None)
    judged = report(both([(*alone, *baseline)], [mode], steps=steps))
    (row,) = judged.ledger
    assert (row.control_tokens, row.control_of, row.control_in_doubt) == (0, 0, True)
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NO_CONTROL
    assert f"a change without the mode says nothing of the batch: {why}." in judged.sentence
    assert "none did either" not in judged.sentence


def test_tokens_behind_a_change_that_may_be_chance_are_no_change_before() -> None:
    steps = (step(None), counted("batch_8", 0, comparable=0))
    judged = report(both([probes(None, 0, repeatable=False)], [probes(None, None)], steps=steps))
    assert judged.ledger[0].control_behind == 0
    assert "other tokens before" not in judged.sentence


@pytest.mark.parametrize(("tokens", "said"), [(1, False), (4, True)])
def test_classes_that_are_too_small_to_decide_are_said_where_they_are_not_small_together(
    tokens: int, said: bool
) -> None:
    small = [step(None, tokens, context=context, sequences=33) for context in (129, 513, 1025)]
    uncontrolled = [step(None, tokens, context=context, sequences=65) for context in (129, 513, 1025)]
    probed = [counted("batch_8", 0, one.context, sequences=65) for one in uncontrolled]
    judged = report(both(CHANGED, UNCHANGED, steps=(step(None, 990), *small, *uncontrolled, *probed, *STEPS[1:])))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS
    what = "of all output tokens 1.2 % were not probed and 1.2 % have no control"
    assert (f" In smaller classes, {what}." in judged.sentence) is said


def test_a_violation_of_the_mode_is_its_class_though_nothing_there_is_comparable() -> None:
    workload = (step(None), step(None, context=129))
    mode = (*workload, counted("batch_8", 3), counted("batch_8", 0, 129, comparable=0))
    judged = report([*launches(Arm.BATCH_INVARIANT, *CHANGED, steps=mode)])
    assert [(row.verdict, row.probe_tokens) for row in judged.ledger] == [
        (Invariance.VIOLATED, 10),
        (Invariance.VIOLATED, 0),
    ]


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_class_that_did_not_change_gets_no_better_verdict_by_a_violation_elsewhere(repeatable: bool) -> None:
    workload = (step(None), step(None, context=129))
    mode = (*workload, counted("batch_8", 3), counted("batch_8", 0, 129))
    baseline = (*workload, counted("batch_8", 3), counted("batch_8", 3, 129))
    control = probes(None, 0, None, 3, repeatable=repeatable)
    phases = [
        *launches(Arm.BASELINE, control, steps=baseline),
        *launches(Arm.BATCH_INVARIANT, CHANGED[0], steps=mode),
    ]
    verdict = Invariance.HOLDS if repeatable else Invariance.NO_CONTROL
    assert {row.context: row.verdict for row in report(phases).ledger} == {1: Invariance.VIOLATED, 129: verdict}


@pytest.mark.parametrize(
    ("changed", "fault", "verdict"),
    [
        (0, None, Invariance.HOLDS),
        (1, None, Invariance.VIOLATED),
        (None, None, Invariance.VIOLATED),
        (0, Fault.NAN, Invariance.VIOLATED),
    ],
)
def test_a_violation_is_one_of_the_classes_in_which_bits_changed(
    changed: int | None, fault: Fault | None, verdict: Invariance
) -> None:
    workload = (step(None), step(None, context=129))
    mode = (*workload, counted("batch_8", 3), counted("batch_8", changed, 129))
    baseline = (*workload, counted("batch_8", 3), counted("batch_8", 3, 129))
    violated = [tuple(replace(one, fault=fault) for one in found) for found in CHANGED]
    judged = report(
        [*launches(Arm.BASELINE, *CHANGED, steps=baseline), *launches(Arm.BATCH_INVARIANT, *violated, steps=mode)]
    )
    assert {row.context: row.verdict for row in judged.ledger} == {1: Invariance.VIOLATED, 129: verdict}
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED


def test_a_class_of_prefill_counts_by_the_prompts_and_not_by_their_few_output_tokens() -> None:
    prefill = step(None, 5, context=1025, sequences=0, kind=StepKind.PREFILL)
    seldom = step(None, 4, context=129)
    workload = (step(None, 991), prefill, seldom)
    probed = (counted("batch_8", 3), counted("batch_8", 0, 1025, sequences=0, kind=StepKind.PREFILL))
    judged = report(both(CHANGED, UNCHANGED, steps=(*workload, *probed)))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS
    share = "100 % of this workload's prompts (prefill of 1025 to 2048 tokens)"
    assert f"No control for the prefill of {share}: nothing changed there" in judged.sentence
    unprobed = report(both(CHANGED, UNCHANGED, steps=(*workload, probed[0])))
    assert unprobed.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_PROBED
    assert "in 1 class of steps with 100 % of this workload's prompts (most in: prefill of 1025" in unprobed.sentence


def test_prompts_that_take_several_steps_are_not_proved_by_whole_ones() -> None:
    prefill = step(None, 90, context=1025, sequences=0, kind=StepKind.PREFILL)
    split = replace(prefill, split=True, tokens=10)
    probed = counted("batch_8", 3, 1025, sequences=0, kind=StepKind.PREFILL)
    judged = report(both(CHANGED, UNCHANGED, steps=(prefill, split, probed)))
    assert [row.verdict for row in judged.ledger] == [Invariance.HOLDS, Invariance.NOT_PROBED]
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_PROBED
    assert (
        "10 % of this workload's prompts (most in: prefill of 1025 to 2048 tokens, in several steps)" in judged.sentence
    )
    covered = report(both(CHANGED, UNCHANGED, steps=(prefill, split, probed, replace(probed, split=True))))
    assert covered.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS


def test_prefill_without_a_control_decides_where_the_workload_has_nothing_else() -> None:
    prefill = step(None, 5, context=1025, sequences=0, kind=StepKind.PREFILL)
    probed = counted("batch_8", 0, 1025, sequences=0, kind=StepKind.PREFILL)
    judged = report(both(CHANGED, UNCHANGED, steps=(prefill, probed)))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NO_CONTROL


@pytest.mark.parametrize("same_graphs", [True, False])
def test_a_control_in_another_graph_counts_where_the_arms_have_other_graphs(same_graphs: bool) -> None:
    workload = (step(None), step(None, padded=True))
    other = workload if same_graphs else (step(None, 200),)
    mode = (*workload, counted("batch_8", 0), counted("batch_8", 0, padded=True))
    phases = [
        *launches(Arm.BASELINE, *CHANGED, steps=(*other, counted("batch_8", 3), counted("batch_8", 0, padded=True))),
        *launches(Arm.BATCH_INVARIANT, *UNCHANGED, steps=mode),
    ]
    found = {row.padded: (row.control_tokens, row.control_of, row.verdict) for row in report(phases).ledger}
    assert found[False] == (3, 10 if same_graphs else 20, Invariance.HOLDS)
    assert found[True][2] is (Invariance.NO_CONTROL if same_graphs else Invariance.HOLDS)


def test_a_class_of_one_sequence_is_said_so() -> None:
    (row,) = report(both(CHANGED, UNCHANGED, steps=(step(None, sequences=1),))).ledger
    assert in_words(row) == "1 to 128 tokens of context, 1 sequence"


def test_a_class_ends_where_the_engine_has_no_more_sequences() -> None:
    (row,) = report(both(CHANGED, UNCHANGED)).ledger
    observed = factories.phases([7.0])[0].observed
    assert observed is not None
    assert (row.sequences, row.sequences_below) == (9, min(33, observed.max_num_seqs + 1))


def test_a_class_that_the_baseline_did_not_probe_has_no_control() -> None:
    workload = (step(None), step(None, context=129))
    mode = (*workload, counted("batch_8", 0), counted("batch_8", 0, 129))
    phases = [
        *launches(Arm.BASELINE, *CHANGED, steps=(*workload, counted("batch_8", 3))),
        *launches(Arm.BATCH_INVARIANT, *UNCHANGED, steps=mode),
    ]
    assert {row.context: row.verdict for row in report(phases).ledger}[129] is Invariance.NO_CONTROL
    assert "but nothing was compared without the mode where 50 % of this workload's output tokens" in (
        report(phases).sentence
    )


def test_the_ledger_has_the_steps_of_the_mode_where_the_arms_pad_others() -> None:
    baseline = (step(None, padded=True), counted("batch_8", 3, padded=True))
    phases = [
        *launches(Arm.BASELINE, *CHANGED, steps=baseline),
        *launches(Arm.BATCH_INVARIANT, *UNCHANGED, steps=(step(None), counted("batch_8", 0))),
    ]
    judged = report(phases)
    assert [(row.padded, row.control_tokens, row.verdict) for row in judged.ledger] == [(False, 3, Invariance.HOLDS)]


def test_whether_the_engine_counted_the_steps_of_the_rule_is_said() -> None:
    assert report(both(CHANGED, UNCHANGED)).ruled_pct is None
    phases = both(CHANGED, UNCHANGED)
    phases[-1] = factories.with_trial(phases[-1], 0, ruled_pct=50.0)
    phases[-1] = factories.with_trial(phases[-1], 1, ruled_pct=100.0)
    share_pct = report(phases).ruled_pct
    assert share_pct is not None
    assert 50.0 < share_pct < 100.0
    assert "the sequences that the engine counted in its steps agree for 75.0 %" in source(share_pct)


def test_where_the_engine_takes_other_steps_than_the_rule_no_probe_is_held_against_them() -> None:
    phases = [
        factories.with_trial(phase, 0, ruled_pct=4.0) if phase.trials else phase for phase in both(CHANGED, UNCHANGED)
    ]
    said = report(phases)
    assert said.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_PROBED
    assert "its own counts agree with them for 4.0 % of the output tokens" in said.sentence
