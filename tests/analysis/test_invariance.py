"""Verdicts: what is held to be proved, refuted or left open, and in which words."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.invariance import judge
from bi_experiments.records import Arm, Invariance, InvarianceReport, NeedleCheck, PhaseResult, PhaseStatus, ProbeResult
from tests import factories

DIFFERENT = NeedleCheck(equal=False, first_difference=2)


def probe(number: int, composition: str = "batch_8", differs_at: int | None = None, **changes: object) -> ProbeResult:
    equal = differs_at is None
    record = ProbeResult(
        probe=number,
        composition=composition,
        batch=0,
        position=number,
        equal=equal,
        first_difference=differs_at,
        tokens_equal=True,
        largest_logprob_difference=0.0 if equal else 0.016,
        digest=f"{composition} {number} {differs_at}",
    )
    return replace(record, **changes)


def probes(*differs_at: int | None) -> tuple[ProbeResult, ...]:
    return tuple(probe(number, differs_at=token) for number, token in enumerate(differs_at))


def launches(arm: Arm, *results: Sequence[ProbeResult]) -> list[PhaseResult]:
    return [factories.phase(arm, pair, probes=tuple(found)) for pair, found in enumerate(results)]


CHANGED = (probes(None, 0, None, 3), probes(None, 0, None, 3))
UNCHANGED = (probes(None, None, None, None), probes(None, None, None, None))


def report(
    phases: Sequence[PhaseResult], level: str = "standard", compositions: Sequence[str] = ()
) -> InvarianceReport:
    judged = judge(phases, level, compositions)
    assert judged is not None
    return judged


def both(baseline: Sequence[Sequence[ProbeResult]], other: Sequence[Sequence[ProbeResult]]) -> list[PhaseResult]:
    return [*launches(Arm.BASELINE, *baseline), *launches(Arm.BATCH_INVARIANT, *other)]


def test_holds_when_nothing_differs_where_the_baseline_does() -> None:
    judged = report(both(CHANGED, UNCHANGED))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS
    assert judged.verdict(Arm.BASELINE) is Invariance.VIOLATED
    assert judged.sentence == (
        "Batch invariance holds: none of 8 probe outputs changed with the batch or between 2 launches, "
        "while 4 of 8 probe outputs did without the mode."
    )


def test_one_differing_probe_of_one_launch_violates_and_is_named() -> None:
    judged = report(both(CHANGED, (UNCHANGED[0], probes(None, None, None, 17))))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    verdict = judged.arms[1]
    assert (verdict.differing, verdict.total) == (1, 8)
    assert verdict.first is not None
    assert (verdict.first.probe, verdict.first.first_difference) == (3, 17)
    assert judged.sentence.startswith(
        "VIOLATED: probe 3 changed at output token 17 (the first is 0) in composition batch_8"
    )
    assert "1 of 8 probe outputs" in judged.sentence
    assert "|delta logprob| 0.016" in judged.sentence


def test_not_shown_when_the_baseline_does_not_differ_either() -> None:
    judged = report(both(UNCHANGED, UNCHANGED))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_SHOWN
    assert judged.verdict(Arm.BASELINE) is Invariance.NOT_SHOWN
    assert judged.sentence.startswith("Not shown: ")
    assert judged.sentence.endswith("use a wider model or verify=full.")


def test_full_does_not_advise_full() -> None:
    assert "verify=full" not in report(both(UNCHANGED, UNCHANGED), level="full").sentence


def test_not_shown_without_a_baseline() -> None:
    judged = report(launches(Arm.BATCH_INVARIANT, *UNCHANGED))
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_SHOWN
    assert "no baseline" in judged.sentence


def test_not_shown_when_the_mode_was_never_probed() -> None:
    judged = report([*launches(Arm.BASELINE, *CHANGED), factories.phase(Arm.BATCH_INVARIANT)])
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_SHOWN
    assert judged.sentence == "Not shown: no probe of the batch-invariant arm was run."


def test_launches_that_disagree_do_not_violate_where_each_agrees_with_itself_but_it_is_said() -> None:
    other = (probe(0), replace(probe(1), digest="something else"), probe(2), probe(3))
    judged = report(both(CHANGED, (UNCHANGED[0], other)))
    verdict = judged.arms[1]
    assert verdict.verdict is Invariance.HOLDS
    assert (verdict.differing, verdict.launches_compared, verdict.launches_differing) == (0, 2, 1)
    assert "holds: none of 8 probe outputs changed with the batch, while" in judged.sentence
    assert judged.sentence.endswith("But not from launch to launch: 1 probe output not the same in all 2 launches.")


def test_outputs_of_other_places_are_not_compared_between_launches() -> None:
    here, there = replace(probe(0), position=1, digest="a"), replace(probe(0), position=2, digest="b")
    assert report(both(CHANGED, ((here,), (there,)))).arms[1].launches_differing == 0


def test_a_needle_that_changes_in_a_trial_violates() -> None:
    phases = both(CHANGED, UNCHANGED)
    phases[-1] = factories.with_trial(phases[-1], 1, needle=DIFFERENT)
    judged = report(phases)
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    assert judged.needle_differing == {Arm.BASELINE: 0, Arm.BATCH_INVARIANT: 1}
    assert judged.needle_total == {Arm.BASELINE: 8, Arm.BATCH_INVARIANT: 8}
    assert judged.sentence == "VIOLATED: the needle's tokens changed in 1 of 8 trials."


def test_a_needle_that_changes_in_the_baseline_is_a_positive_control() -> None:
    phases = both(UNCHANGED, UNCHANGED)
    phases[0] = factories.with_trial(phases[0], 1, needle=DIFFERENT)
    judged = report(phases)
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS
    assert "the needle's tokens in 1 of 8 trials did without the mode" in judged.sentence


@pytest.mark.parametrize(("second", "verdict"), [(CHANGED, Invariance.VIOLATED), (UNCHANGED, Invariance.NOT_SHOWN)])
def test_a_control_is_another_baseline(second: Sequence[Sequence[ProbeResult]], verdict: Invariance) -> None:
    judged = report([*launches(Arm.BASELINE, *CHANGED), *launches(Arm.CONTROL, *second)])
    assert judged.verdict(Arm.CONTROL) is verdict
    assert judged.verdict(Arm.BATCH_INVARIANT) is None
    assert judged.sentence.startswith("Without the mode 4 of 8 probe outputs and ")
    assert "as expected" in judged.sentence


def test_a_control_that_never_differs_shows_nothing() -> None:
    judged = report([*launches(Arm.BASELINE, *UNCHANGED), *launches(Arm.CONTROL, *UNCHANGED)])
    assert judged.sentence.startswith("Not shown: without the mode no probe output changed")


def test_failed_phases_are_judged_by_what_they_have() -> None:
    phases = both(CHANGED, (UNCHANGED[0], probes(None)))
    phases[-1] = replace(phases[-1], status=PhaseStatus.FAILED, error="out of memory", trials=())
    judged = report(phases)
    assert judged.arms[1].total == 5
    assert judged.verdict(Arm.BATCH_INVARIANT) is Invariance.HOLDS


def test_compositions_are_counted_for_both_arms_over_all_launches() -> None:
    mixed = (probe(0, "ragged", 1, tokens_equal=False), probe(1, "ragged"), probe(0, "seeded", 0))
    judged = report(both((mixed, mixed), (probes(None), probes(None))))
    counts = {(one.composition, one.arm): one for one in judged.compositions}
    ragged = counts["ragged", Arm.BASELINE]
    assert (ragged.differing, ragged.total, ragged.tokens_differing) == (2, 4, 2)
    assert ragged.largest_logprob_difference == 0.016
    assert counts["seeded", Arm.BASELINE].tokens_differing == 0
    assert counts["batch_8", Arm.BATCH_INVARIANT].total == 2
    assert ("ragged", Arm.BATCH_INVARIANT) not in counts


def test_compositions_without_a_result_are_named() -> None:
    judged = report(both(CHANGED, UNCHANGED), compositions=("batch_8", "prefix_cache"))
    assert judged.not_run == ("prefix_cache",)


def test_nothing_is_judged_when_verification_is_off_or_nothing_ran() -> None:
    assert judge(both(CHANGED, CHANGED), "off") is None
    assert judge([factories.phase(trials=())], "standard") is None
    assert judge([], "standard") is None
