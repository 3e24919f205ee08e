"""What is said of a verdict: its reasons where they are so, and the remedy that there is."""

import pytest
from msgspec.structs import replace

from bi_experiments.records import Arm, Fault, Invariance, NeedleCheck, StepCount, StepKind
from tests import factories
from tests.analysis.probed_phases import CHANGED, UNCHANGED, both, counted, launches, probes, report, step


def test_full_does_not_advise_full() -> None:
    assert "verify=full" not in report(both(UNCHANGED, UNCHANGED), level="full").sentence


def test_each_reason_for_no_control_is_said() -> None:
    workload = (step(None), *(step(None, 50, context=context) for context in (129, 513, 1025)))
    mode = (*workload, *(counted("batch_8", 0, context) for context in (1, 129, 513, 1025)))
    far = counted("batch_8", 0, 513, comparable=0)
    baseline = (*workload, counted("batch_8", 3), counted("batch_8", 0, 129), far)
    phases = [
        *launches(Arm.BASELINE, *CHANGED, steps=baseline),
        *launches(Arm.BATCH_INVARIANT, *UNCHANGED, steps=mode),
    ]
    sentence = report(phases).sentence
    assert "none did either where 20 % of this workload's output tokens are (129" in sentence
    assert "use a wider model or verify=full; and nothing was compared without the mode where 20 % of" in sentence
    assert sentence.count("No control") == 2
    assert "No control of their own for 20 % of this workload's output tokens (513" in sentence


def test_a_change_outside_the_steps_that_are_known_is_not_put_down_to_split_prompts() -> None:
    steps = (step(None), prefill_of(False, 0), prefill_of(True, 1))
    split, cached = probes(0), probes(0, composition="prefix_cache")
    said = "of a prompt that was computed in several steps"
    assert said in report(launches(Arm.BATCH_INVARIANT, split, steps=steps)).sentence
    assert said not in report(launches(Arm.BATCH_INVARIANT, (*split, *cached), steps=steps)).sentence


@pytest.mark.parametrize("prompt", [0, 1])
def test_where_the_change_of_a_timed_output_begins_is_not_known(prompt: int) -> None:
    """Seen with FLASH_ATTN_MLA: the timed batches split other prompts than the proof's, whose steps are known."""
    steps = (
        step(None),
        replace(prefill_of(False, 0), composition="trial"),
        replace(prefill_of(True, 1), composition="trial"),
    )
    probed = probes(None, 0, composition="trial")
    said = "of a prompt that was computed in several steps"
    assert "Every change begins" in report(launches(Arm.BATCH_INVARIANT, probed, steps=steps)).sentence
    timed = probes(*(3 if number == prompt else None for number in range(2)), composition="timed")
    sentence = report(launches(Arm.BATCH_INVARIANT, (*probed, *timed), steps=steps)).sentence
    assert "Every other change begins" in sentence
    assert f"{said}; of 1 timed output that changed this is not known." in sentence
    alone = report(launches(Arm.BATCH_INVARIANT, (*UNCHANGED[0], *timed), steps=steps)).sentence
    assert said not in alone


@pytest.mark.parametrize(
    ("split", "known"),
    [
        ((1,), "1 of 1 outputs of prompts known to be such changed, and 0 of 1 others"),
        ((), "0 of 0 outputs of prompts known to be such changed, and 1 of 2 others"),
    ],
)
def test_what_is_known_of_the_steps_of_timed_outputs_is_said(split: tuple[int, ...], known: str) -> None:
    steps = (
        step(None),
        replace(prefill_of(False, 0), composition="trial"),
        replace(prefill_of(True, 1), composition="trial"),
    )
    found = [
        *probes(None, 0, composition="trial"),
        *(replace(one, position=one.probe) for one in probes(None, 3, composition="timed")),
    ]
    (phase,) = launches(Arm.BATCH_INVARIANT, found, steps=steps)
    phase = replace(phase, trials=tuple(replace(trial, split=split) for trial in phase.trials))
    assert f"in several steps; as timed, over all launches, {known}." in report([phase]).sentence


def prefill_of(split: bool, changed: int | None) -> StepCount:
    return counted("batch_8", changed, sequences=0, kind=StepKind.PREFILL, split=split)


@pytest.mark.parametrize(
    ("differs_at", "steps", "said"),
    [
        (0, (prefill_of(False, 0), prefill_of(True, 2)), True),
        (1, (prefill_of(False, 0), prefill_of(True, 0)), False),
        (0, (prefill_of(False, 2), prefill_of(True, 0)), False),
        (0, (prefill_of(False, 1), prefill_of(True, 1)), False),
        (0, (prefill_of(False, None), prefill_of(True, None)), False),
        (0, (), False),
    ],
)
def test_that_every_change_begins_in_prompts_of_several_steps_is_said_where_it_is_so(
    differs_at: int, steps: tuple[StepCount, ...], said: bool
) -> None:
    changed = probes(None, differs_at)
    judged = report(launches(Arm.BATCH_INVARIANT, changed, steps=(step(None), *steps)))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    assert ("of a prompt that was computed in several steps" in judged.sentence) is said


