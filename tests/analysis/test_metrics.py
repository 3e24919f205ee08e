"""The estimator against scipy's own tests, and every metric against numbers worked out by hand."""

import math
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats as scipy_stats

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.estimates import (
    HIGHER_IS_QUICKER,
    paired_estimate,
    two_stage_estimate,
    verdict,
    welch_estimate,
)
from bi_experiments.analysis.metrics import compare_phases, own_s_per_token, summarise
from bi_experiments.analysis.pairs import complete_pairs
from bi_experiments.analysis.trial_costs import trial_costs
from bi_experiments.records import Arm, ClockReading, Difference, Metric, PhaseResult, PhaseStatus
from tests import factories

DESIGN = Design(equivalence_pct=1.0)


def metric(phases: Sequence[PhaseResult], name: str) -> Metric:
    return next(metric for metric in compare_phases(phases, DESIGN) if metric.name == name)


# --- Estimates ------------------------------------------------------------------------------------------------------


def test_paired_interval_is_the_one_sample_t_interval_of_the_log_ratios() -> None:
    differences = [0.071, 0.066, 0.083, 0.074]
    interval = scipy_stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    estimate = paired_estimate(differences)
    assert estimate.change_pct == pytest.approx(100 * (math.exp(sum(differences) / 4) - 1))
    assert estimate.low_pct == pytest.approx(100 * (math.exp(interval.low) - 1))
    assert estimate.high_pct == pytest.approx(100 * (math.exp(interval.high) - 1))


def test_two_pairs_use_the_quantile_for_one_degree_of_freedom() -> None:
    estimate = paired_estimate([0.01, 0.03])
    assert estimate.high_pct == pytest.approx(100 * math.expm1(0.02 + 12.7062 * 0.01), rel=1e-5)


def test_one_pair_has_an_estimate_and_no_interval() -> None:
    estimate = paired_estimate([math.log(1.25)])
    assert estimate.change_pct == pytest.approx(25.0)
    assert (estimate.low_pct, estimate.high_pct) == (None, None)
    assert estimate.half_width_pct is None


def test_welch_interval_is_that_of_unequal_variances() -> None:
    first, second = [0.07, 0.06, 0.08], [0.10, 0.16, 0.09, 0.14, 0.11]
    interval = scipy_stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    estimate = welch_estimate(first, second)
    assert estimate.low_pct == pytest.approx(100 * math.expm1(interval.low))
    assert estimate.high_pct == pytest.approx(100 * math.expm1(interval.high))


@pytest.mark.parametrize(("first", "second"), [([0.1], [0.1, 0.2]), ([0.1, 0.2], [0.1])])
def test_welch_has_no_interval_when_one_side_has_one_pair(first: list[float], second: list[float]) -> None:
    assert welch_estimate(first, second).low_pct is None


def test_welch_of_samples_without_spread_is_a_point() -> None:
    estimate = welch_estimate([0.0, 0.0], [0.1, 0.1])
    assert estimate.low_pct == estimate.change_pct == estimate.high_pct == pytest.approx(100 * math.expm1(0.1))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (6.1, 8.8, Difference.SLOWER),
        (0.2, 4.0, Difference.SLOWER),
        (-9.0, -0.1, Difference.FASTER),
        (-0.9, 1.0, Difference.EQUIVALENT),
        (0.2, 0.8, Difference.EQUIVALENT),
        (-0.1, 4.0, Difference.INCONCLUSIVE),
        (-5.0, 5.0, Difference.INCONCLUSIVE),
        (None, None, Difference.INCONCLUSIVE),
    ],
)
def test_verdict(low: float | None, high: float | None, expected: Difference) -> None:
    assert verdict(low, high, equivalence_pct=1.0) is expected


def test_more_of_something_good_is_faster() -> None:
    assert verdict(5.0, 6.0, 1.0, HIGHER_IS_QUICKER) is Difference.FASTER
    assert verdict(-6.0, -5.0, 1.0, HIGHER_IS_QUICKER) is Difference.SLOWER


# --- Pairs ----------------------------------------------------------------------------------------------------------


