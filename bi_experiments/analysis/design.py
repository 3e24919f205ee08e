"""By what rules an experiment was measured, as far as its estimates depend on them."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from statistics import fmean, stdev
from types import MappingProxyType
from typing import NamedTuple, Self

import msgspec

from bi_experiments.analysis.estimates import (
    Estimate,
    paired_estimate,
    two_stage_estimate,
    two_stage_half_width_pct,
    two_stage_pairs,
    welch_estimate,
)
from bi_experiments.analysis.pairs import Pair, complete_pairs, log_ratios, pair_time_s, total_time_logs
from bi_experiments.config.plain import setting
from bi_experiments.config.schema import Caches, Interleave, ProtocolConfig
from bi_experiments.errors import ConfigurationError
from bi_experiments.records import ExperimentResult, PhaseResult, TwoStages


class FoundCaches(StrEnum):
    """Which compile caches a launch found; the values name metrics."""

    COLD = "cold"
    """Empty ones."""
    WARM = "warm"
    """Those that an earlier launch of its arm had filled."""
    FIRST = "first_launch"
    """The user's, of which nothing is known, in the first launch of an arm."""
    LATER = "later_launches"
    """The same in a later one."""


class Design(NamedTuple):
    """The rules."""

    equivalence_pct: float
    """Changes within plus or minus this many per cent count as none."""
    paired: bool = True
    """Whether the launches of a pair have something in common, turns or prompts of their own; else they are two
    independent samples."""
    first_stage: int | None = None
    """Pairs of the first of two stages, where the number of pairs followed from their spread."""
    launches_per_cache: int | None = None
    """Launches of an arm that share compile caches (`protocol.caches=fresh`); None: all of them do."""
    users_caches: bool = False
    """Whether the compile caches are the user's (`protocol.caches=user`): what was in them is not known."""

    @classmethod
    def of(cls, protocol: ProtocolConfig, pairs: Sequence[Pair]) -> Self:
        """The rules of a protocol, and of what was found to differ between the pairs.

        One after the other, launches of a pair correlate no more than others (-0.74 and -0.03 in two experiments of a
        baseline against itself), and taking differences costs half of the degrees of freedom; in turns they do (+0.95).
        """
        in_two_stages = protocol.target_half_width_pct is not None and len(pairs) >= protocol.pairs
        return cls(
            equivalence_pct=protocol.equivalence_pct,
            paired=protocol.interleave is Interleave.trial or prompts_differ(pairs),
            first_stage=protocol.pairs if in_two_stages else None,
            launches_per_cache=protocol.launches_per_cache if protocol.caches is Caches.fresh else None,
            users_caches=protocol.caches is Caches.user,
        )

    @classmethod
    def recorded(cls, result: ExperimentResult) -> Self:
        """The rules in an experiment's record, and of what was found to differ between its pairs."""
        return cls.of(_protocol(result), complete_pairs(result.phases))

    def found(self, launch: int) -> FoundCaches:
        """Which compile caches a launch of an arm, counted from 0, found."""
        first = launch % self.launches_per_cache == 0 if self.launches_per_cache else launch == 0
        if self.users_caches:
            return FoundCaches.FIRST if first else FoundCaches.LATER
        return FoundCaches.COLD if first else FoundCaches.WARM

    def over(self, measured: Sequence[Pair], pairs: Sequence[Pair]) -> Self:
        """The same rules for a quantity that not all pairs have: as many of the first stage as have it.

        Args:
            measured: The pairs that have it.
            pairs: All complete pairs.
        """
        if self.first_stage is None:
            return self
        first = {pair.baseline.pair for pair in pairs[: self.first_stage]}
        return self._replace(first_stage=sum(pair.baseline.pair in first for pair in measured))

    def units(self, values: Sequence[float], pairs: Sequence[Pair]) -> list[float]:
        """What is independent of each other: one value a pair, or the mean of the pairs whose launches shared caches.

        Args:
            values: One value a pair.
            pairs: The pairs.
        """
        grouped: dict[int, list[float]] = {}
        for value, pair in zip(values, pairs, strict=True):
            grouped.setdefault(pair.second.launch // (self.launches_per_cache or 1), []).append(value)
        return [fmean(group) for group in grouped.values()]

    def estimate(
        self,
        baseline: Sequence[float],
        second: Sequence[float],
        pairs: Sequence[Pair],
    ) -> Estimate:
        """The change from the log values of the launches of both arms, one a launch, pair by pair.

        In two stages the spread is that of the first in every quantity, not in the total time alone, whose spread
        decided how many pairs follow: in launches where that one was small by chance, others are small too.

        Args:
            baseline: Logarithms of the baseline's values.
            second: Those of the second arm.
            pairs: The pairs that they are of, those of the first stage first.
        """
        if self.first_stage is None and not self.paired:
            return welch_estimate(self.units(baseline, pairs), self.units(second, pairs))
        return self.mean(log_ratios(baseline, second), pairs)

    def mean(self, differences: Sequence[float], pairs: Sequence[Pair]) -> Estimate:
        """The mean of one difference of logarithms a pair, in two stages by the spread of the first.

        Args:
            differences: One a pair.
            pairs: The pairs that they are of, those of the first stage first.
        """
        units = self.units(differences, pairs)
        return paired_estimate(units) if self.first_stage is None else two_stage_estimate(units, self.first_stage)


_BEFORE: Mapping[str, object] = MappingProxyType(
    {
        "equivalence_pct": 1.0,
        "interleave": Interleave.trial.name,
        "target_half_width_pct": None,
        "caches": Caches.private.name,
        "launches_per_cache": 1,
    }
)
"""What was so before the protocol had a key for it."""


def _protocol(result: ExperimentResult) -> ProtocolConfig:
    """What the rules follow from, out of an experiment's record."""
    found = setting(result.configuration, "protocol") or {}
    known = {name: found[name] for name in (*_BEFORE, "pairs") if name in found}
    try:
        return msgspec.convert({**_BEFORE, **known}, ProtocolConfig)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"{result.name}: group protocol of the record is not as it was written: {error}"
        ) from error


