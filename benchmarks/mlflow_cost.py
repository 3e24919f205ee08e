"""What MLflow costs: logging one experiment, and reading the system metrics while phases run.

    python benchmarks/mlflow_cost.py FOLDER [--repeats 5]

FOLDER is the output folder of an experiment; all of it is logged, figures included. Logging is timed in fresh
processes, the import of MLflow included, into a new SQLite store and into one that exists, in turn. Medians are shown
and the longest; the CPU time next to them is what is left of the time on a machine that does nothing else.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.records import to_json
from bi_experiments.tracking import system_metrics

LOG = """
import sys, time
started = time.perf_counter()
from bi_experiments.track import main
code = main([sys.argv[1], "--uri", sys.argv[2]])
print(time.perf_counter() - started, time.process_time())
sys.exit(code)
"""


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {"new store": [], "existing store": []}
    with tempfile.TemporaryDirectory() as name:
        existing = f"sqlite:///{name}/existing.db"
        log(options.folder, existing)
        for repeat in range(options.repeats):
            # The experiment is in the store already: a copy with another identity is logged.
            copy = another(options.folder, Path(name) / f"copy{repeat}", repeat)
            times["new store"].append(log(copy, f"sqlite:///{name}/new{repeat}.db"))
            times["existing store"].append(log(copy, existing))
    for store, seconds in times.items():
        for name, values in zip(("wall", "CPU"), zip(*seconds, strict=True), strict=True):
            print(f"{store}, {name} time: {statistics.median(values):.2f} s, at most {max(values):.2f} s")
    reading_s = cpu_time_of_a_reading_s()
    share = reading_s / system_metrics.INTERVAL_S
    print(f"one reading of the system metrics: {1000 * reading_s:.2f} ms of CPU time, {share:.4%} of a core")


def another(folder: Path, copy: Path, number: int) -> Path:
    """A copy of an output folder whose record began a little later: to MLflow, another experiment."""
    shutil.copytree(folder, copy)
    result = read_result(copy)
    later = msgspec.structs.replace(result, started_at=result.started_at + 1 + number)
    OutputFolder(copy).result.write_bytes(to_json(later))
    return copy


def log(folder: Path, uri: str) -> tuple[float, float]:
    """Wall and CPU seconds to log a folder in a fresh process, from its first import to the end."""
    command = [sys.executable, "-c", LOG, str(folder), uri]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    wall_s, cpu_s = done.stdout.splitlines()[-1].split()
    return float(wall_s), float(cpu_s)


def cpu_time_of_a_reading_s(readings: int = 200) -> float:
    """CPU time of one reading in this process."""
    monitors = system_metrics.monitors()
    started = time.process_time()
    for _ in range(readings):
        system_metrics.read(monitors)
    return (time.process_time() - started) / readings


if __name__ == "__main__":
    main()
