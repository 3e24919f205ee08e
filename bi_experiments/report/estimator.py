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
        return value(design), count(pairs, "pair")
    return "the log ratio of two independent launches, one an arm", f"{count(pairs, 'launch')} of each arm"


def interval(design: Design, pairs: int) -> str:
    """The estimator of the 95 % intervals; n is the number of launches of each arm."""
    if pairs < 2:
        return "none, of one launch an arm"
    if design.first_stage is not None:
        return (
            f"Student's t over the n pairs of launches, with the spread of the first {design.first_stage} alone, "
            "since that of their total times decided how many follow (Stein's two stages)"
        )
    said = "Student's t over the n pairs of launches"
    if not design.paired:
        said = "Welch's t of two independent samples, n launches of each arm"
    if design.launches_per_cache is not None and design.launches_per_cache > 1:
        said += f" (the logs of every {design.launches_per_cache} that share compile caches are averaged first)"
    return said


def not_in_it(design: Design, pairs: int) -> str:
    """What the intervals leave out of how launches differ, a sentence that begins with a space; empty: nothing."""
    if pairs < 2 or design.launches_per_cache is not None:
        return ""
    return (
        " The launches of an arm shared compile caches: how much a different tuning would change the result is not in "
        "the intervals (with protocol.caches=fresh it is)."
    )
