"""A few interruptions at random moments; `benchmarks/interruptions.py` has many."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import write_fake_python
from tests.faults.conftest import Program
from tests.faults.interruptions import KINDS, Kind, interrupt

LATEST_S = 5.0
"""About as long as such an experiment takes, in seconds."""


def test_nothing_is_left_whenever_an_experiment_is_interrupted(tmp_path: Path) -> None:
    def once(kind: Kind) -> list[str]:
        folder = tmp_path / kind.name.replace("/", "-").replace(", ", "-")  # a path in a setting
        folder.mkdir()
        program = Program(folder, write_fake_python(folder))
        chance = random.Random(kind.name)
        done = interrupt(program, kind, chance, LATEST_S, "protocol.pairs=1")
        return [f"{kind.name} after {done.after_s:.2f} s: {problem}; {done.said}" for problem in done.problems]

    with ThreadPoolExecutor(2) as pool:
        assert [
            problem for problems in pool.map(once, (kind for kind in KINDS if kind.signals)) for problem in problems
        ] == []
