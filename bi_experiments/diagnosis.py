"""What a reader should know before believing the number, in plain words, each with what to do about it.

Every check looks at the phases' records alone and says nothing unless it matters for the result. A trend must be
distinguishable from noise (its 95 % interval excludes zero) and large (over the equivalence band) to be reported.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import fmean

from bi_experiments.config.schema import Caches, Interleave, Order, ProtocolConfig
from bi_experiments.drift import Trend, launch_levels, over_launches, trend
from bi_experiments.records import Finding, PhaseResult, PhaseStatus
from bi_experiments.stats import CONFIDENCE, Pair, complete_pairs, half_width_pct, output_tokens
from bi_experiments.throttling import clock_findings
from bi_experiments.wording import band, count, unsigned

LOAD_AVERAGE_S = 60.0
"""Time constant of the one-minute load average, in seconds."""

NEXT_TO_EACH_OTHER_S = 600.0
"""Longest time between two phases that still stand next to each other, in seconds."""


def diagnose(
    phases: Sequence[PhaseResult],
    protocol: ProtocolConfig,
    planned_pairs: int,
    cpu_count: int,
    beside: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """Everything that limits what the comparison means, the gravest first.

    Args:
        phases: all phases of the experiment, failed ones too.
        protocol: the rules that they were run by.
        planned_pairs: pairs that were to be run.
        cpu_count: CPUs that the experiment could use.
        beside: names of the experiments that ran on the same machine meanwhile.
    """
    pairs = complete_pairs(phases)
    if not pairs:
        return ()
    checks = (
        _needle(pairs),
        _token_counts(pairs),
        _incomplete(phases, pairs, planned_pairs),
        _single_launch(pairs),
        _sequential(phases, protocol, len(pairs)),
        _order(pairs, protocol),
        _caches(pairs, protocol),
        _warm_up(pairs, protocol),
        _drift_within_launches(pairs, protocol),
        _drift_over_launches(pairs, protocol),
        clock_findings(pairs, protocol),
        _interrupted(pairs, protocol),
        _beside(beside),
        () if beside else _neighbour(phases, protocol, cpu_count),
    )
    return tuple(finding for check in checks for finding in check)


# --- Did both arms do the same work, and did the mode do its? -------------------------------------------------------


def _needle(pairs: Sequence[Pair]) -> Iterator[Finding]:
    launches = [pair.batch_invariant for pair in pairs if pair.batch_invariant.arm.batch_invariant]
    trials = [trial for launch in launches for trial in launch.trials]
    differing = sum(not trial.needle.equal for trial in trials)
    if differing:
        yield Finding(
            kind="needle",
            message=f"The needle's output in the batch differed from its output alone in {differing} of "
            f"{count(len(trials), 'trial')} of the batch-invariant arm: it does not hold here, whatever it costs.",
            remedy="Run with verify=full to see which batch compositions differ.",
        )


def _token_counts(pairs: Sequence[Pair]) -> Iterator[Finding]:
    for pair in pairs:
        counts = zip(output_tokens(pair.baseline), output_tokens(pair.batch_invariant), strict=True)
        for trial, (baseline, other) in enumerate(counts):
            if baseline != other:
                yield Finding(
                    kind="token_counts",
                    message=f"The arms did not do the same work: trial {trial} of pair {pair.baseline.pair} generated "
                    f"{baseline} tokens in the baseline and {other} in the other arm. Times compare unequal work.",
                    remedy="Run with workload.ignore_eos=true, and prompts that leave room for workload.max_tokens.",
                )
                return


# --- What the interval rests on -------------------------------------------------------------------------------------


def _incomplete(phases: Sequence[PhaseResult], pairs: Sequence[Pair], planned_pairs: int) -> Iterator[Finding]:
    if len(pairs) < planned_pairs:
        lost = next((phase for phase in phases if phase.status is not PhaseStatus.OK), None)
        why = "the experiment ended early"
        if lost is not None:
            why = f"phase {lost.index} ({lost.arm}) {lost.status.replace('_', ' ')}"
        yield Finding(
            kind="incomplete",
            message=f"The result rests on {count(len(pairs), 'complete pair')} of the {planned_pairs} planned: {why}.",
            remedy="Run the same command again for the whole interval.",
        )


def _single_launch(pairs: Sequence[Pair]) -> Iterator[Finding]:
    if len(pairs) == 1:
        yield Finding(
            kind="single_launch",
            message="One launch an arm: no interval. Launches of one and the same arm differ too, by an amount that a "
            "single launch cannot show.",
            remedy="Run with protocol=standard (3 pairs) or protocol=rigorous.",
        )


def _sequential(phases: Sequence[PhaseResult], protocol: ProtocolConfig, pairs: int) -> Iterator[Finding]:
    """Simulated with a target of 1 %: such intervals cover 92 to 96 % starting from 8 pairs, 89 to 93 % from 3."""
    target, reached = protocol.target_half_width_pct, half_width_pct(phases)
    if target is None or reached is None:
        return
    end = (
        f"the half-width of {unsigned(reached)} met the target of {target:g} %"
        if reached <= target
        else f"the half-width is still {unsigned(reached)}, over the target of {target:g} %"
    )
    yield Finding(
        kind="sequential",
        message=f"The number of pairs was decided on the way: after {count(pairs, 'pair')} {end}. An interval "
        "that decides when to stop holds the true value a little less often than 95 % of the time.",
        remedy=f"For a final figure fix the number: protocol.pairs={pairs} protocol.target_half_width_pct=null.",
    )


# --- What falls on one arm alone ------------------------------------------------------------------------------------


def _order(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    if protocol.interleave is Interleave.trial:
        return
    baseline_first = {pair.baseline.index < pair.batch_invariant.index for pair in pairs}
    by_rule = protocol.order is Order.baseline_first
    if len(baseline_first) == 1 and (by_rule or len(pairs) > 1):
        first = "baseline" if baseline_first == {True} else "other arm"
        yield Finding(
            kind="order",
            message=f"The {first} ran first in every pair: whatever changes on the machine with time looks like a "
            "difference between the arms.",
            remedy="Run with protocol.order=balanced and an even number of pairs.",
        )


def _caches(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    if protocol.caches is not Caches.user:
        return
    first = min((phase for pair in pairs for phase in pair), key=lambda phase: phase.index)
    later = [
        phase.init_time_s
        for pair in pairs
        for phase in pair
        if phase.arm is first.arm and phase.launch > first.launch and phase.init_time_s is not None
    ]
    # A tenth: initialisation varies by some per cent anyway, while compiling takes many seconds.
    if first.init_time_s is None or (later and first.init_time_s <= 1.1 * max(later)):
        return
    seen = f", and took {first.init_time_s:.1f} s against {fmean(later):.1f} s in its later launches" if later else ""
    yield Finding(
        kind="caches",
        message=f"With protocol.caches=user the first launch ({first.arm}) may have filled compile caches that the "
        f"other arm then found{seen}: init_time_cold does not compare like with like.",
        remedy="Run with protocol.caches=private: then every arm's first launch is cold.",
    )


# --- What moves while it is measured --------------------------------------------------------------------------------


def _warm_up(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    for launches in ([pair.baseline for pair in pairs], [pair.batch_invariant for pair in pairs]):
        excess = _first_trial_excess(launches)
        if excess is not None and excess[0] > math.log1p(protocol.equivalence_pct / 100) and excess[1] > 0:
            yield Finding(
                kind="warm_up",
                message=f"Warm-up was not over in the arm {launches[0].arm}: its first trial took "
                f"{unsigned(_per_cent(excess[0]))} longer than the later ones lead to expect for its size.",
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

    times = np.mean([[math.log(trial.time_s) for trial in phase.trials] for phase in launches], axis=0)
    sizes = np.log([trial.prompt_tokens + trial.output_tokens for trial in launches[0].trials])
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


def _drift_within_launches(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """The slope of d over the trials. What both arms share cancels in d, and is part of no result."""
    positions: list[float] = []
    values: list[float] = []
    for pair in pairs:
        ratios = [
            math.log(other.time_s / baseline.time_s)
            for baseline, other in zip(pair.baseline.trials, pair.batch_invariant.trials, strict=True)
        ]
        positions += range(len(ratios))
        values += [ratio - fmean(ratios) for ratio in ratios]
    drift = trend(positions, values, max(positions))
    if drift is not None and _matters(drift, values, protocol.equivalence_pct):
        yield Finding(
            kind="drift",
            message="The cost changes within a launch: from the first trial to the last, the other arm gets "
            f"{_how_much(drift.total_pct)} against the baseline {band(drift.low_pct, drift.high_pct)}. The number "
            "depends on how many trials there are.",
            remedy=f"Run with more trials (workload.num_trials) and protocol.warmup={protocol.warmup + 1} or more.",
        )


def _drift_over_launches(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """The slope of ln t over the machine's time, each arm measured from its own mean."""
    levels = launch_levels(pairs)
    drift = over_launches(levels)
    if drift is not None and _matters(drift, [level.log_ratio for level in levels], protocol.equivalence_pct):
        yield Finding(
            kind="drift",
            message="The machine changed while it was measured: from the first launch to the last, trials of both arms "
            f"got {_how_much(drift.total_pct)} {band(drift.low_pct, drift.high_pct)}.",
            remedy=f"Wait until the machine is evenly warm and otherwise idle{_or_take_turns(protocol)}.",
        )


