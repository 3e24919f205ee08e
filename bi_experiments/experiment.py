"""One configuration: schedule, launch, analyse, report, track."""

import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bi_experiments import __version__, invariance, schedule, system_metrics
from bi_experiments.analysis import compare_experiment
from bi_experiments.attention import Platform
from bi_experiments.checks import check
from bi_experiments.clocks import ClockReader
from bi_experiments.config import ExperimentConfig, Interleave
from bi_experiments.environment import describe
from bi_experiments.errors import PhaseError
from bi_experiments.launcher import LaunchSettings, PhaseProcess, follow, last_lines
from bi_experiments.paths import OutputFolder, write_atomically
from bi_experiments.phase_environment import interpreter, phase_environment
from bi_experiments.phase_spec import engine_spec, model_path, probe_plan
from bi_experiments.preflight import check_machine
from bi_experiments.progress import NoProgress, Progress
from bi_experiments.records import (
    Arm,
    ExperimentResult,
    PhaseResult,
    PhaseSpec,
    PhaseStatus,
    TokenCounts,
    to_json,
)
from bi_experiments.report import files
from bi_experiments.stats import half_width_pct
from bi_experiments.tracking import refuse_credentials, without_credentials
from bi_experiments.turns import run_by_turns, run_in_sequence
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
    config: ExperimentConfig, folder: OutputFolder, command: str, progress: Progress
) -> ExperimentResult:
    """Run one experiment and write all of its files; logging it to MLflow is the caller's.

    An interruption, a failed phase or the end of the time budget ends it early; the complete pairs are analysed.

    Args:
        config: The composed configuration, which `prepare` has accepted.
        folder: Where the files go.
        command: The command line that makes this experiment again.
        progress: Told what happens.

    Raises:
        ExperimentError: The seeded checkpoint could not be made.
    """
    launches = _Launches(config, folder, progress)
    progress.experiment_started(experiment_name(config), 2 * config.protocol.pairs, config.workload.num_trials)
    started_at, started = time.time(), time.monotonic()
    try:
        with launches.clocks, system_metrics.readings(config.tracking.enabled) as readings:
            stopped = _run_pairs(config, launches, started)
    finally:
        shutil.rmtree(folder.caches, ignore_errors=True)
    phases = tuple(sorted(launches.results, key=lambda phase: phase.index))
    system_metrics.write(readings, folder, phases)
    environment = describe()
    planned = max(2 * config.protocol.pairs, len(phases))
    result = ExperimentResult(
        name=experiment_name(config),
        command=command,
        configuration=recorded_configuration(config),
        environment=environment,
        started_at=started_at,
        wall_time_s=time.monotonic() - started,
        workload_kind=config.workload.kind,
        workload_digest=launches.workload_digest,
        tokens=_token_counts(phases),
        phases=phases,
        planned_phases=planned,
        stopped=stopped,
        comparison=compare_experiment(phases, config.protocol, planned // 2, environment.cpu_count),
        invariance=invariance.judge(phases, config.verify.level, config.verify.compositions),
    )
    write_atomically(folder.result, to_json(result))
    files.write_text(result, folder)
    progress.experiment_ended(result)
    files.try_write_pages(result, folder)
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
    most = protocol.max_pairs if protocol.target_half_width_pct is not None and protocol.max_pairs else protocol.pairs
    for first, second in schedule.plan(most, protocol.order, protocol.seed, protocol.control):
        if first.pair >= protocol.pairs:
            half_width = half_width_pct(launches.results)
            if half_width is not None and half_width <= (protocol.target_half_width_pct or 0.0):
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


class _Launches:
    """Launches the phases of one experiment, and keeps what is known of them, also after an interruption."""

    def __init__(self, config: ExperimentConfig, folder: OutputFolder, progress: Progress) -> None:
        self._config = config
        self._folder = folder
        self._progress = progress
        self._phases: list[PhaseProcess] = []
        self.clocks = ClockReader(enabled=config.backend.platform is Platform.cuda)
        workload = build_workload(config.workload, config.seed)
        self.workload_digest = write_workload(workload, folder.workload)
        self._engine = engine_spec(config, model_path(config))

    @property
    def results(self) -> list[PhaseResult]:
        """What is known of every phase that was started."""
        return [phase.result for phase in self._phases if phase.started]

    def run_pair(self, first: schedule.Slot, second: schedule.Slot) -> None:
        """Run both phases of a pair, as `protocol.interleave` says."""
        by_turns = self._config.protocol.interleave is Interleave.trial
        phases = self.phase(first, by_turns), self.phase(second, by_turns)
        if by_turns:
            rng = random.Random(f"{self._config.protocol.seed}-{first.pair}")
            run_by_turns(*phases, num_trials=self._config.workload.num_trials, rng=rng)
        else:
            run_in_sequence(*phases)

    def phase(self, slot: schedule.Slot, wait_for_turn: bool) -> PhaseProcess:
        """The phase of one slot of the schedule, not started yet."""
        spec = PhaseSpec(
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
        settings = LaunchSettings(
            python=interpreter(self._config),
            environment=phase_environment(self._config, slot.arm, self._folder.caches.resolve()),
            timeout_s=self._config.runtime.phase_timeout_s,
        )
        folder = self._folder.phase(slot.index, slot.arm)
        process = PhaseProcess(spec, folder, settings, self._progress, self.clocks)
        self._phases.append(process)
        return process


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


def recorded_configuration(config: ExperimentConfig) -> dict[str, Any]:
    """The configuration as plain values, without credentials."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    plain["tracking"]["uri"] = without_credentials(config.tracking.uri)
    return plain
