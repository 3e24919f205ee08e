"""Where the CPU sets the pace of the trials, the report says so, and that it was not always as fast."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.findings import all_findings
from bi_experiments.records import ClockReading, Finding, PhaseResult
from tests import factories


def on_device(phase: PhaseResult, cpu_share: float, devices: int = 1, **observed: object) -> PhaseResult:
    """The phase on so many GPUs, its processes working for that share of every trial's time."""
    engine = {"device": "NVIDIA H200", "enforce_eager": False, "async_scheduling": True} | observed
    return replace(
        phase,
        observed=factories.observed(**engine),
        trials=tuple(replace(trial, cpu_time_s=cpu_share * trial.time_s) for trial in phase.trials),
        clocks=tuple(
            ClockReading(trial=trial.index, device=device, sm_clock_mhz=1980, temperature_c=40, power_w=400.0)
            for trial in phase.trials
            for device in range(devices)
        ),
    )


def findings(phases: Sequence[PhaseResult]) -> list[Finding]:
    found = all_findings(phases, factories.protocol(), 3, cpu_count=2)
    return [finding for finding in found if finding.kind in {"cpu_bound", "async_scheduling"}]


def test_that_the_cpu_sets_the_pace_is_said_with_its_share_in_both_arms() -> None:
    phases = [on_device(phase, 0.6 if phase.arm.batch_invariant else 0.8) for phase in factories.phases()]
    (finding,) = findings(phases)
    assert "0.80 CPUs on average in the baseline's trials and 0.60 in the second arm's" in finding.message
    assert "CPU time in two" not in finding.message
    assert "enforce_eager" not in finding.remedy


def test_an_engine_that_mostly_waits_for_its_device_is_no_finding() -> None:
    assert findings([on_device(phase, 0.5) for phase in factories.phases()]) == []


def test_cuda_graphs_are_recommended_where_there_are_none() -> None:
    (finding,) = findings([on_device(phase, 0.9, enforce_eager=True) for phase in factories.phases()])
    assert "backend.enforce_eager=false" in finding.remedy
    assert "async_scheduling" not in finding.remedy


@pytest.mark.parametrize(("cpu_share", "kind"), [(0.4, "async_scheduling"), (0.8, "cpu_bound")])
def test_async_scheduling_is_recommended_where_it_is_off(cpu_share: float, kind: str) -> None:
    (finding,) = findings([on_device(phase, cpu_share, async_scheduling=False) for phase in factories.phases()])
    assert finding.kind == kind
    assert f"{cpu_share:.2f} CPUs on average in the baseline's trials" in finding.message
    assert "backend.async_scheduling=true" in finding.remedy


@pytest.mark.parametrize("slow", [0, 1])
def test_a_cpu_that_was_slower_in_one_launch_is_named_with_its_trial(slow: int) -> None:
    """Seen on a rented machine, eager: 3.62 and 6.03 s of CPU time for the same trial of the baseline."""
    first, *others = (on_device(phase, 0.8) for phase in factories.phases())
    trials = [
        replace(trial, cpu_time_s=trial.cpu_time_s * (1.67 if trial.index == slow else 1.0)) for trial in first.trials
    ]
    (finding,) = findings([replace(first, trials=tuple(trials)), *others])
    least, most = 0.8 * first.trials[slow].time_s, 0.8 * 1.67 * first.trials[slow].time_s
    assert f"trial {slow + 1} took {least:.2f} and {most:.2f} s of CPU time in two launches" in finding.message
    assert "of the baseline arm" in finding.message


def test_workers_that_poll_for_each_other_are_not_taken_for_work() -> None:
    assert findings([on_device(phase, 2.5, devices=2) for phase in factories.phases()]) == []


def test_without_a_device_the_cpu_is_what_is_measured() -> None:
    assert findings(factories.phases()) == []
