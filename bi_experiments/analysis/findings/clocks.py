"""Whether the devices ran alike in both arms: clocks, and what throttled them, from the readings around the trials."""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from bi_experiments.analysis.estimates import per_cent
from bi_experiments.analysis.pairs import Pair
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.machine.clocks import REASONS
from bi_experiments.records import ClockReading, Finding, PhaseResult
from bi_experiments.wording import count, unsigned

UNEQUAL_SHARE = 0.1
"""Difference between the arms, in shares of the trial time, from which throttling is reported."""

MOSTLY = 0.5
"""Share of the trial time from which throttling is reported although both arms are throttled alike."""

LOCK_CLOCKS = (
    "If the kernels' own cost matters, fix the clock at a value that both arms can hold "
    "(nvidia-smi --lock-gpu-clocks=MHZ,MHZ as root; --reset-gpu-clocks undoes it) and run again."
)


def clock_findings(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """Clocks and throttling that differ between the arms, or that slowed both for most of the time.

    A difference counts when every pair has it, so that chance is unlikely.

    Args:
        pairs: Complete pairs, at least one.
        protocol: The rules that they were run by; `equivalence_pct` says what counts as a difference of clocks.
    """
    if not all(phase.clocks for pair in pairs for phase in pair):
        return
    unequal = {reason: tuple(_throttled_unequally(pairs, reason)) for reason in REASONS}
    for found in unequal.values():
        yield from found
    yield from _throttled([phase for pair in pairs for phase in pair], [one for one in REASONS if not unequal[one]])
    yield from _clock(pairs, protocol.equivalence_pct)


def throttled_share(phase: PhaseResult, reason: str) -> float:
    """Share of a phase's trial time, 0 to 1, in which its most affected device was throttled for that reason.

    From the devices' counters of that time; where they do not count it, the share of trials at whose end the reason
    was there.
    """
    shares = []
    for trial in phase.trials:
        readings = [reading for reading in phase.clocks if reading.trial == trial.index]
        shares.append(max((_share(reading, reason, trial.time_s) for reading in readings), default=0.0))
    weights = [trial.time_s for trial in phase.trials]
    return sum(share * weight for share, weight in zip(shares, weights, strict=True)) / sum(weights)


def on_one_device(phase: PhaseResult) -> bool:
    """Whether a phase used one device, as far as it was read. Workers of several poll, which counts as CPU time."""
    return len({reading.device for reading in phase.clocks}) == 1


def sm_clock_mhz(phase: PhaseResult) -> float | None:
    """Mean of the clocks of all devices at the ends of a phase's trials, in MHz; None if none was reported."""
    clocks = [reading.sm_clock_mhz for reading in phase.clocks if reading.sm_clock_mhz is not None]
    return fmean(clocks) if clocks else None


def _share(reading: ClockReading, reason: str, time_s: float) -> float:
    if reason in reading.throttled_s:
        return min(1.0, reading.throttled_s[reason] / time_s)
    return float(reason in reading.reasons)


def _throttled_unequally(pairs: Sequence[Pair], reason: str) -> Iterator[Finding]:
    shares = [(throttled_share(pair.baseline, reason), throttled_share(pair.second, reason)) for pair in pairs]
    differences = [other - baseline for baseline, other in shares]
    if _one_sign(differences) and abs(fmean(differences)) > UNEQUAL_SHARE:
        baseline, other = (fmean(column) for column in zip(*shares, strict=True))
        yield Finding(
            kind="clocks",
            message=f"The arms did not run at the same clocks: the {reason} throttled the device for "
            f"{100 * baseline:.0f} % of the trial time in the baseline and {100 * other:.0f} % in the second arm, in "
            f"{count(len(pairs), 'pair')}. Part of the difference may come from the clock.",
            remedy=LOCK_CLOCKS,
        )


def _throttled(phases: Sequence[PhaseResult], reasons: Sequence[str]) -> Iterator[Finding]:
    """What throttled the devices most of the time in every phase, in one finding."""
    least = {reason: min(throttled_share(phase, reason) for phase in phases) for reason in reasons}
    said = [
        f"the {reason} ({'' if share > 0.995 else 'at least '}{100 * share:.0f} % of the trial time)"
        for reason, share in least.items()
        if share >= MOSTLY
    ]
    if not said:
        return
    readings = [reading for phase in phases for reading in phase.clocks]
    clocks = [one.sm_clock_mhz for one in readings if one.sm_clock_mhz is not None]
    highest = [one.highest_sm_clock_mhz for one in readings if one.highest_sm_clock_mhz is not None]
    degrees = [one.temperature_c for one in readings if one.temperature_c is not None]
    states = [
        *(
            [f"at {fmean(clocks):.0f} MHz{f' of {max(highest)}' if highest else ''} when a trial ended"]
            if clocks
            else []
        ),
        *([f"at {_range(degrees)} °C"] if degrees else []),
    ]
    yield Finding(
        kind="clocks",
        message=f"The device was throttled in both arms, by {' and '.join(said)}"
        f"{', ' + ', '.join(states) if states else ''}: both ran on a slowed device, and the change at full clock "
        "may be another one.",
        remedy="Cool the device, or raise its power limit (nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER), or fix a "
        "clock that it can hold (nvidia-smi --lock-gpu-clocks=MHZ,MHZ as root), and run again.",
    )


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _clock(pairs: Sequence[Pair], equivalence_pct: float) -> Iterator[Finding]:
    clocks = [(sm_clock_mhz(pair.baseline), sm_clock_mhz(pair.second)) for pair in pairs]
    known = [(baseline, other) for baseline, other in clocks if baseline and other]
    ratios = [math.log(other / baseline) for baseline, other in known]
    if not ratios or not _one_sign(ratios):
        return
    change_pct = per_cent(fmean(ratios))
    if abs(change_pct) > equivalence_pct:
        baseline, other = (fmean(column) for column in zip(*known, strict=True))
        yield Finding(
            kind="clocks",
            message=f"The arms did not run at the same clocks: at the ends of the trials the multiprocessors ran at "
            f"{baseline:.0f} MHz in the baseline and at {other:.0f} MHz in the second arm, "
            f"{unsigned(change_pct)} {'higher' if change_pct > 0 else 'lower'}.",
            remedy=LOCK_CLOCKS,
        )


def _one_sign(values: Sequence[float]) -> bool:
    return all(value > 0 for value in values) or all(value < 0 for value in values)
