"""What `profile=true` costs the timed trials: engines with vLLM's profiler configured and never started, and without.

    python benchmarks/profiler_at_rest.py [--launches 4] [--trials 16] [--dtype float32]

The timed trials of a phase with `profile=true` run in an engine that was built for a profiler and before it is started.
Each launch starts a fresh process of either kind; both stay alive and run the same trials in turn.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from by_turns import Job, compare_by_turns

from bi_experiments.phase.profilers import PROFILER, PROFILERS


def main() -> None:
    """Print one line a trial, then the change with its interval."""
    parser = argparse.ArgumentParser(description="Trial times of the demo model with and without a profiler at rest.")
    parser.add_argument("--launches", type=int, default=4, help="fresh processes of either kind")
    parser.add_argument("--trials", type=int, default=16, help="timed trials a launch")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts a trial")
    parser.add_argument("--dtype", default="float32", help="torch name of the weights' type")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache_dir:
        without = Job(
            cache_dir=cache_dir,
            name="profile=false",
            engine={"enforce_eager": True},
            dtype=options.dtype,
            batch_size=options.batch_size,
        )
        arguments = dict(PROFILERS[PROFILER](Path(cache_dir) / "traces").engine_arguments)
        engine = {"enforce_eager": True, "profiler_config": arguments}
        with_it = dataclasses.replace(without, name="profile=true", engine=engine)
        compare_by_turns([without, with_it], options.launches, options.trials)


if __name__ == "__main__":
    main()
