"""What vLLM's batch-invariant mode costs, and whether it really holds."""

from importlib.metadata import PackageNotFoundError, version

from bi_experiments.api import run_benchmark_with_batch_invariant

try:
    __version__ = version("bi_experiments")
except PackageNotFoundError:  # a checkout on the path that is not installed
    __version__ = "0.0.0"

__all__ = ["__version__", "run_benchmark_with_batch_invariant"]
