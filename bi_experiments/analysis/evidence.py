"""What the phases of an arm found about its output bits."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from bi_experiments.phase.proof.compositions import BATCHES_OF_THE_WORKLOAD, OWN_PROMPTS
from bi_experiments.records import (
    DECODE_AGAINST_PREFILL,
    NEGATIVE_CONTROL,
    TIMED,
    Arm,
    Fault,
    PhaseResult,
    ProbeResult,
    Reproducibility,
    StepCount,
    StepKind,
)

TOKENS_ALONE = ("without_logprobs", TIMED)
"""Compositions whose digests are of tokens alone: few tokens may be equal for two prompts."""
ALONE = (NEGATIVE_CONTROL, DECODE_AGAINST_PREFILL)
"""Compositions that compare the probe alone with itself alone."""


@dataclass(frozen=True)
class ProbeOutput:
    """One probe output in all launches of an arm that have it."""

    results: tuple[ProbeResult, ...]
    """One of each of these launches."""

    @property
    def differs(self) -> bool:
        """Whether its bits are not those of the probe alone, in any launch."""
        return any(not result.equal for result in self.results)

    @property
    def launches_differ(self) -> bool:
        """Whether its digest is not the same in all of them."""
        return len({result.digest for result in self.results}) > 1


class Changed(NamedTuple):
    """Outputs that changed, of how many."""

    changed: int
    total: int


@dataclass(frozen=True)
class Evidence:
    """All that the phases of one arm found, finished or not."""

    arm: Arm
    """Whose phases they are."""
    launches: tuple[tuple[ProbeResult, ...], ...]
    """Probe results of every launch that has some."""
    needle_differing: int
    """Trials in which the needle's tokens changed."""
    needle_total: int
    """Trials with a needle."""
    first_tokens: tuple[StepCount, ...] = ()
    """Of the probes: steps that end a prompt, from which first output tokens come."""
    workload_prompts: int = 0
    """Prompts of the workload; 0: no launch says how many."""
    left_out: int = 0
    """Prompts that were drawn too, and do not count as sampled in any launch."""
    timed_by_steps: tuple[Changed, Changed] | None = None
    """Timed outputs of prompts that are known to have been computed in several steps, and of the others, each once a
    launch; None: that was not recorded."""

    @cached_property
    def outputs(self) -> dict[str, list[ProbeOutput]]:
        """Distinct outputs by composition."""
        by_key: dict[tuple[str, int, int, int, int], list[ProbeResult]] = defaultdict(list)
        for result in (result for launch in self.launches for result in launch):
            by_key[result.composition, result.batch, result.position, result.probe, result.sample].append(result)
        found: dict[str, list[ProbeOutput]] = defaultdict(list)
        for (composition, *_), results in by_key.items():
            found[composition].append(ProbeOutput(tuple(results)))
        return dict(found)

    def results(self, composition: str) -> list[ProbeResult]:
        """Probe results of one composition, in all launches."""
        return [result for output in self.outputs.get(composition, ()) for result in output.results]

    @property
    def all_outputs(self) -> list[ProbeOutput]:
        """Those of every composition."""
        return [output for outputs in self.outputs.values() for output in outputs]

    @property
    def compared(self) -> list[ProbeOutput]:
        """Outputs that were compared with those of another batch."""
        return [one for name, outputs in self.outputs.items() if name not in ALONE for one in outputs]

    @property
    def differing(self) -> list[ProbeOutput]:
        """Outputs that changed with the batch."""
        return [output for output in self.compared if output.differs]

    @property
    def noise(self) -> tuple[int, int]:
        """Outputs alone that differ from themselves, of how many."""
        outputs = self.outputs.get(NEGATIVE_CONTROL, [])
        return sum(output.differs for output in outputs), len(outputs)

    @property
    def sampled(self) -> tuple[int, int]:
        """Prompts drawn from the workload that differ, of how many: each once, whichever compositions and launches."""
        differs: dict[int, bool] = defaultdict(bool)
        for output in self.compared:
            # One launch may have compared it because it is needed, and another one in its turn.
            if any(result.sampled for result in output.results):
                differs[output.results[0].probe] |= output.differs
        for output in self.outputs.get(TIMED, ()):  # what was timed bears the numbers of the workload's prompts
            if output.results[0].probe in differs:
                differs[output.results[0].probe] |= output.differs
        return sum(differs.values()), len(differs)

    @property
    def begins_in_split_prompts(self) -> bool:
        """Whether every change of a probe begins at the first output token of a prompt computed in several steps.

        Not of what was timed: there an engine in another process starts before all prompts are queued, and splits
        others of them than in `trial` (`timed_by_steps`).
        """
        every = [one for output in self.differing for one in output.results if not one.equal]
        changed = [one for one in every if one.composition != TIMED]
        split = {step.composition for step in self.first_tokens if step.split and step.changed}
        return (
            bool(changed)
            and not self.needle_differing
            and all(one.composition in split and one.first_difference == one.prompt_positions for one in changed)
            and all(step.changed == 0 for step in self.first_tokens if not step.split)
        )

    @property
    def prompts(self) -> int:
        """Prompts whose outputs were compared with those of another batch, each once under whatever names."""
        same: dict[tuple[str | None, int], tuple[str | None, int]] = {}
        by_request: dict[str, tuple[str | None, int]] = {}

        def first_name(name: tuple[str | None, int]) -> tuple[str | None, int]:
            while same[name] != name:
                name = same[name]
            return name

        for result in (output.results[0] for output in self.compared):
            name = (result.composition if result.composition in OWN_PROMPTS else None, result.probe)
            same.setdefault(name, name)
            if result.request:
                same[first_name(name)] = first_name(by_request.setdefault(result.request, name))
        return sum(name == other for name, other in same.items())

    @property
    def census(self) -> bool:
        """Whether every prompt of the workload was compared, so that nothing is left to be bounded."""
        return 0 < self.workload_prompts <= self.sampled[1]

    def unrepeatable(self, composition: str) -> bool:
        """Whether the same batch of it gave other bits when it ran again; what was timed ran again as a probe batch."""
        names = (TIMED, *BATCHES_OF_THE_WORKLOAD) if composition == TIMED else (composition,)
        return any(result.repeatable is False for name in names for result in self.results(name))

    def fault(self, composition: str) -> Fault | None:
        """What is wrong with its outputs, whatever they are compared with."""
        results = self.results(composition)
        if fault := next((result.fault for result in results if result.fault is not None), None):
            return fault
        probes = {result.probe for result in results}
        alike = len({result.digest for result in results}) == 1
        return Fault.CONSTANT if alike and len(probes) > 1 and composition not in TOKENS_ALONE else None

    @property
    def launches_differing(self) -> int:
        """Probe outputs whose digest is not the same in all launches."""
        return sum(output.launches_differ for output in self.all_outputs)

    @property
    def reproducible(self) -> Reproducibility:
        """Whether the launches gave the same bits, where more than one gave some."""
        if not any(len(output.results) > 1 for output in self.all_outputs):
            return Reproducibility.ONE_LAUNCH
        return Reproducibility.NOT_REPRODUCIBLE if self.launches_differing else Reproducibility.REPRODUCIBLE


