"""Does the interval hold the truth? Slow-downs injected on purpose come back, or they do not.

    python benchmarks/calibration.py [--experiments 6] [--inject 0 1 2 5 20] [SETTING ...]

Runs quick control experiments (both arms are baselines) in which the second arm waits so many per cent of every trial,
and prints for each slow-down how often the interval of the total time holds it, how wide it is, and the verdicts. The
settings are those of `python -m bi_experiments`; without any, `experiment=cpu_demo verify=off`. The same by simulation,
for every estimator and with noise that is not normal: tests/analysis/test_calibration.py.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from bi_experiments.analysis.outcome import primary
from bi_experiments.config.compose import compose
from bi_experiments.experiment import prepare, run_experiment
from bi_experiments.launch.progress import NoProgress
from bi_experiments.paths import OutputFolder
from bi_experiments.records import Metric

QUICK = ("experiment=cpu_demo", "verify=off")


def measure(inject_pct: float, settings: Sequence[str]) -> Metric:
    """The total time of one experiment with that slow-down.

    Raises:
        RuntimeError: The experiment has no interval.
    """
    config = compose([*settings, "protocol.control=true", f"protocol.inject_pct={inject_pct}", "tracking=off"])
    prepare(config)
    with tempfile.TemporaryDirectory(prefix="calibration-") as folder:
        result = run_experiment(config, OutputFolder(Path(folder)), "calibration", NoProgress(), pages_from_s=1e9)
    metric = primary(result.comparison) if result.comparison else None
    if metric is None or metric.low_pct is None or metric.high_pct is None:
        raise RuntimeError(f"no interval with inject_pct={inject_pct}: {result.stopped}")
    return metric


def line(inject_pct: float, metrics: Sequence[Metric]) -> str:
    """What became of one slow-down."""
    intervals = [(metric.low_pct or 0.0, metric.high_pct or 0.0) for metric in metrics]
    held = sum(low <= inject_pct <= high for low, high in intervals)
    verdicts = Counter(str(metric.verdict) for metric in metrics)
    found = fmean(metric.change_pct or 0.0 for metric in metrics)
    width = fmean((high - low) / 2 for low, high in intervals)
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    return f"{inject_pct:>8g} {found:>+9.2f} {width:>9.2f} {held:>5}/{len(metrics):<5} {said}"


def main() -> None:
    """Run all experiments and print the curve."""
    parser = argparse.ArgumentParser(description="How often the interval holds a slow-down injected on purpose.")
    parser.add_argument("settings", nargs="*", help="of python -m bi_experiments")
    parser.add_argument("--experiments", type=int, default=6, help="for each slow-down (6)")
    parser.add_argument("--inject", type=float, nargs="+", default=[0.0, 1.0, 2.0, 5.0, 20.0], help="per cent")
    options = parser.parse_args()
    settings = options.settings or QUICK
    print(f"{'inject %':>8} {'found %':>9} {'± points':>9} {'held':>11} verdicts", flush=True)
    for inject_pct in options.inject:
        metrics = [measure(inject_pct, settings) for _ in range(options.experiments)]
        print(line(inject_pct, metrics), flush=True)


if __name__ == "__main__":
    main()
