from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.metrics import compare_phases
from bi_experiments.config.compose import compose
from bi_experiments.records import (
    Arm,
    ArmVerdict,
    CompositionCount,
    ExperimentResult,
    Invariance,
    InvarianceReport,
    NeedleCheck,
    PhaseStatus,
)
from bi_experiments.tracking.runs import Point, composition_table, identity, ledger_table, of_experiment, of_phase
from bi_experiments.tracking.system_metrics import Reading
from tests import factories


def configuration(*overrides: str) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(compose(overrides))
    return plain


def result(*overrides: str) -> ExperimentResult:
    phases = factories.phases([7.0, 7.5, 8.0])
    comparison = factories.comparison(*compare_phases(phases, Design(equivalence_pct=1.0)))
    return factories.experiment_result(phases, configuration=configuration(*overrides), comparison=comparison)


def values(points: tuple[Point, ...]) -> dict[str, float]:
    return {point.key: point.value for point in points}


def test_a_phase_has_the_metrics_that_people_know() -> None:
    record = result()
    phase = record.phases[0]
    run = of_phase(record, phase)
    metrics = values(run.points)
    assert metrics["init_time"] == 12.0
    assert (metrics["avg_time"], metrics["min_time"], metrics["max_time"]) == (2.75, 2.0, 3.5)
    assert (metrics["total_tokens"], metrics["total_prompts"]) == (512, 32)
    assert metrics["throughput"] == pytest.approx(512 / 11)
    assert metrics["prompts_per_sec"] == pytest.approx(32 / 11)
    series = [(point.step, point.value) for point in run.points if point.key == "trial_time"]
    assert series == [(0, 2.0), (1, 3.0), (2, 2.5), (3, 3.5)]
    assert run.start_ms == round(1000 * phase.started_at)
    assert run.end_ms == round(1000 * (phase.started_at + phase.wall_time_s))


def test_a_phase_has_system_metrics_by_the_names_that_mlflow_gives_them() -> None:
    record = result()
    readings = [Reading(time=1000.0 + 5 * k, values={"cpu_utilization_percentage": 90.0 + k}) for k in range(2)]
    run = of_phase(record, record.phases[0], readings)
    series = [point for point in run.points if point.key.startswith("system/")]
    assert series == [
        Point("system/cpu_utilization_percentage", 90.0, 1_000_000, 0),
        Point("system/cpu_utilization_percentage", 91.0, 1_005_000, 1),
    ]


def test_the_experiment_has_both_arms_and_the_overheads_with_their_intervals() -> None:
    record = result()
    assert record.comparison is not None
    metrics = values(of_experiment(record).points)
    assert (metrics["baseline/init_time_cold"], metrics["baseline/init_time_warm"]) == pytest.approx((12, 8))
    assert "baseline/init_time" not in metrics  # no mean of cold and warm ones
    assert metrics["batch_invariant/avg_time"] == pytest.approx(2.75 * 1.075, rel=5e-4)
    total_time, trial_time = record.comparison.metric("total_time"), record.comparison.metric("trial_time")
    assert total_time is not None
    assert trial_time is not None
    for key, exact in (
        ("cost", total_time.change_pct),
        ("low", total_time.low_pct),
        ("high", total_time.high_pct),
        ("baseline/total_time", total_time.baseline),
        ("overhead/trial_time_pct", trial_time.change_pct),
    ):
        assert exact is not None
        assert metrics[key] == pytest.approx(exact, rel=5e-4)
        assert len(str(metrics[key]).replace(".", "").lstrip("-0")) <= 4, "four digits fit a column"
    assert "overhead/init_time_cold_pct" in metrics


def test_of_the_users_caches_no_initialisation_is_logged_as_cold_or_warm() -> None:
    metrics = values(of_experiment(factories.whole_result(None, "protocol.caches=user")).points)
    assert (metrics["baseline/init_time_first_launch"], metrics["baseline/init_time_later_launches"]) == (12, 8)
    assert [name for name in metrics if "cold" in name or "warm" in name] == []


def test_an_experiment_has_about_thirty_metrics_and_result_json_has_the_rest() -> None:
    whole = replace(factories.whole_result(), invariance=factories.proof_report())
    assert 20 <= len(of_experiment(whole).points) <= 36


