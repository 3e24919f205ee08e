"""Profilers, one file each: what observes the extra trial of `profile=true`, as a context manager; the index."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from bi_experiments.phase.profilers.torch_profiler import TorchProfiler
from bi_experiments.phase.profilers.trial import Profiler

PROFILERS: Mapping[str, Callable[[Path], Profiler]] = MappingProxyType({TorchProfiler.name: TorchProfiler})
"""Profilers by name; each is given the folder that its files go to."""

PROFILER = TorchProfiler.name
"""The one that `profile=true` asks for."""
