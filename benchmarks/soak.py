"""Whether a long sweep leaves anything behind: descriptors, threads, memory, sockets, processes, files.

    python benchmarks/soak.py [EXPERIMENTS]         (default: 200)
    python benchmarks/soak.py EXPERIMENTS --real

Runs one sweep of one-pair experiments in one program, of phases that answer at once (`benchmarks/instant_phase.py`) or
of real ones, and prints what the program holds after each quarter of it, and what is left when it has ended.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
from sweep import QUARTERS, command, wait_for

from bi_experiments.sweep.folder import SweepFolder


def main() -> None:
    """Run the sweep and print what it holds."""
    experiments = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        temporary = folder / "temporary"
        temporary.mkdir()
        python = folder / "python"
        phase = Path(__file__).with_name("instant_phase.py")
        how = "" if "--real" in sys.argv else f" -S -I {shlex.quote(str(phase))}"
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{how} "$@"\n')
        python.chmod(0o755)
        sweep = SweepFolder(folder / "sweep")
        shared = set(os.listdir("/dev/shm"))  # noqa: PTH208
        variables = {**os.environ, "TMPDIR": str(temporary)}
        with subprocess.Popen(command(python, experiments), stdout=subprocess.DEVNULL, env=variables) as process:
            parent = psutil.Process(process.pid)
            for quarter in range(QUARTERS):
                done = max(1, experiments * (quarter + 1) // QUARTERS - 1)
                wait_for(sweep, done, process)
                print(f"after {done}: {held(parent)}", flush=True)
        left = [path.name for path in temporary.iterdir() if not path.name.startswith("bi_experiments-")]
        shared_left = set(os.listdir("/dev/shm")) - shared  # noqa: PTH208
        print(
            f"exit code {process.returncode}; left: {left or 'no'} temporary files, {shared_left or 'no'} shared memory"
        )


def held(parent: psutil.Process) -> str:
    """What a process holds now."""
    sockets = len(parent.net_connections(kind="all"))
    return (
        f"{parent.num_fds()} descriptors, {parent.num_threads()} threads, {sockets} sockets, "
        f"{len(parent.children(recursive=True))} children, {parent.memory_info().rss / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
