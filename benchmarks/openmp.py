"""How the threads of vLLM's CPU backend should wait for one another: the demo model alone and alongside a loop.

    python benchmarks/openmp.py [--trials 6] [--settings default OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=1000]

An engine for each setting of the OpenMP runtime; all are alive and take turns, trial by trial, so that whatever else
the machine does falls on every setting alike. They run the same trials alone, alongside a process that keeps one core
busy, and alone again. The table has the medians over the trials, and the range.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from by_turns import WARM_UP_TRIALS, Engine, Job, backend_variables

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
    parser.add_argument(
        "--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="those that are compared"
    )
    parser.add_argument("--dtype", default="float32", help="bfloat16 needs AVX-512")
    options = parser.parse_args()
    common = {name: value for name, value in backend_variables().items() if name != "OMP_WAIT_POLICY"}
    with tempfile.TemporaryDirectory() as cache_dir, ExitStack() as alive:
        engines = {}
        for number, name in enumerate(options.settings):
            job = Job(
                cache_dir,
                str(number),
                engine={"enforce_eager": True},
                variables=common | SETTINGS[name],
                dtype=options.dtype,
            )
            engines[name] = alive.enter_context(Engine(job))
        print(f"load average before: {os.getloadavg()[0]:.1f}", flush=True)
        run(engines, range(-WARM_UP_TRIALS, 0))
        alone = run(engines, range(options.trials))
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            alongside = run(engines, range(options.trials))
        finally:
            busy.kill()
            busy.wait()
        again = run(engines, range(options.trials))
    print("| setting | alone | alongside one busy process | alone again |\n|---|--:|--:|--:|")
    for name in engines:
        print(f"| {name} | {' | '.join(cell(times[name]) for times in (alone, alongside, again))} |")


def run(engines: Mapping[str, Engine], trials: range) -> dict[str, list[float]]:
    """Trial times in seconds of every engine, by turns; which goes first changes from trial to trial."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    names = list(engines)
    for trial in trials:
        first = trial % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(engines[name].trial_s(trial))
    return times


def cell(times_s: list[float]) -> str:
    """Median and range."""
    return f"{median(times_s):.2f} s ({min(times_s):.2f} to {max(times_s):.2f})"


if __name__ == "__main__":
    main()
