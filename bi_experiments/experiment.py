"""One configuration, from its checks to its record and pages: the spine that every experiment follows."""

import contextlib
import json
import math
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bi_experiments.analysis.comparison import compare_experiment
from bi_experiments.analysis.design import pairs_to_run
from bi_experiments.analysis.invariance import greedy_tokens, judge
from bi_experiments.config.backends import Platform
from bi_experiments.config.checks import check
from bi_experiments.config.credentials import refuse_credentials
from bi_experiments.config.plain import recorded_configuration
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ConfigurationError, PhaseError, say
from bi_experiments.files import write_atomically
from bi_experiments.launch.pairs import Inputs, Launches, most_pairs, planned_pairs, run_pairs
from bi_experiments.launch.process import follow
from bi_experiments.launch.progress import NoProgress, Progress
from bi_experiments.launch.schedule import Slot, own_seed
from bi_experiments.launch.spec import engine_spec, model_path
from bi_experiments.machine.clocks import ClockReader
from bi_experiments.machine.environment import describe
from bi_experiments.machine.placement import Place, own_devices
from bi_experiments.machine.preflight import check_machine
from bi_experiments.paths import OutputFolder, log_tail, read_result
from bi_experiments.records import (
    INTERRUPTED,
    KILLED,
    Arm,
    ExperimentResult,
    Location,
    PhaseResult,
    PhaseStatus,
    ProbeResult,
    TokenCounts,
    Workload,
    to_json,
)
from bi_experiments.report import output
from bi_experiments.signals import held_back
from bi_experiments.tracking import system_metrics
from bi_experiments.tracking.uri import refuse_store
from bi_experiments.wording import before_noun, count
from bi_experiments.workload import build_workload, prompt_maker, write_workload