def prompts_differ(pairs: Sequence[Pair]) -> bool:
    """Whether the pairs had prompts of their own (`workload.fresh_prompts`), by the sizes of their trials.

    Of a single pair nothing says so, and nothing of what asks for it is made of one.
    """
    sizes = {tuple((trial.batch_size, trial.prompt_tokens) for trial in pair.baseline.trials) for pair in pairs}
    return len(sizes) > 1


def pairs_to_run(phases: Iterable[PhaseResult], protocol: ProtocolConfig) -> int:
    """How many pairs the protocol asks for, by what is known: after the first of two stages, all that are needed.

    Args:
        phases: The phases so far.
        protocol: The rules.
    """
    stages = two_stages(complete_pairs(phases), protocol)
    return protocol.pairs if stages is None else stages.pairs


def two_stages(pairs: Sequence[Pair], protocol: ProtocolConfig) -> TwoStages | None:
    """What the first of two stages says about the number of pairs; None before its end, or without a target.

    Args:
        pairs: The complete pairs so far.
        protocol: The rules.
    """
    target_pct = protocol.target_half_width_pct
    first = pairs[: protocol.pairs]
    if target_pct is None or len(first) < max(2, protocol.pairs):
        return None
    baseline, second = total_time_logs(first)
    differences = log_ratios(baseline, second)
    wanted = two_stage_pairs(differences, target_pct)
    run = min(wanted, protocol.max_pairs or protocol.pairs)
    return TwoStages(
        first_pairs=len(first),
        deviation_pct=100 * stdev(differences),
        target_half_width_pct=target_pct,
        wanted_pairs=wanted,
        pairs=run,
        half_width_pct=two_stage_half_width_pct(differences, run),
        pair_s=pair_time_s(first),
    )
