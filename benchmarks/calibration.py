"""Does the interval hold the truth? Slow-downs injected on purpose come back, or they do not.

    python benchmarks/calibration.py [--experiments 6] [--inject 0 1 2 5 20] [--record FILE] [SETTING ...]

Runs quick control experiments (both arms are baselines) in which the second arm waits so many per cent of every trial,
and prints for each slow-down how often the interval of the total time holds it, how wide it is, and the verdicts. The
settings are those of `python -m bi_experiments`; without any, `experiment=cpu_demo verify=off`. With `--record` every
experiment becomes a line of that file, and the curve is over all of its lines: so the experiments can be run in pieces,
with the same settings. The same by simulation, for every estimator and with noise that is not normal:
tests/analysis/test_calibration.py.
"""

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import msgspec

from bi_experiments.analysis.outcome import primary
from bi_experiments.config.compose import compose
from bi_experiments.experiment import prepare, run_experiment
from bi_experiments.launch.progress import NoProgress
from bi_experiments.paths import OutputFolder
from bi_experiments.records import Metric, Record

QUICK = ("experiment=cpu_demo", "verify=off")


class Found(Record, frozen=True, kw_only=True):
    """One experiment: a line of the file of `--record`."""

    inject_pct: float
    total_time: Metric
    load_average: float
    """One-minute load average of the machine before it."""
    wall_time_s: float
    settings: tuple[str, ...]


def measure(inject_pct: float, settings: Sequence[str]) -> Found:
    """One experiment with that slow-down.

    Raises:
        RuntimeError: The experiment has no interval.
    """
    config = compose([*settings, "protocol.control=true", f"protocol.inject_pct={inject_pct}", "tracking=off"])
    prepare(config)
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="calibration-") as folder:
        result = run_experiment(config, OutputFolder(Path(folder)), "calibration", NoProgress(), pages_from_s=1e9)
    metric = primary(result.comparison) if result.comparison else None
    if metric is None or metric.low_pct is None or metric.high_pct is None:
        raise RuntimeError(f"no interval with inject_pct={inject_pct}: {result.stopped}")
    return Found(
        inject_pct=inject_pct,
        total_time=metric,
        load_average=load_average,
        wall_time_s=result.wall_time_s,
        settings=tuple(settings),
    )


def line(inject_pct: float, metrics: Sequence[Metric]) -> str:
    """What became of one slow-down."""
    intervals = [(metric.low_pct or 0.0, metric.high_pct or 0.0) for metric in metrics]
    held = sum(low <= inject_pct <= high for low, high in intervals)
    verdicts = Counter(str(metric.verdict) for metric in metrics)
    found = fmean(metric.change_pct or 0.0 for metric in metrics)
    width = fmean((high - low) / 2 for low, high in intervals)
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    return f"{inject_pct:>8g} {found:>+9.2f} {width:>9.2f} {held:>5}/{len(metrics):<5} {said}"


def show(found: Sequence[Found]) -> None:
    """Print the curve."""
    print(f"{'inject %':>8} {'found %':>9} {'± points':>9} {'held':>11} verdicts")
    for inject_pct in sorted({one.inject_pct for one in found}):
        print(line(inject_pct, [one.total_time for one in found if one.inject_pct == inject_pct]))
    loads, lengths_s = [one.load_average for one in found], [one.wall_time_s for one in found]
    print(f"load average before: {min(loads):.1f} to {max(loads):.1f}; {fmean(lengths_s):.0f} s each")


def main() -> None:
    """Run all experiments, each slow-down once a round, and print the curve."""
    parser = argparse.ArgumentParser(description="How often the interval holds a slow-down injected on purpose.")
    parser.add_argument("settings", nargs="*", help="of python -m bi_experiments")
    parser.add_argument("--experiments", type=int, default=6, help="for each slow-down (6); 0: none")
    parser.add_argument("--inject", type=float, nargs="+", default=[0.0, 1.0, 2.0, 5.0, 20.0], help="per cent")
    parser.add_argument("--record", type=Path, help="file that the experiments are added to")
    options = parser.parse_intermixed_args()
    settings = tuple(options.settings or QUICK)
    found: list[Found] = []
    if options.record and options.record.exists():
        found = [msgspec.json.decode(text, type=Found) for text in options.record.read_bytes().splitlines()]
        if any(one.settings != settings for one in found) and options.experiments:
            parser.error(f"{options.record} has experiments with other settings")
    for _ in range(options.experiments):
        for inject_pct in options.inject:
            found.append(measure(inject_pct, settings))
            if options.record:
                with options.record.open("ab") as file:
                    file.write(msgspec.json.encode(found[-1]) + b"\n")
    if found:
        show(found)


if __name__ == "__main__":
    main()