def test_without_an_interval_none_is_made_up() -> None:
    phases = factories.phases([7.0])
    comparison = factories.comparison(*compare_phases(phases, Design(equivalence_pct=1.0)))
    metrics = values(of_experiment(factories.experiment_result(phases, comparison=comparison)).points)
    assert "cost" in metrics
    assert not {"low", "high"} & metrics.keys()


def test_the_columns_of_a_table_are_tags_with_short_names() -> None:
    tags = of_experiment(replace(result("experiment=cpu_demo"), invariance=factories.proof_report())).tags
    wanted = {
        "low": "6.264",
        "high": "8.748",
        "verdict": "slower",
        "holds": "not probed",
        "backend": "CPU_ATTN",
        "tp": "1",
        "release": "0.32.0",
    }
    assert wanted.items() <= tags.items()
    assert tags["batch"] == of_experiment(result("experiment=cpu_demo")).parameters["workload.max_batch_size"]
    assert of_experiment(result()).tags["model"] == "Qwen3-1.7B"


def test_tags_say_what_vllm_made_of_the_settings() -> None:
    tags = of_experiment(result("experiment=cpu_demo")).tags
    assert result("experiment=cpu_demo").configuration["backend"]["async_scheduling"] is None
    assert tags["observed/async_scheduling"] == "false"
    assert tags["observed/attention_backend"] == "CPU_ATTN"


def test_tags_say_what_differs_between_the_arms() -> None:
    assert of_experiment(result()).tags["differs"] == "nothing that vLLM reports"
    phases = tuple(
        replace(one, observed=replace(one.observed, compilation_mode="VLLM_COMPILE"))
        if one.arm.batch_invariant and one.observed is not None
        else one
        for one in factories.phases([7.0, 7.5])
    )
    tags = of_experiment(factories.experiment_result(phases)).tags
    assert tags["differs"] == "compilation_mode"
    assert tags["differs/compilation_mode"].endswith("-> VLLM_COMPILE")


def test_a_baseline_that_differs_is_no_violation() -> None:
    tags = of_experiment(replace(result(), invariance=invariance())).tags
    assert (tags["invariance/baseline"], tags["invariance/batch_invariant"]) == ("differs", "holds")


def test_a_control_experiment_is_not_logged_as_batch_invariant() -> None:
    record = factories.experiment_result(factories.phases([0.1], second=Arm.CONTROL))
    keys = values(of_experiment(record).points)
    assert "control/total_time" in keys
    assert not [key for key in keys if key.startswith("batch_invariant/")]


def invariance() -> InvarianceReport:
    arms = {Arm.BASELINE: (20, Invariance.VIOLATED), Arm.BATCH_INVARIANT: (0, Invariance.HOLDS)}
    return InvarianceReport(
        level="standard",
        arms=tuple(
            ArmVerdict(
                arm=arm, verdict=verdict, differing=differing, total=24, launches_compared=3, launches_differing=1
            )
            for arm, (differing, verdict) in arms.items()
        ),
        compositions=(
            CompositionCount(
                composition="ragged",
                arm=Arm.BASELINE,
                differing=20,
                total=24,
                tokens_differing=3,
                largest_logprob_difference=0.0156,
            ),
            CompositionCount(
                composition="batch_8",
                arm=Arm.BATCH_INVARIANT,
                differing=0,
                total=12,
                tokens_differing=0,
                largest_logprob_difference=0.0,
            ),
        ),
        needle_differing={Arm.BASELINE: 2},
        needle_total={Arm.BASELINE: 12, Arm.BATCH_INVARIANT: 12},
        sentence="It holds.",
    )


def test_invariance_is_logged_by_arm() -> None:
    run = of_experiment(replace(result(), invariance=invariance()))
    metrics = values(run.points)
    assert metrics["invariance/baseline/differing"] == 20
    assert metrics["invariance/batch_invariant/differing"] == 0
    assert metrics["invariance/batch_invariant/total"] == 24
    assert run.tags["invariance/batch_invariant"] == "holds"
    assert "It holds." in run.tags["mlflow.note.content"]


def test_the_table_of_compositions_has_a_row_for_each_and_columns_for_each_arm() -> None:
    assert composition_table(invariance()) == {
        "composition": ["ragged", "batch_8"],
        "baseline: differing": [20, ""],
        "baseline: total": [24, ""],
        "baseline: tokens differing": [3, ""],
        "baseline: largest |d logprob|": [0.0156, ""],
        "batch_invariant: differing": ["", 0],
        "batch_invariant: total": ["", 12],
        "batch_invariant: tokens differing": ["", 0],
        "batch_invariant: largest |d logprob|": ["", 0.0],
    }


