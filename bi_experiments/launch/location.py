"""The search for the operator behind a differing probe of a finished experiment, in a phase of its own."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bi_experiments import __version__
from bi_experiments.analysis.pairs import second_arm
from bi_experiments.config.compose import with_defaults
from bi_experiments.config.plain import setting
from bi_experiments.config.schema import Caches, ExperimentConfig
from bi_experiments.errors import ConfigurationError, PhaseError
from bi_experiments.launch.pairs import launch_settings
from bi_experiments.launch.process import PhaseProcess
from bi_experiments.launch.progress import Progress
from bi_experiments.launch.spec import model_path
from bi_experiments.launch.turns import run_alone
from bi_experiments.machine.clocks import ClockReader
from bi_experiments.paths import OutputFolder, PhaseFolder, log_tail
from bi_experiments.records import (
    DECODE_AGAINST_PREFILL,
    RECORD_VERSION,
    TIMED,
    Arm,
    EngineSpec,
    ExperimentResult,
    LocatePlan,
    Location,
    PhaseResult,
    PhaseSpec,
    PhaseStatus,
    ProbeResult,
    RecordError,
    from_json,
)
from bi_experiments.wording import before_noun, count

SHRINK_TIME_S = 60.0
"""Longest search for a smaller batch, in seconds."""
EAGER_IS_OPEN = "whether it also differs in eager mode is unknown: the batch cannot be composed again there"
WITHOUT_SHRINKING = (DECODE_AGAINST_PREFILL, "prefix_cache")
"""Compositions whose batch holds the probe alone; others are preferred, as they say more."""


def differing_probe(result: ExperimentResult, arm: Arm, of_the_batch: bool = False) -> tuple[PhaseResult, ProbeResult]:
    """The differing probe that is the cheapest to look into, and its phase.

    Args:
        result: The experiment.
        arm: Whose probes.
        of_the_batch: Only those that differ with the batch: decode against prefill says nothing of it.

    Raises:
        ConfigurationError: No probe of that arm differs.
    """
    found = [
        (phase, probe)
        for phase in result.phases
        if phase.arm is arm
        for probe in phase.probes
        if not probe.equal
        and probe.composition != TIMED
        and not (of_the_batch and probe.composition == DECODE_AGAINST_PREFILL)
    ]
    if not found and any(not one.equal for phase in result.phases if phase.arm is arm for one in phase.probes):
        raise ConfigurationError(
            f"in the {before_noun(arm)} arm only tokens of timed outputs differ, or decode from prefill: no batch of "
            "theirs can be composed again, so that there is nothing to locate"
        )
    if not found:
        probed = sum(len(phase.probes) for phase in result.phases if phase.arm is arm)
        if not any(phase.probes for phase in result.phases):
            how = " with verify=standard" if setting(result.configuration, "verify.level") == "off" else ""
            raise ConfigurationError(f"nothing was probed, so that there is nothing to locate: run it again{how}")
        other = Arm.BASELINE if arm is not Arm.BASELINE else second_arm(result.phases)
        raise ConfigurationError(
            f"none of {count(probed, 'probe output')} of the {before_noun(arm)} arm differs, so that there is nothing "
            f"to locate: pass --arm {other}, or an experiment in which one does"
        )

    def cost(probe: ProbeResult) -> tuple[bool, int]:
        output_token = max(0, (probe.first_difference or 0) - probe.prompt_positions)
        return probe.composition in WITHOUT_SHRINKING, output_token

    return min(found, key=lambda one: cost(one[1]))


def recorded_config(result: ExperimentResult) -> ExperimentConfig:
    """The configuration that an experiment ran with.

    Raises:
        ConfigurationError: The record is of a release whose settings had other types.
    """
    try:
        return msgspec.convert(with_defaults(result.configuration), ExperimentConfig)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"the configuration of this experiment is of another release ({error}): run it again with this one"
        ) from error


def locate(
    config: ExperimentConfig, folder: OutputFolder, phase: PhaseResult, probe: ProbeResult, progress: Progress
) -> tuple[Location, EngineSpec]:
    """Look for the operator, eager first, and with compiled kernels and graphs where eager shows no difference.

    Args:
        config: The experiment's configuration.
        folder: Its output folder.
        phase: The phase that the probe ran in.
        probe: The probe.
        progress: Notified of the phases.

    Returns:
        What was found, and the engine's arguments with which it was.

    Raises:
        ConfigurationError: The folder lacks the phase's spec.
        PhaseError: A phase failed.
    """
    passed = _passed(folder.phase(phase.index, phase.arm))
    config = dataclasses.replace(config, protocol=dataclasses.replace(config.protocol, caches=Caches.user))
    engine = msgspec.structs.replace(passed.engine, model=model_path(config))
    equal: list[tuple[Location, EngineSpec]] = []
    for number, (level, arguments) in enumerate(levels(engine)):
        plan = LocatePlan(
            composition=probe.composition,
            batch=probe.batch,
            position=probe.position,
            sample=probe.sample,
            observe=arguments.enforce_eager,
            shrink_time_s=SHRINK_TIME_S,
            graph_sizes=phase.graph_sizes,
            borders=phase.borders,
        )
        spec = msgspec.structs.replace(
            passed,
            version=RECORD_VERSION,
            project_version=__version__,
            engine=arguments,
            workload_path=str(folder.workload.resolve()),
            trials_path=None,
            trials_digest=None,
            wait_for_turn=False,
            locate=plan,
            profiler=None,
        )
        found = msgspec.structs.replace(_run(config, spec, folder.location_phase(number), progress), level=level)
        if found.first_difference is not None or not found.repeatable:
            if found.stopped is None and any(not before.composed for before, _ in equal):
                found = msgspec.structs.replace(found, stopped=EAGER_IS_OPEN)
            return found, arguments
        equal.append((found, arguments))
    return equal[0]


def levels(engine: EngineSpec) -> Iterator[tuple[str, EngineSpec]]:
    """Names of the ways to run the model, from eager to the experiment's own, and the engine's arguments for them."""
    yield "eager", msgspec.structs.replace(engine, enforce_eager=True)
    if engine.enforce_eager:
        return
    own = engine.extra.get("compilation_config")
    own = {} if own is None else {"mode": own} if isinstance(own, int) else own  # vLLM takes a number for the mode
    for name, graphs in (("compiled without graphs", "NONE"), ("compiled with piecewise graphs", "PIECEWISE")):
        compilation: dict[str, Any] = {**own, "cudagraph_mode": graphs}
        yield name, msgspec.structs.replace(engine, extra={**engine.extra, "compilation_config": compilation})
    yield "compiled as in the experiment", engine


def _passed(files: PhaseFolder) -> PhaseSpec:
    try:
        spec = from_json(files.spec.read_bytes(), PhaseSpec, files.spec)
    except (OSError, RecordError) as error:
        raise ConfigurationError(
            f"{files.spec} cannot be read ({error}), without it the batch cannot be composed: run the experiment again"
        ) from error
    if spec.probes is None:
        raise ConfigurationError(f"{files.spec} has no probes: run the experiment again with verify=standard")
    return spec


def _run(config: ExperimentConfig, spec: PhaseSpec, files: PhaseFolder, progress: Progress) -> Location:
    settings = launch_settings(config, spec.arm, Path())
    process = PhaseProcess(spec, files, settings, progress, ClockReader(enabled=False))
    run_alone(process)
    location = process.result.location
    if process.result.status is not PhaseStatus.OK or location is None:
        tail = "\n".join(log_tail(files.log))
        raise PhaseError(f"the phase that locates the difference failed: {process.result.error}\n{tail}")
    return location
