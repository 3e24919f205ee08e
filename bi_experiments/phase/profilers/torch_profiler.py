"""PyTorch's profiler in every worker, through vLLM's own hooks: kernels on a device, operators on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bi_experiments.phase import engine

if TYPE_CHECKING:
    from vllm import LLM


class TorchProfiler:
    """vLLM's `profiler_config` with `profiler=torch`.

    Args:
        folder: Where each worker writes its trace, in Chrome's format.
    """

    name = "torch"

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    @property
    def engine_arguments(self) -> dict[str, object]:
        """What vLLM takes as `profiler_config`: as little as names the kernels and separates prefill from decode."""
        return {
            "profiler": self.name,
            "torch_profiler_dir": str(self._folder),
            "torch_profiler_with_stack": False,  # Python's stacks make the trace many times as large and slow the host
            "torch_profiler_dump_cuda_time_total": False,
        }

    @contextmanager
    def observing(self, llm: "LLM") -> Iterator[None]:
        """Observe every worker inside the context."""
        with engine.profiling(llm):
            yield

    def traces(self) -> list[Path]:
        """The workers' traces, in the order of their ranks."""
        return sorted(self._folder.glob("*.pt.trace.json.gz"))
