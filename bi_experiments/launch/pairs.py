"""The pairs of one experiment: launched as the protocol says, taken over where an earlier start finished them."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bi_experiments import __version__
from bi_experiments.analysis.design import pairs_to_run, two_stages
from bi_experiments.analysis.pairs import complete_pairs
from bi_experiments.config.backends import Platform
from bi_experiments.config.schema import Caches, ExperimentConfig, Interleave, ProtocolConfig
from bi_experiments.launch.process import LaunchSettings, PhaseProcess, StepLimits, cannot_start
from bi_experiments.launch.progress import Progress
from bi_experiments.launch.schedule import UNCOUNTED, Slot, baseline_first_in_turn, plan, trial_order
from bi_experiments.launch.spec import probe_plan
from bi_experiments.launch.turns import run_alone, run_by_turns
from bi_experiments.launch.variables import phase_variables
from bi_experiments.machine.clocks import ClockReader
from bi_experiments.machine.interpreter import interpreter
from bi_experiments.machine.placement import Place
from bi_experiments.paths import OutputFolder, PhaseFolder
from bi_experiments.phase.profilers import PROFILER
from bi_experiments.records import (
    BUDGET_SPENT,
    INTERRUPTED,
    RECORD_VERSION,
    Arm,
    EngineSpec,
    ExperimentResult,
    PhaseResult,
    PhaseSpec,
    PhaseStatus,
    RecordError,
    from_json,
)
from bi_experiments.wording import before_noun, count


@dataclass(frozen=True)
class Inputs:
    """What every phase of an experiment is given."""

    engine: EngineSpec
    workload: Path
    """The workload's file, absolute."""
    workload_digest: str
    """SHA-256 of that file."""
    order_seed: int
    """Seed of the order of launches, turns and trials."""
    pair_workloads: tuple[tuple[Path, str], ...] = ()
    """File and SHA-256 of the trials' inputs of every pair, where each has its own (`workload.fresh_prompts`)."""