def test_a_pair_with_a_phase_that_did_not_end_well_is_left_out() -> None:
    phases = factories.phases((7.0, 8.0, 9.0))
    interrupted = tuple(
        replace(phase, status=PhaseStatus.INTERRUPTED) if phase.index == 3 else phase for phase in phases
    )
    assert [pair.baseline.pair for pair in complete_pairs(interrupted)] == [0, 2]
    assert metric(interrupted, "trial_time").pairs == 2


def test_a_pair_with_a_missing_trial_or_a_missing_phase_is_left_out() -> None:
    first, second, third, *_, lonely = factories.phases((7.0, 8.0, 9.0, 10.0))
    cut = replace(third, trials=third.trials[:-1])
    fourth = factories.phases((7.0, 8.0))[3]
    assert [pair.baseline.pair for pair in complete_pairs((lonely, fourth, cut, second, first))] == [0]


def test_nothing_is_compared_without_a_complete_pair() -> None:
    phases = (factories.phase(Arm.BASELINE),)
    assert compare_phases(phases, DESIGN) == ()
    assert own_s_per_token(phases) is None


def test_the_control_arm_takes_the_place_of_the_other_arm() -> None:
    phases = factories.phases((0.5, -0.5), second=Arm.CONTROL)
    assert metric(phases, "trial_time").pairs == 2


# --- Metrics --------------------------------------------------------------------------------------------------------


def test_trial_time_is_the_mean_log_ratio_of_the_same_trials() -> None:
    baseline = factories.phase(Arm.BASELINE, times_s=(1.0, 4.0))
    other = factories.phase(Arm.BATCH_INVARIANT, times_s=(2.0, 4.0))
    result = metric((baseline, other), "trial_time")
    assert result.change_pct == pytest.approx(100 * (math.sqrt(2) - 1))
    assert (result.baseline, result.second) == pytest.approx((2.0, math.sqrt(8)))
    assert result.unit == "s"
    assert metric((baseline, other), "total_time").change_pct == pytest.approx(20.0)


def test_the_columns_of_every_row_have_the_ratio_that_the_row_states() -> None:
    rng = np.random.default_rng(5)
    phases = tuple(
        factories.phase(arm, pair, times_s=rng.lognormal(sigma=0.5, size=4).tolist(), init_time_s=float(10 + pair))
        for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT)
        for pair in range(4)
    )
    for paired in (True, False):
        for row in compare_phases(phases, DESIGN._replace(paired=paired)):
            if row.change_pct is not None:
                assert row.second / row.baseline == pytest.approx(1 + row.change_pct / 100), row.name
        for cost in trial_costs(complete_pairs(phases), DESIGN._replace(paired=paired)):
            assert cost.change_pct is not None
            assert cost.second_s / cost.baseline_s == pytest.approx(1 + cost.change_pct / 100)


def test_the_two_values_of_a_row_and_its_change_say_the_same() -> None:
    """A wild second trial of the baseline: 1.117 s and 0.445 s beside -50.93 % would be of two estimators."""
    phases = (
        factories.phase(Arm.BASELINE, times_s=(0.456, 1.778)),
        factories.phase(Arm.BATCH_INVARIANT, times_s=(0.45, 0.44)),
    )
    for found in compare_phases(phases, DESIGN):
        assert found.withheld or 100 * (found.second / found.baseline - 1) == pytest.approx(found.change_pct)


def test_energy_a_token_and_decode_steps_are_compared_where_every_trial_has_them() -> None:
    def read(phase: PhaseResult, power_w: float | None) -> PhaseResult:
        clocks = tuple(
            ClockReading(trial=one.index, device=device, sm_clock_mhz=1, temperature_c=1, power_w=power_w)
            for one in phase.trials
            for device in (0, 1)
        )
        trials = tuple(replace(one, decode_step_s=0.004) for one in phase.trials)
        return replace(phase, clocks=clocks, trials=trials)

    phases = factories.phases((0.0,), times_s=(2.0,))
    found = metric([read(phase, 320.0) for phase in phases], "energy_per_token")
    assert found.baseline == pytest.approx(2 * 320.0 * 2.0 / 128)
    assert found.unit == "J/token"
    assert metric([read(phase, 320.0) for phase in phases], "decode_step").baseline == pytest.approx(0.004)
    names = {one.name for one in compare_phases([read(phase, None) for phase in phases], DESIGN)}
    assert "energy_per_token" not in names