def prepare(config: ExperimentConfig) -> None:
    """Refuse what cannot run, before anything is started.

    Raises:
        ConfigurationError: The configuration contradicts itself, or MLflow cannot log to the store it names.
        MachineError: The machine cannot run it.
    """
    check(config)
    prompt_maker(config.workload.kind)
    refuse_credentials(config.tracking.uri)
    if config.tracking.enabled:
        refuse_store(config.tracking.uri)
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
        command: The command line that repeats this experiment.
        progress: Notified of what happens.
        resumable: Take over the finished phases that are in the folder.
        place: The part of the machine that it runs on, where it has one for itself.
        pages_from_s: Draw figures and pages if the experiment took at least that long, in seconds; drawing takes a few.

    Raises:
        ExperimentError: The seeded checkpoint could not be created.
        PhaseError: The numbers cannot be analysed; the record is on disk as it is.
    """
    inputs = make_inputs(config, folder, keep_order=resumable)
    planned = planned_pairs(config, inputs.order_seed)
    clocks = ClockReader(enabled=config.backend.platform is Platform.cuda)
    launches = Launches(config, folder, inputs, progress, clocks, place)
    location = before = None
    if resumable:
        before = _record_before(folder)
        launches.take_over(planned, before)
        location = _located_before(folder, before, launches.taken_over)
        if launches.lost:
            kept = _set_aside(launches, folder)
            say(
                f"the private caches of the earlier start are gone: {count(len(launches.lost), 'finished launch')} "
                f"will run again, since the next ones would be cold; what they measured is kept in {kept}"
            )
    progress.experiment_started(experiment_name(config), 2 * config.protocol.pairs, config.workload.num_trials)
    started = time.monotonic()
    started_at = time.time() if before is None else before.started_at

    def save(stopped: str | None) -> ExperimentResult:
        result = record(config, command, inputs, launches, started_at, time.monotonic() - started, stopped, location)
        write_atomically(folder.result, to_json(result))  # before it is analysed: no fault of the statistics loses it
        result = analysed(result, config, folder)
        write_atomically(folder.result, to_json(result))
        return result

    def save_between_pairs() -> None:
        with contextlib.suppress(PhaseError):  # a fault of the statistics is told at the end; the pairs go on
            save(KILLED)

    readings: Sequence[system_metrics.Reading] = ()
    try:
        with clocks, system_metrics.readings(config.tracking.enabled) as readings:
            stopped = run_pairs(config, launches, planned, started, save_between_pairs)
    except KeyboardInterrupt:  # as they ended
        stopped = INTERRUPTED
    with held_back():
        try:
            result = save(stopped)
            system_metrics.write(readings, folder, result.phases)
            output.write_text(result, folder)
        finally:  # after the result: without the caches no phase is taken over
            if stopped is None or not any(phase.status is PhaseStatus.OK for phase in launches.results):
                shutil.rmtree(folder.caches, ignore_errors=True)
    progress.experiment_ended(result)
    if result.wall_time_s >= pages_from_s:
        output.try_write_pages(result, folder)
    return result


def _record_before(folder: OutputFolder) -> ExperimentResult | None:
    """The record of an earlier start; None: there is none, or it cannot be read."""
    with contextlib.suppress(ConfigurationError):
        return read_result(folder.root)
    return None


def _located_before(
    folder: OutputFolder, before: ExperimentResult | None, taken_over: Sequence[PhaseResult]
) -> Location | None:
    """The location in the record of an earlier start, if the difference is in what is taken over of it.

    Else its script is removed: it would show what this experiment has not found.
    """
    found = None if before is None else before.location

    def shows(probe: ProbeResult) -> bool:
        names = "composition", "batch", "position", "sample"
        return not probe.equal and all(getattr(probe, name) == getattr(found, name) for name in names)

    if found is not None and any(phase.arm is found.arm and any(map(shows, phase.probes)) for phase in taken_over):
        return found
    folder.reproduction.unlink(missing_ok=True)
    return None


def _set_aside(launches: Launches, folder: OutputFolder) -> Path:
    """Move launches that run again out of the way, with a copy of the record that has them; returns where to."""
    place = folder.replaced / str(time.time_ns())
    place.mkdir(parents=True)
    for phase in launches.lost:
        phase.root.rename(place / phase.root.name)
    if folder.result.exists():
        shutil.copy2(folder.result, place)
    return place


def conclude(result: ExperimentResult, folder: OutputFolder) -> None:
    """What follows from a complete record that is on disk, and what a program that was killed may not have come to."""
    shutil.rmtree(folder.caches, ignore_errors=True)
    output.write_text(result, folder)
    output.try_write_pages(result, folder)


def make_inputs(config: ExperimentConfig, folder: OutputFolder, *, keep_order: bool = False) -> Inputs:
    """Draw and write workloads and order, and create the seeded checkpoint where the model has one that is missing.

    Args:
        config: The configuration.
        folder: Where the workloads and the seed of the order go.
        keep_order: Whether the order of an earlier start in the folder is kept.

    Raises:
        ExperimentError: The seeded checkpoint could not be made.
    """
    digest = write_workload(workload_of_pair(config, 0), folder.workload)
    seed = config.protocol.seed
    if seed is None:
        seed = own_seed(json.dumps(recorded_configuration(config)).encode(), folder.order, keep=keep_order)
    return Inputs(
        engine=engine_spec(config, model_path(config)),
        workload=folder.workload.resolve(),
        workload_digest=digest,
        order_seed=seed,
        pair_workloads=pair_workloads(config, folder) if config.workload.fresh_prompts else (),
    )


def pair_workloads(config: ExperimentConfig, folder: OutputFolder) -> tuple[tuple[Path, str], ...]:
    """Draw and write the inputs of the trials of every pair; returns files and digests."""
    paths = [folder.pair_workload(pair) for pair in range(most_pairs(config.protocol))]
    return tuple(
        (path.resolve(), write_workload(workload_of_pair(config, pair), path)) for pair, path in enumerate(paths)
    )


def workload_of_pair(config: ExperimentConfig, pair: int) -> Workload:
    """Draw the inputs of a pair's trials, by a seed of its own where `workload.fresh_prompts` asks for that.

    The first pair's are the workload of the experiment, which every launch proves: so that it was timed too.

    Args:
        config: The configuration.
        pair: Number of the pair, from 0.
    """
    seed = config.seed
    if config.workload.fresh_prompts:
        seed = random.Random(f"{config.seed}-pair-{pair}").getrandbits(32)
    return build_workload(config.workload, seed)


def record(
    config: ExperimentConfig,
    command: str,
    inputs: Inputs,
    launches: Launches,
    started_at: float,
    wall_time_s: float,
    stopped: str | None,
    location: Location | None,
) -> ExperimentResult:
    """What the phases reported, as the experiment's record, which is not analysed yet.

    Args:
        config: The composed configuration.
        command: The command line that repeats this experiment.
        inputs: What all phases were given.
        launches: The phases.
        started_at: Unix time in seconds of the experiment's first start, by which it is known in MLflow.
        wall_time_s: Time since this start, in seconds; that of the phases taken over from an earlier start is added.
        stopped: Why it ended early, or None.
        location: The operator behind a difference in what is taken over, where an earlier start named it.
    """
    phases = tuple(sorted(launches.results, key=lambda phase: phase.index))
    taken_over = launches.taken_over
    planned = max(2 * pairs_to_run(phases, config.protocol), len(phases))
    return ExperimentResult(
        name=experiment_name(config),
        command=command,
        configuration=recorded_configuration(config),
        environment=describe(),
        started_at=started_at,
        wall_time_s=wall_time_s + busy_s(taken_over),
        workload_kind=config.workload.kind,
        workload_digest=inputs.workload_digest,
        tokens=token_counts(phases),
        phases=phases,
        discarded=launches.discarded,
        order_seed=inputs.order_seed,
        planned_phases=planned,
        stopped=stopped,
        taken_over=len(taken_over),
        beside=launches.beside,
        location=location,
    )


def analysed(result: ExperimentResult, config: ExperimentConfig, folder: OutputFolder) -> ExperimentResult:
    """The record with the comparison of its arms and the verdict on their outputs.

    Raises:
        PhaseError: The numbers cannot be analysed; the record is on disk as it is.
    """
    phases, planned = result.phases, result.planned_phases // 2
    try:
        return msgspec.structs.replace(
            result,
            comparison=compare_experiment(
                phases, config.protocol, planned, result.environment.cpu_count, result.beside, result.discarded
            ),
            invariance=judge(phases, config.verify.level, config.verify.compositions, greedy_tokens(config)),
        )
    except (ArithmeticError, ValueError, LookupError) as error:
        raise PhaseError(
            f"the measurements cannot be analysed ({type(error).__name__}: {error}); they are in {folder.result}, whole"
        ) from error


def run_single_phase(config: ExperimentConfig, arm: Arm) -> PhaseResult:
    """Run one phase of one arm in a temporary folder.

    Raises:
        ConfigurationError: The configuration contradicts itself.
        MachineError: The machine cannot run it.
        ExperimentError: The seeded checkpoint could not be created.
        PhaseError: The phase failed; the message ends with the last lines of its log.
    """
    prepare(config)
    devices = own_devices(config, experiment_name(config), say)
    with devices, tempfile.TemporaryDirectory(prefix="bi_experiments-") as name:
        folder = OutputFolder(Path(name))
        clocks = ClockReader(enabled=config.backend.platform is Platform.cuda)
        launches = Launches(config, folder, make_inputs(config, folder), NoProgress(), clocks)
        phase = launches.phase(Slot(index=0, pair=0, arm=arm, launch=0), wait_for_turn=False)
        with clocks, phase:
            follow(phase)
        if phase.result.status is not PhaseStatus.OK:
            log = "\n".join(log_tail(folder.phase(0, arm).log))
            raise PhaseError(f"the {before_noun(arm)} phase failed: {phase.result.error}\n{log}")
        return phase.result


def experiment_name(config: ExperimentConfig) -> str:
    """Readable name: model, attention backend, tensor parallel size, workload."""
    model = config.model.name.rstrip("/").rpartition("/")[2].lower()
    return f"{model} {config.backend.attention or 'auto'} tp{config.tp} {config.workload.kind}"


def busy_s(phases: Sequence[PhaseResult]) -> float:
    """Time in which any of the phases was alive, in seconds: those that take turns are so together."""
    busy_s, until = 0.0, -math.inf
    for phase in sorted(phases, key=lambda phase: phase.started_at):
        end = phase.started_at + phase.wall_time_s
        busy_s += max(0.0, end - max(phase.started_at, until))
        until = max(until, end)
    return busy_s


def token_counts(phases: Sequence[PhaseResult]) -> dict[Arm, TokenCounts]:
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