def _matters(drift: Trend, values: Sequence[float], equivalence_pct: float) -> bool:
    """Whether a trend is distinguishable from noise, and larger than what counts as no change."""
    if _per_cent(max(values) - min(values)) <= equivalence_pct:
        return False
    return drift.low_pct * drift.high_pct > 0 and abs(drift.total_pct) > equivalence_pct


def _neighbour(phases: Iterable[PhaseResult], protocol: ProtocolConfig, cpu_count: int) -> Iterator[Finding]:
    """Load before a phase that the phases before it cannot explain.

    The load average forgets with a time constant of a minute, so what the previous phases left in it is at most the
    CPUs they used, times exp(-gap / 60 s). One CPU, or a tenth of many, is allowed for the system itself.
    """
    ordered = sorted(phases, key=lambda phase: phase.index)
    foreign = [(phase.load_average, phase) for phase in ordered[:1]]
    used = 0.0
    for before, phase in pairwise(ordered):
        used = max(used, _cpus_used(before))
        gap_s = max(0.0, phase.started_at - before.started_at - before.wall_time_s)
        foreign.append((phase.load_average - used * math.exp(-gap_s / LOAD_AVERAGE_S), phase))
    load, phase = max(foreign, key=lambda pair: pair[0])
    if load > max(1.0, 0.1 * cpu_count):
        yield Finding(
            kind="neighbour",
            message=f"Something else was running: before phase {phase.index} ({phase.arm}) about {load:.1f} of "
            f"{count(cpu_count, 'CPU')} were busy with it.",
            remedy=f"Stop it{_or_take_turns(protocol)}.",
        )


