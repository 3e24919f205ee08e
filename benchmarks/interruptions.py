"""What is left of an experiment that is interrupted at a random moment.

    python benchmarks/interruptions.py [TIMES] [SEED]         (default: 30 0)

Interrupts experiments of phases without an engine (`tests/fake_phase.py`) that often in each way, at moments spread
evenly over the time that one takes: every third logs to a SQLite store of MLflow's. Prints for each way how the
program ended and what was wrong afterwards (`tests/faults/aftermath.py`): processes, temporary files and locks that
were left, records that cannot be read, runs that were not closed, exit codes that do not fit the record.
"""

import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.conftest import write_fake_python
from tests.faults.conftest import Program
from tests.faults.interruptions import KINDS, Kind, interrupt

AT_ONCE = 2
"""Experiments that run at the same time."""
TRACKED = ("tracking=sqlite",)


def main() -> None:
    """Interrupt, and print a table."""
    times, seed = (int(text) for text in (*sys.argv[1:], *("30", "0")[len(sys.argv) - 1 :]))
    longest_s = {tracked: duration_s(tracked) for tracked in (False, True)}
    print(f"an experiment takes {longest_s[False]:.1f} s, {longest_s[True]:.1f} s with MLflow", flush=True)
    print("| interruption | times | exit codes | wrong afterwards |\n|---|--:|---|---|")
    for kind in KINDS:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            done = list(pool.map(partial(once, kind, seed, longest_s), range(times)))
        codes = Counter(code for code, _ in done)
        problems = [problem for _, found in done for problem in found]
        print(f"| {kind.name} | {times} | {_counted(codes)} | {'; '.join(problems) or 'nothing'} |", flush=True)


def once(kind: Kind, seed: int, longest_s: dict[bool, float], number: int) -> tuple[int, list[str]]:
    """Interrupt one experiment; returns the exit code, and what was wrong afterwards."""
    chance, tracked = random.Random(f"{seed} {kind.name} {number}"), number % 3 == 0
    with tempfile.TemporaryDirectory() as name:
        program = Program(Path(name), write_fake_python(Path(name)))
        done = interrupt(program, kind, chance, longest_s[tracked], *(TRACKED if tracked else ()))
        when = f" (after {done.after_s:.2f} s{' with MLflow' if tracked else ''})"
        return done.exit_code, [problem + when for problem in done.problems]


def duration_s(tracked: bool) -> float:
    """How long an experiment takes that nothing interrupts, in seconds."""
    with tempfile.TemporaryDirectory() as name:
        program = Program(Path(name), write_fake_python(Path(name)))
        started = time.monotonic()
        done = program(*program.fake, "hydra.run.dir=out", *(TRACKED if tracked else ()))
        assert done.returncode == 0, done.stderr
        return time.monotonic() - started


def _counted(codes: "Counter[int]") -> str:
    return ", ".join(f"{code}: {number}" for code, number in sorted(codes.items()))


if __name__ == "__main__":
    main()
