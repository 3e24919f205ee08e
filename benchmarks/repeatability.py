"""How well the number repeats: real A/A experiments on the demo model, by three procedures of equal wall time.

    python benchmarks/repeatability.py [--rounds 12] [--record FILE]

Both arms are the baseline, so that the true change is zero. Every round runs one experiment of each procedure, in
random order: `launch` and `trial` are three pairs, interleaved by launch and by trial; `single` is one launch an arm,
baseline first, as vLLM's own script does it, with so many more trials that it takes as long. The table shows how often
the interval contains zero, and the spread of the estimate. FILE keeps a line an experiment; a later call adds to it.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev

from bi_experiments.paths import read_result

WORKLOAD = ["workload.max_batch_size=16", "workload.max_tokens=32"]
PROCEDURES = {
    "launch": ["protocol=control", "protocol.interleave=launch", "workload.num_trials=3"],
    "trial": ["protocol=control", "protocol.interleave=trial", "workload.num_trials=3"],
    "single": ["protocol=single", "protocol.control=true", "workload.num_trials=44"],
}


@dataclass(frozen=True)
class Outcome:
    """What one A/A experiment said; changes of the trial time in per cent."""

    procedure: str
    wall_time_s: float
    change_pct: float
    low_pct: float | None
    high_pct: float | None
    cpu_change_pct: float
    """Of the processes' CPU time a trial."""


def main() -> None:
    """Print a line an experiment, then the table."""
    parser = argparse.ArgumentParser(description="Real A/A experiments by three procedures.")
    parser.add_argument("--rounds", type=int, default=12, help="experiments of each procedure")
    parser.add_argument("--record", type=Path, help="file that keeps the outcomes, a line of JSON each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        record = options.record or Path(name) / "outcomes.jsonl"
        for number in range(options.rounds):
            for procedure in random.sample(list(PROCEDURES), k=len(PROCEDURES)):
                outcome = measure(procedure, seed=random.randrange(10**6), folder=Path(name) / f"{number}-{procedure}")
                with record.open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
                print(outcome, flush=True)
        outcomes = [Outcome(**json.loads(line)) for line in record.read_text().splitlines()]
    print_table(outcomes)


def measure(procedure: str, seed: int, folder: Path) -> Outcome:
    """Run one experiment by the command line."""
    command = [sys.executable, "-m", "bi_experiments", "experiment=cpu_demo", "verify=off", "tracking=off"]
    settings = [*PROCEDURES[procedure], *WORKLOAD, f"protocol.seed={seed}", f"hydra.run.dir={folder}"]
    subprocess.run([*command, *settings], check=True, stdout=subprocess.DEVNULL)
    result = read_result(folder)
    assert result.comparison is not None
    trial_time, cpu_time = (result.comparison.metric(name) for name in ("trial_time", "cpu_time"))
    assert trial_time is not None
    assert trial_time.change_pct is not None
    assert cpu_time is not None
    assert cpu_time.change_pct is not None
    return Outcome(
        procedure=procedure,
        wall_time_s=result.wall_time_s,
        change_pct=trial_time.change_pct,
        low_pct=trial_time.low_pct,
        high_pct=trial_time.high_pct,
        cpu_change_pct=cpu_time.change_pct,
    )


def print_table(outcomes: list[Outcome]) -> None:
    """One row a procedure."""
    by_procedure: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_procedure[outcome.procedure].append(outcome)
    header = ("procedure", "n", "wall s", "contain 0", "half-width", "mean", "SD", "range", "SD of CPU time")
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for procedure in PROCEDURES:
        rows = by_procedure[procedure]
        changes = [row.change_pct for row in rows]
        intervals = [
            (row.low_pct, row.high_pct) for row in rows if row.low_pct is not None and row.high_pct is not None
        ]
        contain = sum(low <= 0 <= high for low, high in intervals)
        cells = (
            procedure,
            str(len(rows)),
            f"{fmean(row.wall_time_s for row in rows):.0f}" if rows else "-",
            f"{contain} of {len(intervals)}" if intervals else "no interval",
            f"{median((high - low) / 2 for low, high in intervals):.1f} %" if intervals else "-",
            f"{fmean(changes):+.1f} %" if rows else "-",
            f"{stdev(changes):.1f} %" if len(rows) > 1 else "-",
            f"{min(changes):+.1f} .. {max(changes):+.1f} %" if rows else "-",
            f"{stdev(row.cpu_change_pct for row in rows):.1f} %" if len(rows) > 1 else "-",
        )
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
