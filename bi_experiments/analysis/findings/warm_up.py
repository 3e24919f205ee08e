"""Whether the warm-up was over when the first trial began."""

import math
from collections.abc import Iterator, Sequence

from bi_experiments.analysis.design import prompts_differ
from bi_experiments.analysis.estimates import CONFIDENCE, per_cent
from bi_experiments.analysis.pairs import Pair
from bi_experiments.analysis.trends import common_slope
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.records import Finding, PhaseResult
from bi_experiments.wording import before_noun, unsigned


def warm_up(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """A first trial that took longer than the others of its arm lead to expect."""
    same_prompts = not prompts_differ(pairs)
    for launches in ([pair.baseline for pair in pairs], [pair.second for pair in pairs]):
        excess = _first_trial_excess(launches)
        if excess is None and same_prompts:
            excess = _first_trials_excess(launches)
        if excess is not None and excess[0] > math.log1p(protocol.equivalence_pct / 100) and excess[1] > 0:
            yield Finding(
                kind="warm_up",
                message=f"Warm-up was not over in the {before_noun(launches[0].arm)} arm: its first trial took "
                f"{unsigned(per_cent(excess[0]))} longer than the others lead to expect.",
                remedy=f"Run with protocol.warmup={protocol.warmup + 1} or more.",
            )


def _first_trial_excess(launches: Sequence[PhaseResult]) -> tuple[float, float] | None:
    """By how much ln time of the first trial exceeds what its size explains, and the lower end of its 95 % interval.

    The later trials of the arm, averaged over its launches, predict the first one: least squares of ln time on
    ln tokens, with the usual prediction interval of a new observation (N. R. Draper and H. Smith, "Applied Regression
    Analysis", on predicting a further value). None with too few trials, or when the later ones are all of one size
    and the first is of another.
    """
    import numpy as np
    from scipy.stats import t

    ran = [sorted(phase.trials, key=lambda trial: trial.started_at) for phase in launches]
    if len({tuple(trial.index for trial in trials) for trials in ran}) > 1:
        return None  # the order is random
    times = np.mean([[math.log(trial.time_s) for trial in trials] for trials in ran], axis=0)
    sizes = np.log([trial.prompt_tokens + trial.output_tokens for trial in ran[0]])
    sizes = sizes - sizes[1:].mean() if len(sizes) > 1 else sizes
    one_size = bool(np.allclose(sizes[1:], 0))
    degrees_of_freedom = len(times) - 1 - (1 if one_size else 2)
    if degrees_of_freedom < 1 or (one_size and not np.isclose(sizes[0], 0)):
        return None
    slope = 0.0 if one_size else float(sizes[1:] @ times[1:] / (sizes[1:] @ sizes[1:]))
    leverage = 0.0 if one_size else float(sizes[0] ** 2 / (sizes[1:] @ sizes[1:]))
    residuals = times[1:] - times[1:].mean() - slope * sizes[1:]
    deviation = math.sqrt(float(residuals @ residuals) / degrees_of_freedom)
    excess = float(times[0] - times[1:].mean() - slope * sizes[0])
    margin = float(t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom)) * deviation
    return excess, excess - margin * math.sqrt(1 + 1 / (len(times) - 1) + leverage)


def _first_trials_excess(launches: Sequence[PhaseResult]) -> tuple[float, float] | None:
    """The same where every launch begins with another trial, of the same prompts.

    Launches whose first trials took longer by chance, or that drifted of their own accord, show none. None where all
    launches began with the same trial, or with too few values.
    """
    starts = [[trial.started_at for trial in phase.trials] for phase in launches]
    ran_first = [[start == min(row) for start in row] for row in starts]
    excess = common_slope(ran_first, [[math.log(trial.time_s) for trial in phase.trials] for phase in launches])
    return None if excess is None else (excess.rise, excess.rise - excess.margin)
