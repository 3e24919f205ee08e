"""All figures of one experiment."""

from bi_experiments.records import ExperimentResult
from bi_experiments.report.figures.drawing import Drawing, LeftOut
from bi_experiments.report.figures.invariance import invariance
from bi_experiments.report.figures.latency import latency
from bi_experiments.report.figures.location import location
from bi_experiments.report.figures.overhead import overhead, trial_costs
from bi_experiments.report.figures.profile import profile
from bi_experiments.report.figures.times import drift, init_time, trial_times


def draw(result: ExperimentResult) -> tuple[Drawing | LeftOut, ...]:
    """Draw what there is to draw, in the order of the page; to be called within `theme.style`."""
    drawn = [make(result) for make in (overhead, trial_costs, trial_times, latency, invariance, init_time, drift)]
    return (*drawn, *location(result), *profile(result))
