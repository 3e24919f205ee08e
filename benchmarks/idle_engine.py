"""Whether an engine that waits for its turn disturbs the one that runs: the demo model's trials alone and alongside it.

    python benchmarks/idle_engine.py [--rounds 4] [--trials 8]

One engine runs the same trials over and over. In every round a second engine is started and warmed up, waits while
the first one runs them, and is ended; before and after, the first one runs them alone, and the mean of both is what it
is compared with. The CPU time that the waiting engine used meanwhile is printed next to the change.
"""

import argparse
import math
import tempfile
from statistics import fmean

import psutil
from by_turns import WARM_UP_TRIALS, Engine, Job, interval_line


def main() -> None:
    """Print one line a round, then the change."""
    parser = argparse.ArgumentParser(description="Trial times alone and alongside an engine that waits for its turn.")
    parser.add_argument("--rounds", type=int, default=4, help="launches of the waiting engine")
    parser.add_argument("--trials", type=int, default=8, help="timed trials of each kind a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache_dir:
        effects = []
        with Engine(Job(cache_dir, "running", engine={"enforce_eager": True})) as running:
            run(running, range(-WARM_UP_TRIALS, options.trials))
            before_s = run(running, range(options.trials))
            for number in range(options.rounds):
                with Engine(Job(cache_dir, "waiting", engine={"enforce_eager": True})) as waiting:
                    run(waiting, range(-WARM_UP_TRIALS, 0))
                    process = psutil.Process(waiting.process.pid)
                    idle = process.cpu_times()
                    beside_s = run(running, range(options.trials))
                    used = process.cpu_times()
                after_s = run(running, range(options.trials))
                effects.append(fmean(map(math.log, beside_s)) - fmean(map(math.log, before_s + after_s)))
                share = (used.user + used.system - idle.user - idle.system) / sum(beside_s)
                print(
                    f"round {number}: alone {sum(before_s):.3f} s, alongside {sum(beside_s):.3f} s, alone "
                    f"{sum(after_s):.3f} s, ratio of trials {math.exp(effects[-1]):.3f}, the waiting engine used "
                    f"{share:.2%} of a core",
                    flush=True,
                )
                before_s = after_s
        print(interval_line("alongside a waiting engine against alone", effects, "rounds"))


def run(engine: Engine, trials: range) -> list[float]:
    """Times of the trials in seconds."""
    return [engine.trial_s(trial) for trial in trials]


if __name__ == "__main__":
    main()
