"""Launches that are not like the others. They are named, never dropped: what happened to them happens to users too."""

import math
from collections.abc import Iterator, Sequence
from statistics import median

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.estimates import per_cent
from bi_experiments.analysis.pairs import Pair, log_ratios, total_time_logs
from bi_experiments.analysis.robust import FEWEST_VALUES, modified_z, modified_z_of_arms, outlying_score
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.records import Finding
from bi_experiments.wording import before_noun, signed


def outlying(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """Launches whose total time, or when taking turns pairs whose change, is far from the median of its like.

    By turns both launches of a pair share what the machine did meanwhile, so that the difference is what is looked at.
    """
    design = Design.of(protocol, pairs)
    baseline, second = total_time_logs(pairs)
    if design.paired:
        values = log_ratios(baseline, second)
        names = [f"pair {pair.baseline.pair + 1}" for pair in pairs]
        what = "the change of total time"
        from_median = [value - median(values) for value in values]
        scores, arms = modified_z(values), 1
    else:
        names = [
            f"launch {phase.launch + 1} of the {before_noun(phase.arm)} arm"
            for arm in zip(*pairs, strict=True)
            for phase in arm
        ]
        what = "total time"
        from_median = [value - median(arm) for arm in (baseline, second) for value in arm]
        scores, arms = modified_z_of_arms(baseline, second), 2
    if len(pairs) < FEWEST_VALUES:
        return
    outlying_from = outlying_score(len(pairs), arms)
    found = [
        f"{name} ({signed(per_cent(value))} from the median, modified z-score {score:.1f})"
        for name, value, score in zip(names, from_median, scores, strict=True)
        if abs(score) > outlying_from and abs(value) > math.log1p(protocol.equivalence_pct / 100)
    ]
    if found:
        what_it_is, they_are = ("Outlier", "It is") if len(found) == 1 else ("Outliers", "They are")
        yield Finding(
            kind="outlying",
            message=f"{what_it_is} in {what}: {'; '.join(found)}. {they_are} still part of the result.",
            remedy="Look into the phase's log, and at what else ran on the machine; with more pairs it matters less.",
        )
