import json
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.findings import all_findings
from bi_experiments.analysis.findings.clocks import throttled_share
from bi_experiments.records import ClockReading, Finding, PhaseResult, from_json, to_json
from tests import factories


def read(
    phase: PhaseResult, sm_clock_mhz: int = 1980, throttled_share_of_trial: float = 0.0, reason: str = "power limit"
) -> PhaseResult:
    """The phase with readings: that clock, throttled for that share of every trial."""
    return replace(
        phase,
        clocks=tuple(
            ClockReading(
                trial=trial.index,
                device=0,
                sm_clock_mhz=sm_clock_mhz,
                temperature_c=60,
                power_w=400.0,
                throttled_s={reason: throttled_share_of_trial * trial.time_s},
            )
            for trial in phase.trials
        ),
    )


def findings(phases: Sequence[PhaseResult]) -> list[Finding]:
    protocol = factories.protocol()
    return [finding for finding in all_findings(phases, protocol, 3, cpu_count=2) if finding.kind == "clocks"]


def test_arms_at_the_same_clocks_are_no_finding() -> None:
    assert findings([read(phase, 1740, 0.4) for phase in factories.phases()]) == []


def test_a_device_that_is_throttled_in_both_arms_is_a_finding_too() -> None:
    phases = [read(phase, 1065, 1.0, "temperature") for phase in factories.phases()]
    hot = [
        replace(
            phase,
            clocks=tuple(
                replace(one, temperature_c=86 + one.trial % 5, highest_sm_clock_mhz=1980) for one in phase.clocks
            ),
        )
        for phase in phases
    ]
    (finding,) = findings(hot)
    assert "by the temperature (100 % of the trial time)" in finding.message
    assert "at 1065 MHz of 1980 when a trial ended, at 86 to 89 °C" in finding.message


def test_records_without_readings_are_no_finding() -> None:
    assert findings(factories.phases()) == []


@pytest.mark.parametrize("reason", ["power limit", "temperature"])
def test_an_arm_that_was_throttled_more_is_named_with_both_shares(reason: str) -> None:
    phases = [read(phase, 1740, 0.05 if phase.arm.batch_invariant else 0.62, reason) for phase in factories.phases()]
    (finding,) = findings(phases)
    assert f"the {reason} throttled the device for 62 % of the trial time in the baseline and 5 %" in finding.message
    assert "--lock-gpu-clocks" in finding.remedy


def test_clocks_that_differ_are_named_with_both() -> None:
    (finding,) = findings([read(phase, 1980 if phase.arm.batch_invariant else 1800) for phase in factories.phases()])
    assert "1800 MHz in the baseline and at 1980 MHz in the second arm, 10.0 % higher" in finding.message


def test_clocks_that_differ_in_one_pair_only_are_chance() -> None:
    phases = [read(phase, 1500 if phase.index == 0 else 1980) for phase in factories.phases()]
    assert findings(phases) == []


def test_a_device_without_counters_is_judged_by_the_reasons_of_the_moment() -> None:
    phase = read(factories.phase())
    readings = [
        replace(reading, throttled_s={}, reasons=("power limit",) if reading.trial == 0 else ())
        for reading in phase.clocks
    ]
    times = factories.TRIAL_TIMES_S
    share = throttled_share(replace(phase, clocks=tuple(readings)), "power limit")
    assert share == pytest.approx(times[0] / sum(times))


def test_several_devices_are_as_slow_as_the_slowest() -> None:
    phase = read(factories.phase(), throttled_share_of_trial=0.2)
    second = [replace(reading, device=1, throttled_s={"power limit": 0.0}) for reading in phase.clocks]
    assert throttled_share(replace(phase, clocks=(*second, *phase.clocks)), "power limit") == pytest.approx(0.2)


def test_a_record_from_before_clocks_were_read_is_still_read() -> None:
    stored = json.loads(to_json(read(factories.phase())))
    del stored["clocks"]
    assert from_json(json.dumps(stored), PhaseResult, "result.json") == factories.phase()
