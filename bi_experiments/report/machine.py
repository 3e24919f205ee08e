"""What an experiment ran on, in a few words."""

from collections import Counter
from collections.abc import Iterable

from bi_experiments.records import Environment, PhaseResult


def device(environment: Environment) -> str:
    """The accelerators, like ones counted: `8 x NVIDIA H200`; the CPU where there is none."""
    names = Counter(device.name for device in environment.devices)
    return ", ".join(f"{number} x {name}" for name, number in names.items()) or environment.cpu


def version(package: str, environment: Environment, phases: Iterable[PhaseResult]) -> str | None:
    """A package's version where the engine ran, or else in the parent's environment; None when neither has it."""
    in_phases = (phase.versions[package] for phase in phases if package in phase.versions)
    return next(in_phases, environment.versions.get(package))
