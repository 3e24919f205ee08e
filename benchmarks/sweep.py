"""What a sweep costs its parent for each experiment beyond the phases: time and memory.

    python benchmarks/sweep.py [EXPERIMENTS]        (default: 1000)

Runs one sweep of one-pair experiments, of phases that answer at once (`benchmarks/instant_phase.py`), and prints, for
each quarter of it: the parent's CPU time (its children's not included) and wall time beyond the phases for each
experiment, and the memory that it grew by for each; and its CPU time until the first was done, shared out among all.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bi_experiments.records import PhaseResult, from_json
from bi_experiments.sweep.folder import SweepFolder

QUARTERS = 4


def main() -> None:
    """Run the sweep and print what it cost."""
    experiments = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "python"
        phase = Path(__file__).with_name("instant_phase.py")
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S -I {shlex.quote(str(phase))} "$@"\n')
        python.chmod(0o755)
        measure(command(python, experiments), SweepFolder(folder / "sweep"), experiments)


def command(python: Path, experiments: int) -> list[str]:
    """The sweep: one seed an experiment."""
    fixed = ["experiment=cpu_demo", "protocol=single", "verify=off", "tracking=off", "workload.num_trials=1"]
    sweep = [f"runtime.python={python}", f"hydra.sweep.dir={python.parent}/sweep", f"seed=range({experiments})"]
    return [sys.executable, "-m", "bi_experiments", "-m", *fixed, "workload.max_batch_size=2", *sweep]


def measure(arguments: list[str], sweep: SweepFolder, experiments: int) -> None:
    """Follow the sweep from outside, and print a line after each quarter of it."""
    with subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(sweep.root.parent)}
    ) as process:
        parent = psutil.Process(process.pid)
        wait_for(sweep, 1, process)
        before = usage(parent, sweep)
        start_ms = 1000 * before[1] / experiments
        print(f"until the first is done (all are checked first): parent's CPU {start_ms:.1f} ms each", flush=True)
        for quarter in range(QUARTERS):
            wait_for(sweep, 1 + (experiments - 1) * (quarter + 1) // QUARTERS, process)
            now = usage(parent, sweep)
            count = now[0] - before[0]
            cpu_ms, wall_ms, phases_ms, memory_mb = (
                1000 * (now[index] - before[index]) / count for index in (1, 2, 3, 4)
            )
            print(
                f"experiments {before[0]:.0f} to {now[0]:.0f}: parent's CPU {cpu_ms:.1f} ms, wall beyond the phases "
                f"{wall_ms - phases_ms:.1f} ms, memory {memory_mb:.3f} MB each",
                flush=True,
            )
            before = now
        print(f"peak memory of the parent: {before[4] * 1000:.0f} MB", flush=True)
    print(f"exit code {process.returncode}, sweep.html {sweep.html.stat().st_size / 1e6:.2f} MB")


def wait_for(sweep: SweepFolder, number: int, process: "subprocess.Popen[bytes]") -> None:
    """Sleep until so many experiments are done."""
    while not (sweep.root / str(number - 1) / "report.txt").exists() and process.poll() is None:
        time.sleep(0.01)


def usage(parent: psutil.Process, sweep: SweepFolder) -> tuple[float, float, float, float, float]:
    """Experiments that are done; so far, in seconds: CPU time, wall time, time of all phases; memory in GB."""
    times, memory = parent.cpu_times(), parent.memory_info().rss
    now = time.time()
    done = sum(1 for _ in sweep.root.glob("*/report.txt"))
    results = (from_json(path.read_bytes(), PhaseResult, path) for path in sweep.root.glob("*/phases/*/result.json"))
    return done, times.user + times.system, now, sum(result.wall_time_s for result in results), memory / 1e9


if __name__ == "__main__":
    main()
