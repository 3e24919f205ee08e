"""Whether vLLM's request metrics change the trial time: the demo model with `disable_log_stats` on and off, by turns.

    python benchmarks/request_metrics.py [--launches 3] [--trials 12]

Phases have the metrics on: time to first token and its like come from them.
"""

import argparse
import tempfile

from by_turns import Job, compare_by_turns


def main() -> None:
    """Print one line a trial, then the change."""
    parser = argparse.ArgumentParser(description="Trial times without and with vLLM's request metrics.")
    parser.add_argument("--launches", type=int, default=3, help="fresh processes of each kind")
    parser.add_argument("--trials", type=int, default=12, help="timed trials a launch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache_dir:
        jobs = [
            Job(cache_dir, name, engine={"enforce_eager": True, "disable_log_stats": disabled})
            for name, disabled in (("without", True), ("with", False))
        ]
        compare_by_turns(jobs, options.launches, options.trials)


if __name__ == "__main__":
    main()
