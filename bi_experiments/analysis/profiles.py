"""Where the time of the profiled trials went, by class of operation, and where that of the second arm went besides."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple, Self

from bi_experiments.analysis.operation_classes import OperationClass, classify
from bi_experiments.analysis.pairs import second_arm
from bi_experiments.records import Arm, ExperimentResult, PhaseResult, Profile, ProfiledStep
from bi_experiments.wording import LABELS, count

KNOWN_PCT = 90.0
"""Share of a profiled trial that must be in classes with a name, in per cent; less is a finding."""
NAMED = 4
"""Classes that the sentence names, those that differ most."""
TOLERATED = 0.02
"""Share of the baseline's timed trial by which the observed runs may be off without a word. A convention."""
LISTED = 15
"""Operations of either arm that are shown side by side."""


class ClassTime(NamedTuple):
    """Time of one class in one profiled trial, in seconds."""

    prefill_s: float
    decode_s: float
    total_s: float
    """With what is in no step."""


class ProfiledArm(NamedTuple):
    """One arm's profiled trial."""

    arm: Arm
    phase: int
    """Index of its phase."""
    profile: Profile
    timed_s: float | None
    """Mean time of the same trial in the same launch, when nothing observed it; None where it did other work."""
    classes: dict[OperationClass, ClassTime]

    @property
    def total_s(self) -> float:
        """What the classes but the profiler's own add up to, in seconds: the timed trial's time, or the profiled's."""
        return sum(time.total_s for kind, time in self.classes.items() if kind is not OperationClass.PROFILER)

    def observed_alone(self) -> Self:
        """The same, with the profiler's own time left where it was: in host and idle."""
        return self._replace(classes=class_times(self.profile, None))

    @property
    def known_pct(self) -> float:
        """Share of the profiled trial that is in a class with a name, in per cent."""
        unknown = self.classes.get(OperationClass.UNKNOWN)
        return 100.0 * (1 - (unknown.total_s if unknown else 0.0) / self.profile.time_s)


class OperationPair(NamedTuple):
    """One kernel or operator in both arms."""

    name: str
    kind: OperationClass
    baseline_calls: int
    baseline_s: float
    second_calls: int
    second_s: float


class ProfileComparison(NamedTuple):
    """The profiled trials of both arms."""

    baseline: ProfiledArm
    second: ProfiledArm

    @property
    def difference_s(self) -> float:
        """How much longer the second arm took, the profiler's own time left out, in seconds."""
        return self.second.total_s - self.baseline.total_s

    def differences(self) -> tuple[tuple[OperationClass, float], ...]:
        """Every class with how much longer the second arm spent on it, in seconds, the largest difference first."""
        nothing = ClassTime(0.0, 0.0, 0.0)
        found = [
            (kind, self.second.classes.get(kind, nothing).total_s - self.baseline.classes.get(kind, nothing).total_s)
            for kind in OperationClass
            if kind in self.baseline.classes or kind in self.second.classes
        ]
        return tuple(sorted(found, key=lambda one: -abs(one[1])))


def profiled(result: ExperimentResult) -> ProfileComparison | None:
    """The profiled trials of both arms; None unless each has one that can be read."""
    arms = {
        phase.arm: of_phase(phase)
        for phase in reversed(result.phases)
        if phase.profile is not None and phase.profile.stopped is None
    }
    baseline, second = arms.get(Arm.BASELINE), arms.get(second_arm(result.phases))
    if baseline is None or second is None:
        return None
    both = baseline, second
    if any(arm.timed_s is None or _faster_when_observed(arm) for arm in both):
        # What the profiler took is not known of one arm: taken out of the other's alone, it would look like a saving.
        both = baseline.observed_alone(), second.observed_alone()
    return ProfileComparison(*both)


def of_phase(phase: PhaseResult) -> ProfiledArm:
    """What a phase's profiled trial, which there must be, says."""
    profile = phase.profile
    assert profile is not None
    same = [trial.time_s for trial in phase.trials if trial.index == profile.trial]
    timed_s = fmean(same) if same and profile.whole else None
    return ProfiledArm(phase.arm, phase.index, profile, timed_s, class_times(profile, timed_s))


def class_times(profile: Profile, timed_s: float | None) -> dict[OperationClass, ClassTime]:
    """The time of every class that took any; together they are the profiled trial's whole time.

    Args:
        profile: The profiled trial.
        timed_s: Time of the same trial when nothing observed it, in seconds. On a device what the profiled one took
            longer is no class's but the profiler's: it was idle time. None: not known.
    """
    spent: dict[OperationClass, dict[ProfiledStep, float]] = defaultdict(lambda: dict.fromkeys(ProfiledStep, 0.0))
    for one in profile.operations:
        spent[classify(one.name, one.within)][one.steps] += one.time_s
    busy = {steps: sum(times[steps] for times in spent.values()) for steps in ProfiledStep}
    lasted = {one.steps: one.time_s for one in profile.steps}
    lasted[ProfiledStep.OUTSIDE] = profile.time_s - sum(lasted.values())
    idle = {steps: max(0.0, lasted.get(steps, 0.0) - busy[steps]) for steps in ProfiledStep}
    if profile.on_device and timed_s is not None:
        own = _taken_out(idle, max(0.0, profile.time_s - timed_s))
        spent[OperationClass.PROFILER] = own
    spent[OperationClass.HOST] = idle
    return {
        kind: ClassTime(times[ProfiledStep.PREFILL], times[ProfiledStep.DECODE], sum(times.values()))
        for kind, times in sorted(spent.items(), key=lambda one: list(OperationClass).index(one[0]))
        if sum(times.values()) > 0
    }


