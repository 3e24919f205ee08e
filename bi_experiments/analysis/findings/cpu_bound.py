"""Whether the CPU sets the pace of the trials instead of the device."""

from collections.abc import Iterator, Sequence

from bi_experiments.analysis.design import prompts_differ
from bi_experiments.analysis.pairs import Pair
from bi_experiments.records import Finding, PhaseResult
from bi_experiments.wording import before_noun

MOSTLY = 0.7
"""CPU time in shares of the trials' time from which they are called CPU-bound. In the results of docs/results of one
H200 it is 0.1 to 0.55 with CUDA graphs and 28 layers or more, 0.7 to 1.0 with 4 or 8 layers and 0.8 to 0.9 in eager."""

OVERLAP = "backend.async_scheduling=true"
"""What makes the CPU's work overlap the device's."""

SLOWER = 1.25
"""Times the CPU time of the same trial in another launch of its arm from which it is said."""


def cpu_bound(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """What vLLM's processes computed in trials on one device: most of the time, or in steps that it makes longer.

    An engine without async scheduling schedules a step, waits for the device and handles the outputs one after the
    other, so that its CPU time is part of the trial's time; the front end's runs alongside. With several devices
    nothing is said: their workers wait for each other by polling, which counts as CPU time.

    Args:
        pairs: Complete pairs, at least one.
    """
    phases = [phase for pair in pairs for phase in pair]
    if any(len({reading.device for reading in phase.clocks}) != 1 for phase in phases):
        return
    arms = [[pair.baseline for pair in pairs], [pair.second for pair in pairs]]
    baseline, second = (_cpu_share(one) for one in arms)
    used = (
        f"vLLM's processes used {baseline:.2f} CPUs on average in the baseline's trials and {second:.2f} in the second "
        "arm's"
    )
    engines = [phase.observed for phase in phases if phase.observed is not None]
    waits = bool(engines) and not any(one.async_scheduling for one in engines)
    if max(baseline, second) >= MOSTLY:
        varies = "" if prompts_differ(pairs) else max(_slower(one) for one in arms)[1]
        instead = ["a model of more layers"]
        instead += ["CUDA graphs (backend.enforce_eager=false)"] * any(one.enforce_eager for one in engines)
        instead += [OVERLAP] * waits
        yield Finding(
            kind="cpu_bound",
            message=f"{used}: the CPU sets much of the pace, and a larger model, whose kernels take more of the time, "
            f"may have another number.{varies}",
            remedy=f"Measure with {' or '.join(instead)}, on CPUs that nothing else uses.",
        )
    elif waits:
        yield Finding(
            kind="async_scheduling",
            message=f"Async scheduling was off in both arms; vLLM's default is on. {used}: with it off the engine's "
            "part of that adds to every step instead of running alongside the device's work, and the cost is a smaller "
            "share of the time.",
            remedy=f"Run with {OVERLAP} to measure what vLLM's default costs.",
        )


def _cpu_share(phases: Sequence[PhaseResult]) -> float:
    trials = [trial for phase in phases for trial in phase.trials]
    return sum(trial.cpu_time_s for trial in trials) / sum(trial.time_s for trial in trials)


def _slower(phases: Sequence[PhaseResult]) -> tuple[float, str]:
    """By how much the CPU time of the same trial differs at most from launch to launch, and the sentence about it."""
    found = []
    for same in zip(*(sorted(phase.trials, key=lambda trial: trial.index) for phase in phases), strict=True):
        least, most = min(trial.cpu_time_s for trial in same), max(trial.cpu_time_s for trial in same)
        found.append((most / least if least else 1.0, same[0].index, least, most))
    times, index, least, most = max(found)
    if times < SLOWER:
        return times, ""
    sentence = (
        f" It was not as fast in every launch: trial {index + 1} took {least:.2f} and {most:.2f} s of CPU time in two "
        f"launches of the {before_noun(phases[0].arm)} arm, which can widen the interval."
    )
    return times, sentence
