"""Classes add up to the trial, differences to what the second arm took longer."""

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.findings import all_findings
from bi_experiments.analysis.operation_classes import OperationClass
from bi_experiments.analysis.profiles import ProfileComparison, class_times, describe, largest_operations, profiled
from bi_experiments.records import Arm, ExperimentResult, Finding, Profile
from tests import factories, profiles

TIMED_S = {Arm.BASELINE: 2.0, Arm.BATCH_INVARIANT: 2.5}


def result(**changes: Profile | None) -> ExperimentResult:
    """One pair whose first trial took 2.0 s in the baseline and 2.5 s in the second arm, and was profiled."""
    found = {"baseline": profiles.BASELINE, "batch_invariant": profiles.SECOND, **changes}
    phases = tuple(
        factories.phase(arm, times_s=(TIMED_S[arm], 3.0), profile=found[arm])
        for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT)
    )
    return factories.whole_result(phases)


def test_the_classes_add_up_to_the_profiled_trial() -> None:
    comparison = profiled(result())
    assert comparison is not None
    for arm in (comparison.baseline, comparison.second):
        assert sum(time.total_s for time in arm.classes.values()) == pytest.approx(arm.profile.time_s)
        assert arm.total_s == pytest.approx(TIMED_S[arm.arm])  # the profiler's own time is no class's
        assert arm.known_pct == 100.0


def test_prefill_and_decode_are_apart() -> None:
    times = class_times(profiles.BASELINE, timed_s=None)
    multiplied = times[OperationClass.MATRIX_MULTIPLICATION]
    assert (multiplied.prefill_s, multiplied.decode_s, multiplied.total_s) == (0.5, 0.75, 1.25)
    idle = times[OperationClass.HOST]
    assert idle.prefill_s == pytest.approx(0.3)
    assert idle.decode_s == pytest.approx(0.4)
    assert idle.total_s == pytest.approx(0.75)  # with 0.05 s that is in no step
    assert OperationClass.PROFILER not in times


def test_the_profiler_takes_from_what_was_idle_alone() -> None:
    times = class_times(profiles.BASELINE, timed_s=0.1)
    assert OperationClass.HOST not in times
    assert times[OperationClass.PROFILER].total_s == pytest.approx(0.75)
    assert times[OperationClass.MATRIX_MULTIPLICATION].total_s == 1.25
    on_cpu = class_times(replace(profiles.BASELINE, on_device=False), timed_s=2.0)
    assert OperationClass.PROFILER not in on_cpu  # there it slows every operator


def test_the_sentence_names_what_differs_most_first() -> None:
    comparison = profiled(result())
    assert comparison is not None
    assert describe(comparison) == (
        "Where the time goes, by one more run of trial 1 in each arm that a profiler observed: the second arm took "
        "0.50 s more: matrix multiplication +0.50, attention +0.050, host and idle -0.050, memory +0.000."
    )


def test_a_second_arm_that_took_less_time_says_so_without_a_sign() -> None:
    found = profiled(result())
    assert found is not None
    sentence = describe(found._replace(baseline=found.second, second=found.baseline))
    assert "the second arm took 0.50 s less: matrix multiplication -0.50, " in sentence


def test_a_run_that_does_not_explain_the_timed_difference_says_so() -> None:
    found = profiled(result())
    assert found is not None
    assert "does not explain" not in describe(found)
    slow = found._replace(baseline=found.baseline._replace(timed_s=4.4))
    assert "The same trial when it was timed: 1.90 s less, which this run does not explain." in describe(slow)


@pytest.mark.parametrize(("timed_s", "said"), [(4.4, True), (2.005, False), (1.9, False)])
def test_idle_time_says_nothing_where_the_observed_trial_was_the_shorter_one(timed_s: float, said: bool) -> None:
    found = profiled(result())
    assert found is not None
    arm = found.baseline._replace(timed_s=timed_s)
    sentence = describe(found._replace(baseline=arm._replace(profile=replace(arm.profile, time_s=2.0))))
    assert ("Read nothing from host and idle" in sentence) is said
    assert ("when it was observed (baseline)" in sentence) is said


@pytest.mark.parametrize("arm", [Arm.BASELINE, Arm.BATCH_INVARIANT])
def test_what_the_profiler_took_is_taken_out_of_both_arms_or_of_none(arm: Arm) -> None:
    """An arm whose trial was the shorter one when observed: what the profiler took of it is not known."""
    assert OperationClass.PROFILER in profiled_as(result()).baseline.classes
    slower = tuple(
        replace(one, trials=tuple(replace(trial, time_s=9.0) for trial in one.trials)) if one.arm is arm else one
        for one in result().phases
    )
    found = profiled_as(factories.whole_result(slower))
    assert OperationClass.PROFILER not in found.baseline.classes
    assert OperationClass.PROFILER not in found.second.classes
    assert found.difference_s == pytest.approx(profiles.SECOND.time_s - profiles.BASELINE.time_s)


def profiled_as(record: ExperimentResult) -> ProfileComparison:
    comparison = profiled(record)
    assert comparison is not None
    return comparison


def test_one_name_in_both_arms_stands_in_one_row() -> None:
    comparison = profiled(result())
    assert comparison is not None
    rows = {one.name: one for one in largest_operations(comparison)}
    assert next(iter(rows)) == "matmul_kernel_persistent"
    assert rows["matmul_kernel_persistent"].baseline_calls == 0
    assert (rows["matmul_kernel_persistent"].second_calls, rows["matmul_kernel_persistent"].second_s) == (68, 1.75)
    assert rows["kernel_unified_attention"].baseline_s == 0.25
    assert rows["kernel_unified_attention"].second_s == 0.3


def test_a_cut_trial_is_not_compared_with_the_timed_one() -> None:
    comparison = profiled(result(baseline=replace(profiles.BASELINE, whole=False)))
    assert comparison is not None
    assert comparison.baseline.timed_s is None


def findings(record: ExperimentResult) -> list[Finding]:
    return [
        one
        for one in all_findings(record.phases, factories.protocol(), 1, 2)
        if one.kind in {"no_profile", "unknown_operations"}
    ]


def test_with_one_arm_alone_nothing_is_compared_and_a_finding_says_why() -> None:
    record = result(batch_invariant=replace(profiles.SECOND, stopped="the profiler torch wrote no trace"))
    assert profiled(record) is None
    (finding,) = findings(record)
    assert finding.message == "The batch-invariant arm has no profile: the profiler torch wrote no trace."
    assert findings(result()) == []


def test_too_much_that_no_class_knows_is_a_finding() -> None:
    strange = profiles.operation("zzyzx_kernel", profiles.DECODE, 0.3)
    known = tuple(one for one in profiles.SECOND.operations if one.name != "kernel_unified_attention")
    (finding,) = findings(result(batch_invariant=replace(profiles.SECOND, operations=(*known, strange))))
    assert finding.kind == "unknown_operations"
    assert "10 %" in finding.message
    assert "zzyzx_kernel" in finding.message
