"""What is left of an experiment that is interrupted at a random moment.

    python benchmarks/interruptions.py [TIMES] [--seed 0] [--kinds SIGINT SIGTERM ...] [--record FILE]

Interrupts experiments of phases without an engine (`tests/fake_phase.py`) that often in each way, at random moments of
the time that one takes: every third logs to a SQLite store of MLflow's. Prints for each way how the program ended and
what was wrong afterwards (`tests/faults/aftermath.py`): processes, temporary files and locks that were left, records
that cannot be read, runs that were not closed, exit codes that do not fit the record. With a record the interruptions
are done in pieces: a line is added for each, the next moments are other ones, and the table is of all of them.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.conftest import write_fake_python
from tests.faults.conftest import Program
from tests.faults.interruptions import KINDS, Kind, interrupt

AT_ONCE = 2
"""Experiments that run at the same time."""
TRACKED = ("tracking=sqlite",)


class Done(msgspec.Struct, frozen=True):
    """One interruption, as a line of the record."""

    kind: str
    seed: int
    number: int
    exit_code: int
    problems: list[str]


def main() -> None:
    """Interrupt, and print a table."""
    parser = argparse.ArgumentParser(description="Interrupt experiments at random moments, and look at what is left.")
    parser.add_argument("times", nargs="?", type=int, default=30, help="interruptions of each kind, in this piece")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--kinds", nargs="+", choices=[kind.name for kind in KINDS], help="instead of all of them")
    parser.add_argument("--record", type=Path, help="file with a line for each interruption, of earlier pieces too")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if options.kinds is None or kind.name in options.kinds]
    done = recorded(options.record)
    longest_s = {tracked: duration_s(tracked) for tracked in (False, True)}
    print(f"an experiment takes {longest_s[False]:.1f} s, {longest_s[True]:.1f} s with MLflow", flush=True)
    for kind in kinds:
        before = sum(one.kind == kind.name and one.seed == options.seed for one in done)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            numbers = range(before, before + options.times)
            for one in pool.map(partial(once, kind, options.seed, longest_s), numbers):
                done.append(one)
                if options.record is not None:
                    with options.record.open("ab") as file:
                        file.write(msgspec.json.encode(one) + b"\n")
        print(row(kind, done), flush=True)
    print("\n| interruption | times | exit codes | wrong afterwards |\n|---|--:|---|---|")
    for kind in KINDS:
        print(row(kind, done))


def recorded(record: Path | None) -> list[Done]:
    """The interruptions of earlier pieces."""
    lines = record.read_bytes().splitlines() if record is not None and record.exists() else []
    return [msgspec.json.decode(line, type=Done) for line in lines]


def row(kind: Kind, done: Sequence[Done]) -> str:
    """What became of the interruptions of a kind."""
    own = [one for one in done if one.kind == kind.name]
    codes = Counter(one.exit_code for one in own)
    problems = [problem for one in own for problem in one.problems]
    return f"| {kind.name} | {len(own)} | {_counted(codes)} | {'; '.join(problems) or 'nothing'} |"


def once(kind: Kind, seed: int, longest_s: dict[bool, float], number: int) -> Done:
    """Interrupt one experiment, and look at what was wrong afterwards."""
    chance, tracked = random.Random(f"{seed} {kind.name} {number}"), number % 3 == 0
    with tempfile.TemporaryDirectory() as name:
        program = Program(Path(name), write_fake_python(Path(name)))
        done = interrupt(program, kind, chance, longest_s[tracked], *(TRACKED if tracked else ()))
    when = f" (after {done.after_s:.2f} s{' with MLflow' if tracked else ''})"
    return Done(kind.name, seed, number, done.exit_code, [problem + when for problem in done.problems])


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
