"""The engine's work on the CPU, which can set the pace of the steps."""

from collections.abc import Iterator, Sequence

from bi_experiments.analysis.design import prompts_differ
from bi_experiments.analysis.findings.clocks import on_one_device
from bi_experiments.analysis.pairs import Pair
from bi_experiments.records import Finding, PhaseResult
from bi_experiments.wording import before_noun

MOSTLY = 0.7
"""CPUs that vLLM's processes use on average, from which trials are called CPU-bound. The runs with a cost in
docs/results use 0.1 to 0.55 or more than this; of the one profile with such a share (row 12, 0.95, without async
scheduling) the device was idle for 60 % of the baseline's trial."""

SLOWER = 1.25
"""Times the CPU time of the same trial in another launch of its arm from which it is said."""

OFF = "Async scheduling was off in both arms"
IN_EVERY_STEP = ": the engine's work on the CPU is a part of every step"


def cpu_time(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Trials whose pace the engine's work on the CPU may set, and engines that do not schedule ahead.

    Such an engine schedules a step, waits for its device and handles the outputs, one after the other. One that
    schedules ahead does that while the device computes; where it takes longer than the step, the device waits for it
    all the same.

    How much of the time the work is can be said for one device alone: the workers of several wait for each other by
    polling, which counts as CPU time. So does the wait of vLLM's V1 model runner for its device where it does not
    schedule ahead; the V2 runner, which vLLM takes where it can, sleeps. The front end's work, which runs alongside the
    engine's, is counted too.

    Args:
        pairs: Complete pairs, at least one.
    """
    phases = [phase for pair in pairs for phase in pair]
    engines = [phase.observed for phase in phases if phase.observed is not None]
    if not engines or any(one.device == "cpu" for one in engines):
        return
    one_device = all(on_one_device(phase) for phase in phases)
    several_devices = any(phase.clocks and not on_one_device(phase) for phase in phases)
    pipeline = several_devices and not any(one.all_reduce for one in engines)
    ahead = pipeline or any(one.async_scheduling for one in engines)  # a pipeline schedules ahead in any case
    arms = [pair.baseline for pair in pairs], [pair.second for pair in pairs]
    used = [_cpus_used(one) for one in arms] if one_device else []
    said = [] if ahead else [f"{OFF}{IN_EVERY_STEP if one_device else ''}."]  # of several, some may be a pipeline
    if used:
        said.append(
            f"vLLM's processes used {used[0]:.2f} CPUs on average in the baseline's trials and {used[1]:.2f} in the "
            "second arm's."
        )
    if max(used, default=0.0) >= MOSTLY:
        varies = "" if prompts_differ(pairs) else max(_slower(one) for one in arms)[1]
        yield Finding(
            kind="cpu_bound",
            message=f"{' '.join(said)} That may set the pace of many steps; the number is then about this CPU as much "
            f"as about kernels.{varies}",
            remedy=_remedy(ahead=ahead, eager=any(one.enforce_eager for one in engines)),
        )
    elif not ahead:
        yield Finding(
            kind="async_scheduling",
            message=" ".join(said),
            remedy="Leave it to vLLM (backend.async_scheduling=null), which schedules ahead since 0.14 where it can; "
            "if it was left, vLLM's log says why not.",
        )


def _remedy(*, ahead: bool, eager: bool) -> str:
    """What leaves less to the CPU, of what the engines do without."""
    missing = {
        "CUDA graphs (backend.enforce_eager=false)": eager,
        "async scheduling (backend.async_scheduling=null; where it was null, vLLM's log says why not)": not ahead,
    }
    settings = " and ".join(setting for setting, lacks in missing.items() if lacks)
    return f"Run with {settings}{', or ' if settings else ''}a model of larger layers, on CPUs that nothing else uses."


def _cpus_used(phases: Sequence[PhaseResult]) -> float:
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
        f" The same trial did not always take the same CPU time: trial {index + 1} of the {before_noun(phases[0].arm)} "
        f"arm {least:.2f} and {most:.2f} s in two launches."
    )
    return times, sentence