def test_trial_time_has_the_interval_of_its_pairs() -> None:
    phases = factories.phases((7.0, 7.5, 8.0))
    result = metric(phases, "trial_time")
    expected = paired_estimate([math.log(1.07), math.log(1.075), math.log(1.08)])
    assert (result.change_pct, result.low_pct, result.high_pct) == pytest.approx(tuple(expected)[:3])
    assert result.verdict is Difference.SLOWER
    assert result.adjusted_p_value is not None
    assert result.adjusted_p_value > (result.p_value or 1.0) == pytest.approx(expected.p_value)


def test_cpu_time_is_compared_trial_by_trial() -> None:
    phases = factories.phases((10.0, 10.0))
    assert metric(phases, "cpu_time").change_pct == pytest.approx(10.0)


def test_cold_and_warm_initialisation_are_kept_apart() -> None:
    times = {(Arm.BASELINE, 0): 20.0, (Arm.BATCH_INVARIANT, 0): 30.0}
    warm = {Arm.BASELINE: 8.0, Arm.BATCH_INVARIANT: 10.0}
    phases = tuple(
        replace(phase, init_time_s=times.get((phase.arm, phase.launch), warm[phase.arm]))
        for phase in factories.phases((7.0, 8.0, 9.0))
    )
    cold, later = metric(phases, "init_time_cold"), metric(phases, "init_time_warm")
    assert cold.change_pct == pytest.approx(50.0)
    assert (cold.low_pct, cold.high_pct, cold.pairs) == (None, None, 1)
    assert cold.verdict is Difference.INCONCLUSIVE
    assert (later.change_pct, later.low_pct) == pytest.approx((25.0, 25.0))
    assert later.pairs == 2


def test_slower_trials_lower_the_throughput() -> None:
    result = metric(factories.phases((25.0, 25.0, 25.0)), "throughput")
    assert result.change_pct == pytest.approx(-20.0)
    assert result.verdict is Difference.SLOWER
    assert result.baseline == pytest.approx(4 * 128 / sum(factories.TRIAL_TIMES_S))
    assert metric(factories.phases((25.0, 25.0)), "prompts_per_sec").change_pct == pytest.approx(-20.0)


@pytest.mark.parametrize("paired", [True, False])
def test_throughput_is_the_total_time_once_more_and_no_other_test(paired: bool) -> None:
    """Slower by a p value of 2 to 4 %: of itself, and not after Holm's procedure over ten others."""
    found = compare_phases(factories.phases((1.0, 4.5, 2.5, 5.0)), DESIGN._replace(paired=paired, equivalence_pct=0.1))
    by_name = {metric.name: metric for metric in found}
    total_time = by_name["total_time"]
    for name in ("throughput", "prompts_per_sec"):
        same = by_name[name]
        for end, other in (("change_pct", "change_pct"), ("low_pct", "high_pct"), ("high_pct", "low_pct")):
            inverse = 100 / (100 + getattr(total_time, other))
            assert getattr(same, end) == pytest.approx(100 * (inverse - 1))
        assert (same.verdict, same.p_value) == (total_time.verdict, total_time.p_value)
        assert same.adjusted_p_value is None
    if paired:
        assert total_time.verdict is Difference.SLOWER
        assert by_name["cpu_time"].verdict is Difference.INCONCLUSIVE


def test_in_two_stages_every_metric_goes_by_the_spread_of_the_first() -> None:
    costs_pct = (5.0, 8.0, 7.0, 6.9, 7.0, 7.1)
    found = {one.name: one for one in compare_phases(factories.phases(costs_pct), DESIGN._replace(first_stage=3))}
    logs = [math.log1p(cost / 100) for cost in costs_pct]
    expected = two_stage_estimate(logs, 3)
    for name in ("total_time", "trial_time", "time_to_first_token_p50"):
        assert (found[name].low_pct, found[name].high_pct) == pytest.approx((expected.low_pct, expected.high_pct)), name