class Launches:
    """The launches of one experiment, and what is known of them, even after an interruption.

    Attributes:
        lost: Folders of launches that an earlier start had finished, and that run again since their caches are gone.

    Args:
        config: The experiment's configuration.
        folder: Its output folder.
        inputs: What all phases are given.
        progress: Notified of what happens.
        clocks: Asked about the devices around every trial.
        place: The part of the machine that it runs on, where it has one for itself.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        folder: OutputFolder,
        inputs: Inputs,
        progress: Progress,
        clocks: ClockReader,
        place: Place | None = None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._inputs = inputs
        self._progress = progress
        self._clocks = clocks
        self._place = place
        self._beside: set[str] = set()
        self._phases: list[PhaseProcess] = []
        self._taken_over: dict[int, PhaseResult] = {}
        self.lost: list[PhaseFolder] = []
        self._uncounted: PhaseProcess | None = None
        self._discarded_before: PhaseResult | None = None

    @property
    def results(self) -> list[PhaseResult]:
        """What is known of every phase that was started or taken over."""
        return [*self.taken_over, *(phase.result for phase in self._phases if phase.started)]

    @property
    def taken_over(self) -> list[PhaseResult]:
        """The phases that an earlier start of this experiment had finished."""
        return list(self._taken_over.values())

    @property
    def _by_turns(self) -> bool:
        return self._config.protocol.interleave is Interleave.trial

    @property
    def beside(self) -> tuple[str, ...]:
        """The experiments that were seen to run on other parts of the machine."""
        return tuple(sorted(self._beside))

    def take_over(self, planned: Sequence[tuple[Slot, Slot]], before: ExperimentResult | None) -> None:
        """Take over what an earlier start of this experiment has finished: phases, or pairs where they took turns.

        Nothing is taken over of launches whose shared caches are gone: the next one would be cold, and count as warm.

        Args:
            planned: All pairs that the protocol may come to.
            before: The record of the earlier start, which knows what belongs to no pair; None: there is none.
        """
        for pair in planned:
            before_pair = len(self.lost)
            finished = {slot.index: result for slot in pair if (result := self._finished(slot)) is not None}
            if not self._by_turns or len(finished) == len(pair):
                self._taken_over |= finished
            elif len(self.lost) > before_pair:  # its partner runs again with it
                self.lost += [self._folder.phase(slot.index, slot.arm) for slot in pair if slot.index in finished]
        if before is not None and self._taken_over:
            self._beside |= set(before.beside)
            self._discarded_before = before.discarded

    def _finished(self, slot: Slot) -> PhaseResult | None:
        """The result of a phase that ended well and was passed what it would be passed now."""
        protocol = self._config.protocol
        shared = protocol.caches is Caches.private or (
            protocol.caches is Caches.fresh and protocol.launches_per_cache > 1
        )
        files = self._folder.phase(slot.index, slot.arm)
        try:
            passed = from_json(files.spec.read_bytes(), PhaseSpec, files.spec)
            result = from_json(files.result.read_bytes(), PhaseResult, files.result)
        except (FileNotFoundError, RecordError):
            return None
        same = msgspec.structs.replace(passed, version=RECORD_VERSION) == self._spec(slot, self._by_turns)
        if result.status is not PhaseStatus.OK or not same:
            return None
        if shared and not self._caches(slot).is_dir():
            self.lost.append(files)
            return None
        return result

    @property
    def discarded(self) -> PhaseResult | None:
        """The uncounted launch, of an earlier start too; None where there was none."""
        if self._uncounted is not None and self._uncounted.started:
            return self._uncounted.result
        return self._discarded_before

    def run_uncounted(self) -> None:
        """Run the launch before all others, unless an earlier start has got beyond it."""
        if not self._taken_over:
            self._uncounted = self.phase(UNCOUNTED, wait_for_turn=False)
            run_alone(self._uncounted)

    def run_pair(self, first: Slot, second: Slot) -> None:
        """Run what is not taken over of a pair, as `protocol.interleave` says."""
        left = [slot for slot in (first, second) if slot.index not in self._taken_over]
        if not left:
            return
        if self._by_turns:
            self._take_turns(first, second)
        else:
            self._one_after_the_other(left)
        self._look_around()

    def _take_turns(self, first: Slot, second: Slot) -> None:
        self._look_around()
        turns = baseline_first_in_turn(self._config.workload.num_trials, self._inputs.order_seed, first.pair)
        phases = self.phase(first, wait_for_turn=True), self.phase(second, wait_for_turn=True)
        run_by_turns(*phases, [baseline == (first.arm is Arm.BASELINE) for baseline in turns])

    def _one_after_the_other(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            self._look_around()
            phase = self.phase(slot, wait_for_turn=False)
            run_alone(phase)
            if cannot_start(phase.result):
                break

    def say_second_stage(self) -> None:
        """Say how many pairs there will be, once the first of two stages is over."""
        stages = two_stages(complete_pairs(self.results), self._config.protocol)
        if stages is not None:
            self._progress.first_stage_ended(stages)

    def _look_around(self) -> None:
        if self._place is not None:
            self._beside |= set(self._place.beside())

    def phase(self, slot: Slot, wait_for_turn: bool) -> PhaseProcess:
        """The phase of one slot of the schedule, not started yet."""
        settings = launch_settings(
            self._config, slot.arm, self._caches(slot), num_trials=self._config.workload.num_trials
        )
        self._prepare_caches(slot)
        spec = self._spec(slot, wait_for_turn)
        folder = self._folder.phase(slot.index, slot.arm)
        process = PhaseProcess(spec, folder, settings, self._progress, self._clocks)
        if slot is not UNCOUNTED:
            self._phases.append(process)
        return process

    def _caches(self, slot: Slot) -> Path:
        """Folder of the compile caches of a launch: its arm's, or its own."""
        caches = self._folder.caches.resolve()
        if slot is UNCOUNTED:
            return caches / "uncounted"
        if self._config.protocol.caches is Caches.fresh:
            return caches / f"{slot.arm}-{slot.launch // self._config.protocol.launches_per_cache:02d}"
        return caches / slot.arm

    def _prepare_caches(self, slot: Slot) -> None:
        """The first launch with private caches is cold, even if an earlier start of it was killed."""
        protocol = self._config.protocol
        if protocol.caches is not Caches.user:
            caches = self._caches(slot)
            first = protocol.caches is Caches.fresh and slot.launch % protocol.launches_per_cache == 0
            if slot.launch <= 0 or first:
                shutil.rmtree(caches, ignore_errors=True)
            caches.mkdir(parents=True, exist_ok=True)

    def _spec(self, slot: Slot, wait_for_turn: bool) -> PhaseSpec:
        """What the phase of a slot is passed."""
        counted = slot is not UNCOUNTED
        protocol = self._config.protocol
        trials = self._inputs.pair_workloads[slot.pair] if self._inputs.pair_workloads and counted else None
        return PhaseSpec(
            project_version=__version__,
            index=slot.index,
            pair=slot.pair,
            arm=slot.arm,
            launch=slot.launch,
            engine=self._inputs.engine,
            workload_path=str(self._inputs.workload),
            workload_digest=self._inputs.workload_digest,
            warmup_batches=protocol.warmup,
            wait_for_turn=wait_for_turn,
            probes=probe_plan(self._config, slot.arm, slot.launch) if counted else None,
            trials_path=str(trials[0]) if trials else None,
            trials_digest=trials[1] if trials else None,
            trial_order=trial_order(self._config.workload.num_trials, self._inputs.order_seed, slot.pair),
            inject_pct=0.0 if slot.arm is Arm.BASELINE else protocol.inject_pct,
            profiler=PROFILER if self._config.profile and slot.launch == 0 else None,
        )