def _taken_out(idle: dict[ProfiledStep, float], excess_s: float) -> dict[ProfiledStep, float]:
    """Take that much time out of what was idle, from each kind of step in proportion; returns what was taken."""
    whole = sum(idle.values())
    share = min(1.0, excess_s / whole) if whole else 0.0
    taken = {steps: share * time_s for steps, time_s in idle.items()}
    for steps, time_s in taken.items():
        idle[steps] -= time_s
    return taken


def largest_operations(comparison: ProfileComparison) -> tuple[OperationPair, ...]:
    """The operations that take longest in either arm, side by side, the longest first."""
    both = [_by_name(arm.profile) for arm in (comparison.baseline, comparison.second)]
    listed = {key for times in both for key in sorted(times, key=lambda key: -times[key][1])[:LISTED]}
    found = [
        OperationPair(name, kind, *both[0].get((name, kind), (0, 0.0)), *both[1].get((name, kind), (0, 0.0)))
        for name, kind in listed
    ]
    return tuple(sorted(found, key=lambda one: (-max(one.baseline_s, one.second_s), one.name)))


def _by_name(profile: Profile) -> dict[tuple[str, OperationClass], tuple[int, float]]:
    """Calls and time in seconds of every operation, all steps together."""
    found: dict[tuple[str, OperationClass], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for one in profile.operations:
        key = (one.name, classify(one.name, one.within))
        calls, time_s = found[key]
        found[key] = (calls + one.calls, time_s + one.time_s)
    return dict(found)


def describe(comparison: ProfileComparison) -> str:
    """Where the second arm's time goes, in one sentence."""
    trial = comparison.baseline.profile.trial + 1
    classes = [one for one in comparison.differences() if one[0] is not OperationClass.PROFILER]
    named = ", ".join(f"{kind} {seconds(time_s)}" for kind, time_s in classes[:NAMED])
    rest = sum(time_s for _, time_s in classes[NAMED:])
    more = f", all else {seconds(rest)}" if len(classes) > NAMED else ""
    return (
        f"Where the time goes, by one more run of trial {trial} in each arm that a profiler observed: "
        f"the second arm took {_more_or_less(comparison.difference_s)}: {named}{more}.{_against_timed(comparison)}"
    )


def _against_timed(comparison: ProfileComparison) -> str:
    """That the observed run does not explain the timed one, where their differences are far apart."""
    baseline_s, second_s = comparison.baseline.timed_s, comparison.second.timed_s
    if baseline_s is None or second_s is None:
        return ""
    timed_s = second_s - baseline_s
    said = ""
    if abs(timed_s - comparison.difference_s) > max(0.5 * abs(timed_s), TOLERATED * baseline_s):
        said = f" The same trial when it was timed: {_more_or_less(timed_s)}, which this run does not explain."
    if faster := [arm for arm in (comparison.baseline, comparison.second) if _faster_when_observed(arm)]:
        arms = " and ".join(LABELS[arm.arm] for arm in faster)
        said += f" Read nothing from host and idle: the trial took less time when it was observed ({arms})."
    return said


def _faster_when_observed(arm: ProfiledArm) -> bool:
    """Whether the profiled trial was so much shorter than the timed one that idle time cannot be the profiler's."""
    return arm.profile.on_device and arm.timed_s is not None and arm.profile.time_s < (1 - TOLERATED) * arm.timed_s


def seconds(time_s: float) -> str:
    """A difference in seconds with its sign; finer where it is small, and never `-0.00`."""
    digits = 2 if abs(time_s) >= 0.1 else 3
    return f"{round(time_s, digits) + 0.0:+.{digits}f}"


def _more_or_less(time_s: float) -> str:
    return f"{seconds(abs(time_s)).removeprefix('+')} s {'less' if time_s < 0 else 'more'}"


def observed(arms: Sequence[ProfiledArm]) -> str:
    """What the profiler did to the trials that it observed, for a note."""
    said = []
    for arm in arms:
        unobserved = "" if arm.timed_s is None else f" ({arm.timed_s:.3f} s when timed)"
        said.append(f"{LABELS[arm.arm]} {arm.profile.time_s:.3f} s{unobserved}")
    workers = arms[0].profile.workers
    # A collective's kernel runs from a worker's own arrival until the last worker has come.
    several = f", means over {count(workers, 'worker')}; communication includes the wait for the slowest"
    over = several if workers > 1 else ""
    return f"Observed, and counted nowhere: {'; '.join(said)}{over}."