def test_of_a_metric_that_not_all_pairs_have_the_first_stage_is_what_of_it_has_it() -> None:
    pairs = complete_pairs(factories.phases([7.0] * 6))
    design = DESIGN._replace(first_stage=3)
    assert design.over(pairs[1:], pairs).first_stage == 2
    assert design.over(pairs[3:], pairs).first_stage == 0
    assert design.over(pairs, pairs) == design
    assert DESIGN.over(pairs[1:], pairs) == DESIGN


def test_with_different_numbers_of_tokens_times_are_withheld_and_throughput_is_shown() -> None:
    first, second = factories.phases((7.0,))
    phases = (first, factories.with_trial(second, 2, output_tokens=127))
    for name in ("total_time", "trial_time", "cpu_time", "prompts_per_sec", "end_to_end_latency_p50"):
        result = metric(phases, name)
        assert (result.change_pct, result.verdict) == (None, Difference.INCONCLUSIVE)
        assert result.withheld == "the arms generated different numbers of tokens"
        assert result.baseline > 0
    assert metric(phases, "throughput").change_pct is not None
    assert metric(phases, "request_time_per_token").change_pct == pytest.approx(7.0)


def test_one_after_the_other_the_launches_are_two_independent_samples() -> None:
    times_s = {Arm.BASELINE: (2.0, 2.1, 1.9, 2.05), Arm.BATCH_INVARIANT: (2.4, 2.2, 2.3, 2.5)}
    phases = tuple(
        factories.phase(arm, pair, times_s=(time_s,))
        for arm, each in times_s.items()
        for pair, time_s in enumerate(each)
    )
    logs = [np.log(each).tolist() for each in times_s.values()]
    (total_time, *_) = compare_phases(phases, DESIGN._replace(paired=False))
    assert total_time.low_pct == pytest.approx(welch_estimate(*logs).low_pct)
    (total_time, *_) = compare_phases(phases, DESIGN)
    differences = [other - baseline for baseline, other in zip(*logs, strict=True)]
    assert total_time.low_pct == pytest.approx(paired_estimate(differences).low_pct)


def test_with_fresh_caches_every_initialisation_is_cold() -> None:
    names = {metric.name: metric.pairs for metric in compare_phases(factories.phases(), DESIGN)}
    assert (names["init_time_cold"], names["init_time_warm"]) == (1, 2)
    names = {
        metric.name: metric.pairs
        for metric in compare_phases(factories.phases(), DESIGN._replace(launches_per_cache=1))
    }
    assert names["init_time_cold"] == 3
    assert "init_time_warm" not in names
    shared = DESIGN._replace(launches_per_cache=2)
    names = {metric.name: metric.pairs for metric in compare_phases(factories.phases([7.0] * 4), shared)}
    assert (names["init_time_cold"], names["init_time_warm"]) == (2, 2)


def test_nothing_is_called_cold_of_the_users_caches() -> None:
    compared = compare_phases(factories.phases(), DESIGN._replace(users_caches=True))
    names = {metric.name: metric.pairs for metric in compared if metric.name.startswith("init_time")}
    assert names == {"init_time_first_launch": 1, "init_time_later_launches": 2}


def test_latency_percentiles_are_over_all_requests_of_a_launch() -> None:
    phases = factories.phases((10.0, 10.0), times_s=(1.0, 3.0))
    assert metric(phases, "end_to_end_latency_p50").baseline == pytest.approx(2.0)
    assert metric(phases, "end_to_end_latency_p90").baseline == pytest.approx(3.0)
    assert metric(phases, "time_to_first_token_p50").change_pct == pytest.approx(10.0)
    assert metric(phases, "time_per_output_token_p90").low_pct == pytest.approx(10.0)