def launch_settings(config: ExperimentConfig, arm: Arm, caches: Path, num_trials: int | None = None) -> LaunchSettings:
    """How a phase of an experiment is started.

    Args:
        config: The experiment's configuration.
        arm: The phase's arm.
        caches: Folder of the phase's caches, where these are not the user's.
        num_trials: Trials that it has to report; None: as many as it likes.
    """
    runtime, on_device = config.runtime, config.backend.platform is Platform.cuda
    return LaunchSettings(
        python=interpreter(config),
        variables=phase_variables(config, arm, caches),
        timeout_s=runtime.phase_timeout_s,
        num_trials=num_trials,
        step_limits=StepLimits(
            init=runtime.init_timeout_s,
            warmup=runtime.warmup_timeout_s,
            trial=runtime.trial_timeout_s,
            probe=runtime.probe_timeout_s,
        ),
        device_share=config.model.gpu_memory_utilization if on_device else None,
        ranks=config.tp * config.pp,
    )


def most_pairs(protocol: ProtocolConfig) -> int:
    """As many pairs as the protocol may come to."""
    return protocol.max_pairs if protocol.target_half_width_pct is not None and protocol.max_pairs else protocol.pairs


def planned_pairs(config: ExperimentConfig, order_seed: int) -> tuple[tuple[Slot, Slot], ...]:
    """All pairs that the protocol may come to.

    Args:
        config: The experiment's configuration.
        order_seed: Seed of the order.
    """
    protocol = config.protocol
    return plan(most_pairs(protocol), protocol.order, order_seed, protocol.control)


def run_pairs(
    config: ExperimentConfig,
    launches: Launches,
    pairs: Sequence[tuple[Slot, Slot]],
    started: float,
    save: Callable[[], object],
) -> str | None:
    """Launch the pairs that the protocol asks for.

    Args:
        config: The experiment's configuration.
        launches: What launches them.
        pairs: All pairs that it may come to.
        started: `time.monotonic()` at the experiment's start, which the time budget counts from.
        save: Called before every pair, while no phase runs: what is known by then survives a killed program.

    Returns:
        Why the experiment ended early; None when it did not.
    """
    try:
        return _run_uncounted(config, launches) or _run_counted(config, launches, pairs, started, save)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run_uncounted(config: ExperimentConfig, launches: Launches) -> str | None:
    """Run the uncounted launch, if there is to be one; returns why nothing can follow it, or None."""
    if config.protocol.discard_first:
        launches.run_uncounted()
    discarded = launches.discarded
    if discarded is None or discarded.status is PhaseStatus.OK:
        return None
    return f"the uncounted launch failed: {discarded.error}"


def _run_counted(
    config: ExperimentConfig,
    launches: Launches,
    pairs: Sequence[tuple[Slot, Slot]],
    started: float,
    save: Callable[[], object],
) -> str | None:
    protocol = config.protocol
    for first, second in pairs:
        if first.pair >= pairs_to_run(launches.results, protocol):
            return None
        budget_s = None if protocol.time_budget_min is None else 60 * protocol.time_budget_min
        if first.pair and budget_s is not None and time.monotonic() - started > budget_s:
            return f"{BUDGET_SPENT} of {protocol.time_budget_min:g} min was spent after {count(first.pair, 'pair')}"
        save()
        launches.run_pair(first, second)
        if failed := [phase for phase in launches.results if phase.status is not PhaseStatus.OK]:
            return f"the {before_noun(failed[0].arm)} phase of pair {failed[0].pair + 1} failed: {failed[0].error}"
        if first.pair == protocol.pairs - 1:
            launches.say_second_stage()
    return None
