"""What happened inside a timed trial is said with the trial's number, counted from 1, and its phase."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.findings import all_findings
from bi_experiments.config.schema import Interleave
from bi_experiments.records import Arm, ClockReading, Finding, PhaseResult
from tests import factories


def findings(
    phases: Sequence[PhaseResult], interleave: Interleave = Interleave.launch, **protocol: object
) -> tuple[Finding, ...]:
    pairs = len({phase.pair for phase in phases})
    rules = factories.protocol(interleave=interleave, **protocol)
    return all_findings(phases, rules, planned_pairs=pairs, cpu_count=2)


def last_changed(trial: int, **changes: object) -> tuple[PhaseResult, ...]:
    """An experiment in which one trial of the last phase, of batch-invariant mode, has other fields."""
    *others, last = factories.phases()
    assert last.arm is Arm.BATCH_INVARIANT
    return (*others, factories.with_trial(last, trial, **changes))


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"compiled": ("_matmul", "_matmul")}, "compiled", "2 compilations ran inside timed trials"),
        ({"preemptions": 3}, "preemptions", "preempted 3 times"),
        ({"queued": 5}, "queued", "at most 5 of 8"),
        ({"cached_tokens": 100}, "cached_tokens", "not as many in both arms"),
        ({"decode_step_s": 0.01, "longest_step_s": 0.5}, "long_step", "500 ms against 10.0 ms"),
    ],
)
def test_it_is_named_with_its_trial(changes: dict[str, object], kind: str, words: str) -> None:
    (finding,) = findings(last_changed(1, **changes))
    assert finding.kind == kind
    assert "trial 2 of pair 3 (batch invariant)" in finding.message
    assert words in finding.message


@pytest.mark.parametrize(
    "changes",
    [
        {"compiled": (), "preemptions": 0, "queued": 0, "cached_tokens": 0},
        {"decode_step_s": 0.01, "longest_step_s": 0.09},
        {"decode_step_s": 0.001, "longest_step_s": 0.015},
    ],
)
def test_what_is_usual_is_not_said(changes: dict[str, object]) -> None:
    assert findings(last_changed(1, **changes)) == ()


def test_a_trial_that_took_longer_than_a_larger_one() -> None:
    """Seen on a small mixture of experts: 0.46 s, then 1.78 s for fewer prompts, in the baseline alone."""
    baseline = factories.phase(Arm.BASELINE, times_s=(0.46, 1.78))
    second = factories.phase(Arm.BATCH_INVARIANT, times_s=(0.55, 0.50))
    phases = [factories.with_trial(phase, 1, batch_size=7, prompt_tokens=7 * 64) for phase in (baseline, second)]
    (finding,) = (one for one in findings(phases) if one.kind == "long_trial")
    assert "Trial 2 of pair 1 (baseline) took 1.78 s, trial 1 of the same launch" in finding.message


@pytest.mark.parametrize(("devices", "cpu_time_s", "is_cpu"), [(1, 1.5, True), (1, 0.9, False), (0, 1.5, False)])
def test_that_the_cpu_made_a_trial_long_is_said(devices: int, cpu_time_s: float, is_cpu: bool) -> None:
    """Seen on a rented machine, eager: 8.34 and 6.24 s, of CPU time 7.52 and 5.16."""
    clocks = [
        ClockReading(trial=0, device=device, sm_clock_mhz=1980, temperature_c=40, power_w=400.0)
        for device in range(devices)
    ]
    baseline = factories.phase(Arm.BASELINE, times_s=(1.0, 2.0), clocks=tuple(clocks))
    second = factories.phase(Arm.BATCH_INVARIANT, times_s=(1.0, 1.0))
    slow = [replace(one, cpu_time_s=cpu) for one, cpu in zip(baseline.trials, (0.8, cpu_time_s), strict=True)]
    (finding,) = (one for one in findings([replace(baseline, trials=tuple(slow)), second]) if one.kind == "long_trial")
    assert ("Most of it is CPU time, 1.50 against 0.80 s." in finding.message) is is_cpu
    assert ("at what else used the CPUs" in finding.remedy) is is_cpu


def test_a_trial_that_is_long_in_both_arms_is_no_finding() -> None:
    assert findings(factories.phases(times_s=(1.0, 2.0))) == ()


def test_a_kv_cache_that_is_nearly_too_small() -> None:
    phases = [replace(phase, kv_cache_needed_tokens=7500) for phase in factories.phases()]
    (finding,) = findings(phases)
    assert finding.kind == "kv_cache"
    assert "7,500 of the 8,192 tokens" in finding.message
    assert findings([replace(phase, kv_cache_needed_tokens=7000) for phase in phases]) == ()
    measured = [
        replace(phase, trials=tuple(replace(one, queued=0, preemptions=0) for one in phase.trials)) for phase in phases
    ]
    assert findings(measured) == ()


def sized(costs_pct: Sequence[float]) -> tuple[PhaseResult, ...]:
    """Four pairs whose trials have 64 to 128 prompts and cost so much, by trial, with a little noise."""
    phases: list[PhaseResult] = []
    for pair in range(4):
        for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT):
            sizes = [64 + 64 * k // (len(costs_pct) - 1) for k in range(len(costs_pct))]
            factors = [1 + cost / 100 + 0.001 * ((pair + k) % 3) for k, cost in enumerate(costs_pct)]
            times_s = [
                size / 32 * (1.0 if arm is Arm.BASELINE else by) for size, by in zip(sizes, factors, strict=True)
            ]
            phase = factories.phase(arm, pair, 2 * pair + ((arm is Arm.BASELINE) == bool(pair % 2)), times_s)
            trials = (
                replace(trial, batch_size=size, prompt_tokens=64 * size, output_tokens=16 * size)
                for trial, size in zip(phase.trials, sizes, strict=True)
            )
            phases.append(replace(phase, trials=tuple(trials)))
    return tuple(phases)


def test_a_cost_that_depends_on_the_batch() -> None:
    (finding,) = (one for one in findings(sized((23.0, 20.0, 16.0, 13.0))) if one.kind != "drift")
    assert finding.kind == "batch_size"
    assert "23.1 % at 64 prompts, 13.1 % at 128" in finding.message
    assert findings(sized((20.0, 20.2, 19.9, 20.1))) == ()


@pytest.mark.parametrize("costs_pct", [(23.0, 13.0, 21.0, 13.0), (23.0, 13.0)])
def test_trials_that_cost_differently_for_another_reason_than_their_size_do_not_depend_on_it(
    costs_pct: Sequence[float],
) -> None:
    """Every pair has the same trials, so that its agreeing with the others says nothing of the reason."""
    assert findings(sized(costs_pct)) == ()


def test_with_prompts_of_their_own_the_pairs_say_whether_the_cost_goes_with_the_size() -> None:
    own = [
        replace(phase, trials=tuple(replace(one, prompt_tokens=64 * 64 + phase.pair) for one in phase.trials))
        for phase in sized((23.0, 13.0, 21.0, 13.0))
    ]
    assert {one.kind for one in findings(own)} == {"batch_size"}


def test_in_two_stages_a_cost_that_depends_on_the_batch_is_judged_by_the_spread_of_the_first() -> None:
    phases = sized((23.0, 20.0, 16.0, 13.0))
    quiet = [phase for phase in phases if phase.pair > 1]
    wild = [
        factories.with_trial(phase, 0, time_s=phase.trials[0].time_s * (1.5 if phase.pair else 0.75))
        if phase.pair < 2 and phase.arm is not Arm.BASELINE
        else phase
        for phase in phases
        if phase.pair < 2
    ]
    kinds = {one.kind for one in findings((*wild, *quiet), pairs=2, target_half_width_pct=1.0, max_pairs=4)}
    assert "batch_size" not in kinds
    assert "batch_size" in {one.kind for one in findings(phases, pairs=2, target_half_width_pct=1.0, max_pairs=4)}


@pytest.mark.parametrize("interleave", [Interleave.launch, Interleave.trial])
@pytest.mark.parametrize("pairs", [4, 8])
def test_an_outlying_launch_is_named(pairs: int, interleave: Interleave) -> None:
    costs_pct = [7.0, 7.2, 7.1, 6.9, 7.3, 7.15, 7.05, 6.95][:pairs]
    noise = [1.0, 1.003, 0.998, 1.001, 0.997, 1.002, 0.999, 1.004]
    phases = [
        replace(phase, trials=tuple(replace(one, time_s=one.time_s * noise[phase.pair]) for one in phase.trials))
        for phase in factories.phases(costs_pct)
    ]
    assert findings(phases, interleave) == ()
    slow = replace(phases[5], trials=tuple(replace(trial, time_s=1.2 * trial.time_s) for trial in phases[5].trials))
    (finding,) = (one for one in findings([*phases[:5], slow, *phases[6:]], interleave) if one.kind == "outlying")
    assert ("pair 3" if interleave is Interleave.trial else "launch 3 of the batch-invariant arm") in finding.message
    assert finding.message.startswith(
        f"Outlier in {'the change of ' if interleave is Interleave.trial else ''}total time: "
    )
    assert finding.message.endswith("). It is still part of the result.")


def test_of_three_launches_none_is_called_outlying() -> None:
    assert "outlying" not in {one.kind for one in findings(factories.phases([7.0, 7.1, 30.0]), Interleave.trial)}
