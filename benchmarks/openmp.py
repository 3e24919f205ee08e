"""How the threads of vLLM's CPU backend should wait for one another: the demo model alone and alongside a loop.

    python benchmarks/openmp.py [--trials 6]

For each setting of the OpenMP runtime an engine is launched; it runs the same trials alone, alongside one that keeps
one core busy, and alone again. The table has the medians over the trials.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from by_turns import WARM_UP_TRIALS, Engine, Job, backend_environment

INTEL = str(Path(sys.prefix) / "lib" / "libiomp5.so")
SETTINGS = {
    "default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "libiomp5 preloaded": {"LD_PRELOAD": INTEL},
    "libiomp5, KMP_BLOCKTIME=0": {"LD_PRELOAD": INTEL, "KMP_BLOCKTIME": "0"},
}


def main() -> None:
    """Print a row a setting."""
    parser = argparse.ArgumentParser(description="Trial times by OpenMP setting, alone and alongside a busy process.")
    parser.add_argument("--trials", type=int, default=6, help="timed trials of each kind")
    options = parser.parse_args()
    print("| setting | alone | alongside one busy process | alone again |\n|---|--:|--:|--:|")
    common = {name: value for name, value in backend_environment().items() if name != "OMP_WAIT_POLICY"}
    with tempfile.TemporaryDirectory() as cache_dir:
        for number, (name, environment) in enumerate(SETTINGS.items()):
            job = Job(cache_dir, str(number), engine={"enforce_eager": True}, environment=common | environment)
            with Engine(job) as engine:
                times_s = measure(engine, options.trials)
            print(f"| {name} | {' | '.join(f'{time_s:.2f} s' for time_s in times_s)} |", flush=True)


def measure(engine: Engine, trials: int) -> list[float]:
    """Median trial times in seconds: alone, alongside a busy process, alone again."""
    for trial in range(-WARM_UP_TRIALS, trials):
        engine.trial_s(trial)
    alone_s = [engine.trial_s(trial) for trial in range(trials)]
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        beside_s = [engine.trial_s(trial) for trial in range(trials)]
    finally:
        busy.kill()
        busy.wait()
    again_s = [engine.trial_s(trial) for trial in range(trials)]
    return [median(times_s) for times_s in (alone_s, beside_s, again_s)]


if __name__ == "__main__":
    main()