def test_a_needle_that_differs_is_counted_in_its_phase() -> None:
    phase = factories.with_trial(factories.phase(), 1, needle=NeedleCheck(equal=False, first_difference=3))
    assert values(of_phase(result(), phase).points)["needle_differing"] == 1


def test_tags_say_where_it_ran_and_what_came_out() -> None:
    tags = of_experiment(result()).tags
    assert tags["verdict/trial_time"] == "slower"
    assert tags["device"] == "Some CPU at 2.0 GHz"
    assert tags["vllm_version"] == "0.32.0"
    assert tags["git_commit"] == "0123456789abcdef0123456789abcdef01234567"
    assert tags["status"] == "finished"


def test_the_note_has_the_sentence_and_a_table() -> None:
    lines = of_experiment(result()).tags["mlflow.note.content"].splitlines()
    assert lines[0] == "**Batch invariance costs 7.4 % total time here [6.1 %, 8.8 %], 3 pairs.**"
    assert "| trial_time | s | 2.692 | 2.894 | +7.50 | +6.26 .. +8.75 | slower |" in lines


@pytest.mark.parametrize(
    ("status", "run_status"),
    [(PhaseStatus.FAILED, "FAILED"), (PhaseStatus.TIMED_OUT, "FAILED"), (PhaseStatus.INTERRUPTED, "KILLED")],
)
def test_a_phase_that_did_not_end_well_marks_both_runs(status: PhaseStatus, run_status: str) -> None:
    phase = factories.phase(status=status, error="it broke", init_time_s=None, trials=())
    record = factories.experiment_result([phase], comparison=None)
    for run in (of_experiment(record), of_phase(record, phase)):
        assert run.status == run_status
        assert run.tags["reason"] == "it broke"


def test_the_run_of_a_resumed_experiment_lasts_as_long_as_those_of_its_phases() -> None:
    *others, last = factories.phases()
    late = replace(last, started_at=last.started_at + 3600)
    run = of_experiment(factories.experiment_result((*others, late), wall_time_s=100.0))
    assert run.end_ms == round(1000 * (late.started_at + late.wall_time_s))


def test_a_launch_before_the_first_pair_that_failed_marks_the_experiment() -> None:
    discarded = factories.phase(status=PhaseStatus.FAILED, error="it broke", init_time_s=None, trials=())
    run = of_experiment(factories.experiment_result([], comparison=None, discarded=discarded))
    assert (run.status, run.tags["reason"]) == ("FAILED", "it broke")


def test_every_configuration_has_the_same_parameters() -> None:
    # A seeded checkpoint's shape and the environment variables are deeper in one than in the other.
    demo, default = of_experiment(result("experiment=cpu_demo")), of_experiment(result())
    assert demo.parameters.keys() == default.parameters.keys()
    assert default.parameters["model.name"] == "Qwen/Qwen3-1.7B"
    assert default.parameters["tp"] == "1"
    phase = of_phase(result(), result().phases[0])
    assert phase.parameters == default.parameters


def test_long_values_are_shortened() -> None:
    record = result()
    long = replace(record, configuration={**record.configuration, "model": {"name": "x" * 9000}}, stopped="y" * 9000)
    run = of_experiment(long)
    assert run.parameters["model.name"] == "x" * 499 + "…"
    assert len(run.tags["reason"]) == 5000


def test_the_identity_is_of_the_execution_and_not_of_its_analysis() -> None:
    record = result()
    assert identity(record) == identity(replace(record, comparison=None))
    assert identity(record) != identity(replace(record, started_at=record.started_at + 0.001))


def test_the_ledger_the_bound_and_the_launches_are_logged() -> None:
    report = factories.proof_report()
    run = of_experiment(replace(result(), invariance=report))
    metrics = values(run.points)
    assert metrics["invariance/bound_pct"] == 18.1
    assert metrics["invariance/not_probed_pct"] == pytest.approx(3.0)
    assert run.tags["reproducible/batch_invariant"] == "reproducible"
    assert run.tags["invariance/batch_invariant"] == "not_probed"
    assert composition_table(report)["verdict"] == ["", "holds", "no_control"]
    assert ledger_table(report)["verdict"] == ["holds", "not_probed"]
    assert ledger_table(report)["probe tokens"] == [1234, 0]
