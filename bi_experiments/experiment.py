"""One configuration: schedule, launch, analyse, report, track."""

import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bi_experiments import __version__
from bi_experiments.analysis import invariance
from bi_experiments.analysis.comparison import compare_experiment
from bi_experiments.analysis.design import pairs_to_run
from bi_experiments.config.backends import Platform
from bi_experiments.config.checks import check
from bi_experiments.config.credentials import refuse_credentials
from bi_experiments.config.plain import recorded_configuration
from bi_experiments.config.schema import Caches, ExperimentConfig, Interleave
from bi_experiments.errors import PhaseError
from bi_experiments.launch import schedule
from bi_experiments.launch.process import LaunchSettings, PhaseProcess, follow, last_lines
from bi_experiments.launch.progress import NoProgress, Progress
from bi_experiments.launch.spec import engine_spec, model_path, probe_plan
from bi_experiments.launch.turns import run_alone, run_by_turns
from bi_experiments.launch.variables import interpreter, phase_environment
from bi_experiments.machine.clocks import ClockReader
from bi_experiments.machine.environment import describe
from bi_experiments.machine.placement import Place
from bi_experiments.machine.preflight import check_machine
from bi_experiments.paths import OutputFolder, write_atomically
from bi_experiments.records import (
    Arm,
    ExperimentResult,
    PhaseResult,
    PhaseSpec,
    PhaseStatus,
    RecordError,
    TokenCounts,
    from_json,
    to_json,
)
from bi_experiments.report import output
from bi_experiments.tracking import system_metrics
from bi_experiments.workload import build_workload, write_workload


def prepare(config: ExperimentConfig) -> None:
    """Refuse what cannot run, before anything is started.

    Raises:
        ConfigurationError: The configuration contradicts itself.
        MachineError: The machine cannot run it.
    """
    check(config)
    refuse_credentials(config.tracking.uri)
    check_machine(config)


