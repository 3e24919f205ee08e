"""What it changes that memory which a step gave back stays with the process (`conf/backend/cpu.yaml`).

    python benchmarks/kept_memory.py [--launches 6] [--trials 6]

glibc gives large blocks back to the system, by thresholds that it moves while a program runs: from launch to launch a
trial takes more or less memory anew, page by page. Printed are, for every launch, the page faults and the mean time of
a trial; at the end the spread of the launches' times without and with the two variables, launched alternately.
"""

import argparse
import math
import tempfile
from pathlib import Path
from statistics import fmean, stdev

from by_turns import WARM_UP_TRIALS, Engine, Job, backend_variables

MINOR_FAULTS = 9
"""Place of the page faults in `/proc/PID/stat` (proc(5)), counted from 0."""


def main() -> None:
    """Print one line a launch, then the spreads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=6, help="fresh processes of each kind")
    parser.add_argument("--trials", type=int, default=6, help="timed trials a launch")
    options = parser.parse_args()
    kept = backend_variables()
    kinds = {"default": {name: kept[name] for name in kept if not name.startswith("MALLOC_")}, "kept": kept}
    levels: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as cache_dir:
        for number in range(options.launches):
            for kind, variables in kinds.items():
                job = Job(cache_dir, "engine", engine={"enforce_eager": True}, variables=variables)
                with Engine(job) as engine:
                    for trial in range(-WARM_UP_TRIALS, 0):
                        engine.trial_s(trial)
                    before = page_faults(engine)
                    times_s = [engine.trial_s(trial) for trial in range(options.trials)]
                    faults = (page_faults(engine) - before) / options.trials
                levels[kind].append(fmean(map(math.log, times_s)))
                print(f"launch {number}, {kind:11}: {faults:8,.0f} faults, {fmean(times_s):.3f} s a trial", flush=True)
    for kind, of_launches in levels.items():
        mean_s, spread = math.exp(fmean(of_launches)), 100 * stdev(of_launches)
        print(f"{kind:11}: {mean_s:.3f} s a trial, standard deviation of the launches {spread:.1f} %")


def page_faults(engine: Engine) -> int:
    """Pages that the engine's process took so far."""
    return int(Path(f"/proc/{engine.process.pid}/stat").read_text().split()[MINOR_FAULTS])


if __name__ == "__main__":
    main()
