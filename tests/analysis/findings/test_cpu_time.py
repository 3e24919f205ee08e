"""Trials that the CPU may bound are named, with how much of them it worked; and engines that do not schedule ahead."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.findings import all_findings
from bi_experiments.records import ClockReading, Finding, PhaseResult
from tests import factories


def on_device(phase: PhaseResult, cpus: float, devices: int = 1, **observed: object) -> PhaseResult:
    """The phase on so many GPUs, its processes using so many CPUs in every trial."""
    engine = {"device": "NVIDIA H200", "enforce_eager": False} | observed
    return replace(
        phase,
        observed=factories.observed(**engine),
        trials=tuple(replace(trial, cpu_time_s=cpus * trial.time_s) for trial in phase.trials),
        clocks=tuple(
            ClockReading(trial=trial.index, device=device, sm_clock_mhz=1980, temperature_c=40, power_w=400.0)
            for trial in phase.trials
            for device in range(devices)
        ),
    )


def findings(phases: Sequence[PhaseResult]) -> list[Finding]:
    found = all_findings(phases, factories.protocol(), 3, cpu_count=2)
    return [finding for finding in found if finding.kind in {"cpu_bound", "async_scheduling"}]


def test_that_the_cpu_may_set_the_pace_is_said_with_its_share_in_both_arms() -> None:
    phases = [on_device(phase, 0.6 if phase.arm.batch_invariant else 0.8) for phase in factories.phases()]
    (finding,) = findings(phases)
    assert finding.kind == "cpu_bound"
    assert "0.80 CPUs on average in the baseline's trials and 0.60 in the second arm's" in finding.message
    assert "did not always take" not in finding.message
    assert finding.remedy == (
        "Run with async scheduling (backend.async_scheduling=null; where it was null, vLLM's log says why not), or a "
        "model of larger layers, on CPUs that nothing else uses."
    )


def test_an_engine_that_mostly_waits_for_its_device_is_told_what_vllm_does_by_default() -> None:
    (finding,) = findings([on_device(phase, 0.4) for phase in factories.phases()])
    assert finding.kind == "async_scheduling"
    assert "0.40 CPUs on average in the baseline's trials" in finding.message
    assert "backend.async_scheduling=null" in finding.remedy


def test_a_little_work_that_runs_alongside_the_device_is_no_finding() -> None:
    assert findings([on_device(phase, 0.4, async_scheduling=True) for phase in factories.phases()]) == []


def test_an_engine_that_schedules_ahead_can_be_bound_by_its_cpu_too() -> None:
    """Seen with MLA in four layers: 1.2 and 0.9 CPUs, and the same trial of the baseline in 0.81 and 1.08 s."""
    (finding,) = findings([on_device(phase, 0.9, async_scheduling=True) for phase in factories.phases()])
    assert finding.kind == "cpu_bound"
    assert "Async scheduling was off" not in finding.message
    assert finding.remedy == "Run with a model of larger layers, on CPUs that nothing else uses."


def test_arms_of_which_one_schedules_ahead_are_not_both_said_not_to() -> None:
    phases = [on_device(phase, 0.9, async_scheduling=phase.arm.batch_invariant) for phase in factories.phases()]
    found = findings(phases)
    assert [finding.kind for finding in found] == ["async_scheduling", "cpu_bound"]  # the first: that they differ
    assert not any("Async scheduling was off" in finding.message for finding in found)


@pytest.mark.parametrize(("ahead", "recommended"), [(False, " and async scheduling ("), (True, ", or a model")])
def test_cuda_graphs_are_recommended_where_there_are_none(ahead: bool, recommended: str) -> None:
    phases = [on_device(phase, 0.9, enforce_eager=True, async_scheduling=ahead) for phase in factories.phases()]
    (finding,) = findings(phases)
    assert f"Run with CUDA graphs (backend.enforce_eager=false){recommended}" in finding.remedy


@pytest.mark.parametrize("slow", [0, 1])
def test_a_trial_that_took_more_cpu_time_in_one_launch_is_named(slow: int) -> None:
    """Seen on a rented machine, eager: 3.62 and 6.03 s of CPU time for the same trial of the baseline."""
    first, *others = (on_device(phase, 0.8) for phase in factories.phases())
    trials = [
        replace(trial, cpu_time_s=trial.cpu_time_s * (1.67 if trial.index == slow else 1.0)) for trial in first.trials
    ]
    (finding,) = findings([replace(first, trials=tuple(trials)), *others])
    least, most = 0.8 * first.trials[slow].time_s, 0.8 * 1.67 * first.trials[slow].time_s
    assert f"trial {slow + 1} of the baseline arm {least:.2f} and {most:.2f} s in two launches" in finding.message


def test_workers_that_poll_for_each_other_are_not_taken_for_work() -> None:
    (finding,) = findings([on_device(phase, 2.5, devices=2, all_reduce="custom") for phase in factories.phases()])
    assert finding.kind == "async_scheduling"
    assert "CPUs on average" not in finding.message
    ahead = {"all_reduce": "custom", "async_scheduling": True}
    assert findings([on_device(phase, 2.5, devices=2, **ahead) for phase in factories.phases()]) == []


@pytest.mark.parametrize(("devices", "all_reduce"), [(0, None), (4, "custom")])
def test_of_devices_that_may_be_a_pipeline_it_is_not_said_that_the_cpu_works_in_every_step(
    devices: int, all_reduce: str | None
) -> None:
    phases = [on_device(phase, 0.9, devices=devices, all_reduce=all_reduce) for phase in factories.phases()]
    (finding,) = findings(phases)
    assert finding.message == "Async scheduling was off in both arms."


def test_a_pipeline_schedules_ahead_in_any_case() -> None:
    assert findings([on_device(phase, 2.5, devices=2) for phase in factories.phases()]) == []


def test_without_a_device_the_cpu_is_what_is_measured() -> None:
    assert findings(factories.phases()) == []