def test_several_classes_of_prefill_without_a_control_are_not_said_to_be_one() -> None:
    prefill = step(None, 30, context=1025, sequences=0, kind=StepKind.PREFILL)
    longer = replace(prefill, context=2049, tokens=70)
    probed = [counted("batch_8", 0, one.context, sequences=0, kind=StepKind.PREFILL) for one in (prefill, longer)]
    judged = report(both(CHANGED, UNCHANGED, steps=(step(None, 900), prefill, longer, counted("batch_8", 3), *probed)))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS
    assert (
        "prefill of 100 % of this workload's prompts (most in: prefill of 2049 to 4096 tokens): nothing"
        in judged.sentence
    )


def test_prompts_that_were_left_out_for_lack_of_time_are_said() -> None:
    sampled = probes(*[None] * 20, composition="trial", sampled=True)
    phases = both([(*CHANGED[0], *probes(*[0] * 20, composition="trial"))], [(*UNCHANGED[0], *sampled)])
    judged = report([replace(phase, left_out=12) for phase in phases])
    assert judged.left_out == 12
    assert "(20 of the 32 prompts drawn were compared before time ran out; 95 % confidence)." in judged.sentence


def test_launches_that_came_to_other_numbers_of_prompts_have_drawn_the_same() -> None:
    control = (*CHANGED[0], *probes(*[0] * 20, composition="trial"))
    sampled = [probes(*[None] * number, composition="trial", sampled=True) for number in (20, 25)]
    phases = both([control], [(*UNCHANGED[0], *found) for found in (*sampled, ())])
    left_out = [12, 12, 7, 0]  # the last launch drew none
    judged = report([replace(phase, left_out=number) for phase, number in zip(phases, left_out, strict=True)])
    assert "(25 of the 32 prompts drawn were compared before time ran out; 95 % confidence)." in judged.sentence


@pytest.mark.parametrize(("differing", "bound", "which"), [(0, 13.9, ""), (2, 28.3, ", of which 2 changed")])
def test_a_violation_says_how_much_of_the_workload_it_may_concern(differing: int, bound: float, which: str) -> None:
    sampled = probes(*[0] * differing, *[None] * (20 - differing), composition="trial", sampled=True)
    judged = report(launches(Arm.BATCH_INVARIANT, (*CHANGED[0], *sampled)))
    said = f"At most {bound} % of this workload's outputs could change (20 prompts sampled{which}; 95 % confidence)."
    assert said in judged.sentence
    faulty = probes(None, None, composition="trial", sampled=True, fault=Fault.NAN)
    assert "At most" not in report(launches(Arm.BATCH_INVARIANT, faulty)).sentence


def test_what_the_baseline_differs_by_alone_is_said_next_to_what_it_changed_by() -> None:
    noise = probes(0, None, composition="batch_1")
    changed = probes(None, 3, repeatable=True)
    judged = report(both([(*noise, *changed)], [(*probes(None, None, composition="batch_1"), *UNCHANGED[0])]))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS
    assert "while 1 of 2 probe outputs did without the mode (1 of 2 differ alone too)." in judged.sentence


def test_probes_alone_are_not_said_to_be_unchanged_elsewhere() -> None:
    alone = probes(None, None, composition="batch_1")
    judged = report(both([alone], [alone], steps=(step(None),)))
    assert judged.sentence == (
        "Not probed: no probe was in 1 class of steps with 100 % of this workload's output tokens (most in: 1 to 128 "
        "tokens of context, 9 to 16 sequences)."
    )


@pytest.mark.parametrize(("level", "said"), [("needle", "no probe but the needle was"), ("standard", "no probe was")])
def test_a_needle_is_not_said_to_be_no_probe(level: str, said: str) -> None:
    needle = probes(None, composition="needle")
    judged = report(both([needle], [needle], steps=(step(None), step("needle", 10))), level=level)
    assert judged.sentence.startswith(f"Not probed: {said} in 1 class of steps")
    assert "; elsewhere none of 1 probe output (1 prompt) changed with the batch." in judged.sentence


def test_a_baseline_without_another_arm_is_said_to_be_alone() -> None:
    alone = report(launches(Arm.BASELINE, *CHANGED)).sentence
    assert alone.endswith("as expected: the probes see a difference. No other arm was probed.")
    both_arms = report([*launches(Arm.BASELINE, *CHANGED), *launches(Arm.CONTROL, *CHANGED)]).sentence
    assert both_arms.endswith("as expected: the probes see a difference.")


@pytest.mark.parametrize(
    ("equal", "said"),
    [
        (True, "Not probed: no probe was run."),
        (
            False,
            "Without the mode the needle's tokens in 1 of 4 trials of the baseline changed with the batch, as expected."
            " No probe was run.",
        ),
    ],
)
def test_trials_alone_are_no_probes(equal: bool, said: str) -> None:
    needle = NeedleCheck(equal=equal, first_difference=None if equal else 2)
    assert report([factories.with_trial(factories.phase(Arm.BASELINE), 1, needle=needle)]).sentence == said


def test_a_control_that_never_differs_shows_nothing() -> None:
    judged = report([*launches(Arm.BASELINE, *UNCHANGED), *launches(Arm.CONTROL, *UNCHANGED)])
    assert judged.sentence.startswith("No control: without the mode no probe output changed")
