"""By what the changes and their intervals are computed, in words: for the tables' notes, the method and the planner."""

from bi_experiments.analysis.design import Design
from bi_experiments.wording import count


def units(design: Design) -> str:
    """What is repeated, and taken as independent of each other."""
    return "pairs" if design.paired else "launches"


def value(design: Design) -> str:
    """What one of these units yields."""
    return "the log ratio of a pair" if design.paired else "a launch's log time"


def spread(design: Design, pairs: int) -> tuple[str, str]:
    """Whose standard deviation decides how many pairs are needed, and what it was estimated from."""
    if design.paired:
        return "the log ratio of a pair", count(pairs, "pair")
    return "the log ratio of two independent launches, one an arm", f"{count(pairs, 'launch')} of each arm"


def interval(design: Design, pairs: int) -> str:
    """The estimator of the 95 % intervals; n is the number of launches of each arm."""
    if pairs < 2:
        return "none, of one launch an arm"
    said = "Student's t over the n pairs of launches"
    if not design.paired:
        said = "Welch's t of two independent samples, n launches of each arm"
    if design.launches_per_cache is not None and design.launches_per_cache > 1:
        said += f" (the logs of every {design.launches_per_cache} that share compile caches are averaged first)"
    return said


def interval_of_total_time(design: Design, pairs: int) -> str:
    """The estimator of the total time's interval, whose spread may have decided how many pairs there are."""
    if design.first_stage is None or pairs < 2:
        return interval(design, pairs)
    return (
        f"Student's t over the n pairs of launches, with the spread of the first {design.first_stage} alone, which "
        "decided how many follow (Stein's two stages)"
    )