def _interrupted(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """Phases of one pair that do not stand next to each other: the experiment was resumed in between."""
    if protocol.interleave is Interleave.trial:
        return
    for pair in pairs:
        first, second = sorted(pair, key=lambda phase: phase.started_at)
        gap_s = second.started_at - first.started_at - first.wall_time_s
        if gap_s > NEXT_TO_EACH_OTHER_S:
            yield Finding(
                kind="interrupted",
                message=f"The experiment was interrupted: {gap_s / 60:.0f} min lie between the two launches of pair "
                f"{first.pair}, and whatever changed meanwhile looks like a difference between the arms.",
                remedy="Run it again without interruption if its interval is wide.",
            )
            return


def _beside(beside: Sequence[str]) -> Iterator[Finding]:
    if beside:
        yield Finding(
            kind="shared",
            message=f"Other experiments ran on this machine meanwhile ({', '.join(beside)}): shared machines are "
            "noisier, since memory, caches and clocks are common to all of it.",
            remedy="For a final figure run one at a time: hydra/launcher=local.",
        )


def _cpus_used(phase: PhaseResult) -> float:
    threads = 1 if phase.observed is None else phase.observed.threads
    times = sum(trial.time_s for trial in phase.trials)
    return max(threads, sum(trial.cpu_time_s for trial in phase.trials) / times) if phase.trials else threads


def _or_take_turns(protocol: ProtocolConfig) -> str:
    """The remedy that makes a changing machine change for both arms, where it is not in use already."""
    if protocol.interleave is Interleave.trial:
        return ""
    return ", or run with protocol.interleave=trial, so that both arms see the same of it"


def _how_much(change_pct: float) -> str:
    return f"{unsigned(change_pct)} {'slower' if change_pct > 0 else 'faster'}"


def _per_cent(log_ratio: float) -> float:
    return 100 * math.expm1(log_ratio)