def test_latency_percentiles_are_those_of_numpy() -> None:
    values = tuple(float(value) for value in np.random.default_rng(1).lognormal(size=120))
    first, second = factories.phases((0.0,), times_s=(1.0,))
    spread = replace(factories.latencies(1.0), time_to_first_token_s=values)
    phases = tuple(factories.with_trial(phase, 0, batch_size=120, latencies=spread) for phase in (first, second))
    for percent in (50, 90, 99):
        found = metric(phases, f"time_to_first_token_p{percent}")
        assert found.baseline == pytest.approx(np.percentile(values, percent))


def test_latencies_of_some_trials_only_are_not_compared() -> None:
    first, second = factories.phases((7.0,))
    names = {metric.name for metric in compare_phases((first, factories.with_trial(second, 1, latencies=None)), DESIGN)}
    assert not any(name.startswith(("time_", "end_to_end")) for name in names)


def test_a_percentile_of_too_few_requests_is_withheld() -> None:
    result = metric(factories.phases((10.0,)), "time_to_first_token_p99")
    assert result.withheld == "a launch has 32 requests and this percentile needs 100"
    enough = factories.phases((10.0,), times_s=(1.0,) * 13)
    assert metric(enough, "time_to_first_token_p99").withheld is None


def test_a_time_of_zero_has_no_ratio() -> None:
    first, second = factories.phases((7.0,), times_s=(1.0,))
    single = replace(factories.latencies(1.0), time_per_output_token_s=(0.0,) * 8)
    phases = (factories.with_trial(first, 0, latencies=single), factories.with_trial(second, 0, latencies=single))
    assert metric(phases, "time_per_output_token_p50").withheld == "a value of 0 has no ratio"


def test_what_was_not_measured_is_missing() -> None:
    phases = tuple(
        replace(phase, peak_memory_bytes=None, trials=tuple(replace(trial, latencies=None) for trial in phase.trials))
        for phase in factories.phases((7.0,))
    )
    names = {metric.name for metric in compare_phases(phases, DESIGN)}
    assert names == {"total_time", "trial_time", "cpu_time", "init_time_cold", "throughput", "prompts_per_sec"}


def test_peak_memory_is_in_gibibytes() -> None:
    first, second = factories.phases((7.0,))
    result = metric((first, replace(second, peak_memory_bytes=3 * 2**30)), "peak_memory")
    assert (result.baseline, result.second) == pytest.approx((2.0, 3.0))
    assert result.unit == "GiB"
    assert result.change_pct == pytest.approx(50.0)


def test_a_devices_memory_is_a_setting_and_not_compared() -> None:
    on_device = (replace(phase, observed=factories.observed(device="cuda")) for phase in factories.phases((7.0,)))
    assert "peak_memory" not in {metric.name for metric in compare_phases(on_device, DESIGN)}


def test_more_memory_is_not_called_slower() -> None:
    phases = (
        replace(phase, peak_memory_bytes=3 * 2**30 + phase.index) if phase.arm is Arm.BATCH_INVARIANT else phase
        for phase in factories.phases()
    )
    assert metric(tuple(phases), "peak_memory").verdict is Difference.MORE


# --- One phase ------------------------------------------------------------------------------------------------------


def test_summary_of_a_phase() -> None:
    summary = summarise(factories.phase(times_s=(2.0, 3.0, 2.5)))
    assert (summary.init_time_s, summary.avg_time_s, summary.min_time_s, summary.max_time_s) == (12.0, 2.5, 2.0, 3.0)
    assert (summary.total_tokens, summary.total_prompts) == (3 * 128, 24)
    assert summary.throughput == pytest.approx(3 * 128 / 7.5)
    assert summary.prompts_per_sec == pytest.approx(24 / 7.5)
    assert summary.trial_times_s == (2.0, 3.0, 2.5)


def test_a_phase_without_trials_has_no_summary() -> None:
    failed = factories.phase(times_s=(), status=PhaseStatus.FAILED, error="out of memory")
    with pytest.raises(ValueError, match=r"phase 1 \(baseline\) has no trial to sum up: out of memory"):
        summarise(failed)


def test_importing_it_does_not_import_scipy_or_numpy() -> None:
    program = "import sys, bi_experiments.analysis; print({'scipy', 'numpy', 'mlflow', 'torch'} & sys.modules.keys())"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