def run_experiment(
    config: ExperimentConfig,
    folder: OutputFolder,
    command: str,
    progress: Progress,
    *,
    resumable: bool = False,
    place: Place | None = None,
    pages_from_s: float = 0.0,
) -> ExperimentResult:
    """Run one experiment and write all of its files; logging it to MLflow is the caller's.

    An interruption, a failed phase or the end of the time budget ends it early; the complete pairs are analysed.

    Args:
        config: The composed configuration, which `prepare` has accepted.
        folder: Where the files go.
        command: The command line that makes this experiment again.
        progress: Told what happens.
        resumable: Take over the finished phases that are in the folder, and keep the private caches for the next start
            unless the experiment is complete.
        place: The part of the machine that it runs on, where it has one for itself.
        pages_from_s: Draw figures and pages if the experiment took at least that long, in seconds; they take some.

    Raises:
        ExperimentError: The seeded checkpoint could not be made.
    """
    launches = _Launches(config, folder, progress, place)
    if resumable:
        launches.take_over(_planned(config))
    progress.experiment_started(experiment_name(config), 2 * config.protocol.pairs, config.workload.num_trials)
    started_at, started = time.time(), time.monotonic()
    try:
        with launches.clocks, system_metrics.readings(config.tracking.enabled) as readings:
            stopped = _run_pairs(config, launches, started)
    finally:
        if not resumable:
            shutil.rmtree(folder.caches, ignore_errors=True)
    phases = tuple(sorted(launches.results, key=lambda phase: phase.index))
    system_metrics.write(readings, folder, phases)
    taken_over = launches.taken_over
    environment = describe()
    planned = max(2 * config.protocol.pairs, len(phases))
    result = ExperimentResult(
        name=experiment_name(config),
        command=command,
        configuration=recorded_configuration(config),
        environment=environment,
        started_at=min([started_at, *(phase.started_at for phase in taken_over)]),
        wall_time_s=time.monotonic() - started + sum(phase.wall_time_s for phase in taken_over),
        workload_kind=config.workload.kind,
        workload_digest=launches.workload_digest,
        tokens=_token_counts(phases),
        phases=phases,
        planned_phases=planned,
        stopped=stopped,
        comparison=compare_experiment(phases, config.protocol, planned // 2, environment.cpu_count, launches.beside),
        invariance=invariance.judge(phases, config.verify.level, config.verify.compositions),
        beside=launches.beside,
    )
    write_atomically(folder.result, to_json(result))
    output.write_text(result, folder)
    if stopped is None:
        shutil.rmtree(folder.caches, ignore_errors=True)  # after the result: without them no phase is taken over
    progress.experiment_ended(result)
    if result.wall_time_s >= pages_from_s:
        output.try_write_pages(result, folder)
    return result


def run_single_phase(config: ExperimentConfig, arm: Arm) -> PhaseResult:
    """Run one phase of one arm in a temporary folder.

    Raises:
        ConfigurationError: The configuration contradicts itself.
        MachineError: The machine cannot run it.
        PhaseError: The phase failed; the message ends with the last lines of its log.
    """
    prepare(config)
    with tempfile.TemporaryDirectory(prefix="bi_experiments-") as name:
        folder = OutputFolder(Path(name))
        launches = _Launches(config, folder, NoProgress())
        phase = launches.phase(schedule.Slot(index=0, pair=0, arm=arm, launch=0), wait_for_turn=False)
        with launches.clocks, phase:
            follow(phase)
        if phase.result.status is not PhaseStatus.OK:
            log = "\n".join(last_lines(folder.phase(0, arm).log))
            raise PhaseError(f"the {arm} phase failed: {phase.result.error}\n{log}")
        return phase.result


def experiment_name(config: ExperimentConfig) -> str:
    """Readable name: model, attention backend, tensor parallel size, workload."""
    model = config.model.name.rstrip("/").rpartition("/")[2].lower()
    return f"{model} {config.backend.attention or 'auto'} tp{config.tp} {config.workload.kind}"


def _run_pairs(config: ExperimentConfig, launches: "_Launches", started: float) -> str | None:
    """Launch the pairs; returns why the experiment ended early, or None."""
    protocol = config.protocol
    for first, second in _planned(config):
        if first.pair >= protocol.pairs and first.pair >= pairs_to_run(launches.results, protocol):
            return None
        budget_s = None if protocol.time_budget_min is None else 60 * protocol.time_budget_min
        if first.pair and budget_s is not None and time.monotonic() - started > budget_s:
            return f"the time budget of {protocol.time_budget_min:g} min was spent after {first.pair} pairs"
        try:
            launches.run_pair(first, second)
        except KeyboardInterrupt:
            return "it was interrupted"
        if failed := [phase for phase in launches.results if phase.status is not PhaseStatus.OK]:
            return f"the {failed[0].arm} phase of pair {failed[0].pair + 1} failed: {failed[0].error}"
    return None


def _planned(config: ExperimentConfig) -> tuple[tuple[schedule.Slot, schedule.Slot], ...]:
    """All pairs that the protocol may come to."""
    protocol = config.protocol
    most = protocol.max_pairs if protocol.target_half_width_pct is not None and protocol.max_pairs else protocol.pairs
    return schedule.plan(most, protocol.order, protocol.seed, protocol.control)


class _Launches:
    """Launches the phases of one experiment, and keeps what is known of them, also after an interruption."""

    def __init__(
        self, config: ExperimentConfig, folder: OutputFolder, progress: Progress, place: Place | None = None
    ) -> None:
        self._config = config
        self._folder = folder
        self._progress = progress
        self._place = place
        self._beside: set[str] = set()
        self._phases: list[PhaseProcess] = []
        self.clocks = ClockReader(enabled=config.backend.platform is Platform.cuda)
        self._taken_over: dict[int, PhaseResult] = {}
        workload = build_workload(config.workload, config.seed)
        self.workload_digest = write_workload(workload, folder.workload)
        self._engine = engine_spec(config, model_path(config))

    @property
    def results(self) -> list[PhaseResult]:
        """What is known of every phase that was started or taken over."""
        return [*self.taken_over, *(phase.result for phase in self._phases if phase.started)]

    @property
    def taken_over(self) -> list[PhaseResult]:
        """The phases that an earlier start of this experiment had finished."""
        return list(self._taken_over.values())

    @property
    def beside(self) -> tuple[str, ...]:
        """The experiments that were seen to run on other parts of the machine."""
        return tuple(sorted(self._beside))

    def take_over(self, planned: Sequence[tuple[schedule.Slot, schedule.Slot]]) -> None:
        """Take over what an earlier start of this experiment has finished: phases, or pairs where they took turns.

        With private caches nothing is taken over of an arm whose caches are gone: its next launch would be cold, and
        count as a warm one.
        """
        for pair in planned:
            finished = {slot.index: result for slot in pair if (result := self._finished(slot)) is not None}
            if self._config.protocol.interleave is Interleave.launch or len(finished) == len(pair):
                self._taken_over |= finished

    def _finished(self, slot: schedule.Slot) -> PhaseResult | None:
        """The result of a phase that ended well and was told what it would be told now."""
        private = self._config.protocol.caches is Caches.private
        if private and not (self._folder.caches / slot.arm).is_dir():
            return None
        files = self._folder.phase(slot.index, slot.arm)
        try:
            told = files.spec.read_bytes()
            result = from_json(files.result.read_bytes(), PhaseResult, files.result)
        except (FileNotFoundError, RecordError):
            return None
        by_turns = self._config.protocol.interleave is Interleave.trial
        return result if result.status is PhaseStatus.OK and told == to_json(self._spec(slot, by_turns)) else None

    def run_pair(self, first: schedule.Slot, second: schedule.Slot) -> None:
        """Run what is not taken over of a pair, as `protocol.interleave` says."""
        by_turns = self._config.protocol.interleave is Interleave.trial
        self._look_around()
        if by_turns and first.index not in self._taken_over:
            rng = random.Random(f"{self._config.protocol.seed}-{first.pair}")
            phases = self.phase(first, by_turns), self.phase(second, by_turns)
            run_by_turns(*phases, num_trials=self._config.workload.num_trials, rng=rng)
        for slot in () if by_turns else (first, second):
            if slot.index not in self._taken_over:
                run_alone(self.phase(slot, by_turns))
            self._look_around()

    def _look_around(self) -> None:
        if self._place is not None:
            self._beside |= set(self._place.beside())

    def phase(self, slot: schedule.Slot, wait_for_turn: bool) -> PhaseProcess:
        """The phase of one slot of the schedule, not started yet."""
        settings = LaunchSettings(
            python=interpreter(self._config),
            environment=phase_environment(self._config, slot.arm, self._folder.caches.resolve()),
            timeout_s=self._config.runtime.phase_timeout_s,
        )
        self._prepare_caches(slot)
        spec = self._spec(slot, wait_for_turn)
        folder = self._folder.phase(slot.index, slot.arm)
        process = PhaseProcess(spec, folder, settings, self._progress, self.clocks)
        self._phases.append(process)
        return process

    def _prepare_caches(self, slot: schedule.Slot) -> None:
        """An arm's first launch is cold, also when an earlier start of it was killed."""
        if self._config.protocol.caches is Caches.private:
            caches = self._folder.caches / slot.arm
            if slot.launch == 0:
                shutil.rmtree(caches, ignore_errors=True)
            caches.mkdir(parents=True, exist_ok=True)

    def _spec(self, slot: schedule.Slot, wait_for_turn: bool) -> PhaseSpec:
        """What the phase of a slot is told."""
        return PhaseSpec(
            project_version=__version__,
            index=slot.index,
            pair=slot.pair,
            arm=slot.arm,
            launch=slot.launch,
            engine=self._engine,
            workload_path=str(self._folder.workload.resolve()),
            workload_digest=self.workload_digest,
            warmup_batches=self._config.protocol.warmup,
            wait_for_turn=wait_for_turn,
            probes=probe_plan(self._config),
        )


def _token_counts(phases: Sequence[PhaseResult]) -> dict[Arm, TokenCounts]:
    """The measured size of the trials of each arm's first launch that ran any."""
    counts: dict[Arm, TokenCounts] = {}
    for phase in phases:
        if not phase.trials or phase.arm in counts:
            continue
        prompt_tokens = [trial.prompt_tokens for trial in phase.trials]
        counts[phase.arm] = TokenCounts(
            prompts=sum(trial.batch_size for trial in phase.trials),
            prompt_tokens=sum(prompt_tokens),
            output_tokens=sum(trial.output_tokens for trial in phase.trials),
            prompt_tokens_min=min(prompt_tokens),
            prompt_tokens_max=max(prompt_tokens),
        )
    return counts