def gather(phases: Sequence[PhaseResult]) -> dict[Arm, Evidence]:
    """What the phases of each arm found; an arm without probe or trial is not among them.

    Args:
        phases: In launch order.
    """
    found = {arm: _of_one_arm([phase for phase in phases if phase.arm is arm], arm) for arm in Arm}
    return {arm: one for arm, one in found.items() if one.launches or one.needle_total}


def _of_one_arm(phases: Sequence[PhaseResult], arm: Arm) -> Evidence:
    needles = [trial.needle for phase in phases for trial in phase.trials]
    return Evidence(
        arm=arm,
        launches=tuple(phase.probes for phase in phases if phase.probes),
        needle_differing=sum(not needle.equal for needle in needles),
        needle_total=len(needles),
        first_tokens=tuple(
            step for phase in phases for step in phase.steps if step.kind is StepKind.PREFILL and step.composition
        ),
        workload_prompts=next(filter(None, map(_prompts, phases)), 0),
        # Every launch takes the first of the same order, so that they have as many as the one that came furthest.
        left_out=min((phase.left_out for phase in phases if any(one.sampled for one in phase.probes)), default=0),
        timed_by_steps=_timed_by_steps(phases),
    )


def _timed_by_steps(phases: Sequence[PhaseResult]) -> tuple[Changed, Changed] | None:
    """Timed outputs of prompts that are known to have been computed in several steps, and of the others."""
    equal: dict[bool, list[bool]] = {True: [], False: []}
    for phase in phases:
        split = {trial.index: trial.split for trial in phase.trials}
        for result in phase.probes:
            if result.composition == TIMED:
                positions = split.get(result.batch)
                if positions is None:
                    return None
                equal[result.position in positions].append(result.equal)
    return Changed(equal[True].count(False), len(equal[True])), Changed(equal[False].count(False), len(equal[False]))


def _prompts(phase: PhaseResult) -> int:
    """Prompts of the workload that a phase proves, which its own trials need not have: each ends in one prefill."""
    return sum(step.tokens for step in phase.steps if step.composition is None and step.kind is StepKind.PREFILL)
