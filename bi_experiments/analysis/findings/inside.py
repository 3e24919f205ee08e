"""What happened inside timed trials that does not happen in every one of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bi_experiments.analysis.findings.clocks import on_one_device
from bi_experiments.analysis.pairs import Pair
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.records import Finding, PhaseResult, Trial
from bi_experiments.wording import LABELS, before_noun, count

LONG_STEP = 10.0
"""Times the median of its like from which a step is far longer."""
LONG_TRIAL = 1.25
"""Times the time of a larger trial from which a trial is called long."""
KV_CACHE_SHARE = 0.9
"""Share of the KV cache from which the largest trial is said to need most of it."""
NAMED = 3
"""Trials that are named; the others are counted."""
MORE_ROOM = "Lower workload.max_batch_size, or raise model.gpu_memory_utilization."


class _Place(NamedTuple):
    """A trial and the phase that it belongs to."""

    phase: PhaseResult
    trial: Trial

    def __str__(self) -> str:
        return f"trial {self.trial.index + 1} of pair {self.phase.pair + 1} ({LABELS[self.phase.arm]})"


def inside_trials(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """Compiles, preemptions, requests that waited, cached prompts, single long steps and single long trials."""
    yield from _compiled(pairs, protocol)
    yield from _long_trials(pairs, protocol)
    yield from _preempted(pairs)
    yield from _queued(pairs)
    yield from _cached(pairs)
    yield from _long_steps(pairs, protocol)
    yield from _kv_cache(pairs)


def _places(pairs: Sequence[Pair], where: Callable[[Trial], bool]) -> list[_Place]:
    return [_Place(phase, trial) for pair in pairs for phase in pair for trial in phase.trials if where(trial)]


def _named(places: Sequence[_Place]) -> str:
    more = f" and in {len(places) - NAMED} more" if len(places) > NAMED else ""
    return ", ".join(str(place) for place in places[:NAMED]) + more


def _compiled(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    places = _places(pairs, lambda trial: bool(trial.compiled))
    if places:
        names = list(dict.fromkeys(name for place in places for name in place.trial.compiled or ()))
        total = sum(len(place.trial.compiled or ()) for place in places)
        more = ", ..." if len(names) > NAMED else ""
        yield Finding(
            kind="compiled",
            message=f"{count(total, 'compilation')} ran inside timed trials: {_named(places)} "
            f"({', '.join(names[:NAMED])}{more}). Their time is part of what was measured.",
            remedy=f"Run with protocol.warmup={protocol.warmup + 1} or more.",
        )


def _long_trials(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """A trial that took far longer than one of its launch that is at least as large, and not so in the other arm."""
    found: list[tuple[_Place, Trial]] = []
    for phase, partner in (both for pair in pairs for both in (pair, pair[::-1])):
        there = {trial.index: trial.time_s for trial in partner.trials}
        for trial in phase.trials:
            larger = [
                other
                for other in phase.trials
                if other is not trial
                and _at_most(trial, other)
                and trial.time_s / other.time_s > LONG_TRIAL * max(1.0, there[trial.index] / there[other.index])
            ]
            if larger:
                found.append((_Place(phase, trial), min(larger, key=lambda other: other.time_s)))
    if found:
        place, other = max(found, key=lambda one: one[0].trial.time_s / one[1].time_s)
        more = f" So did {count(len(found) - 1, 'other trial')}." if len(found) > 1 else ""
        cpu, look = "", "Look into the log of the phase"
        if _cpu_took_longer(place, other):  # for whatever reason, a compilation among them
            cpu = f" Most of it is CPU time, {place.trial.cpu_time_s:.2f} against {other.cpu_time_s:.2f} s."
            look += " and at what else used the CPUs"
        yield Finding(
            kind="long_trial",
            message=f"{str(place).capitalize()} took {place.trial.time_s:.2f} s, trial {other.index + 1} of the same "
            f"launch, which is at least as large, {other.time_s:.2f} s: its size does not explain that.{cpu}{more}",
            remedy=f"{look}; run with protocol.warmup={protocol.warmup + 1} or more.",
        )


def _cpu_took_longer(place: _Place, other: Trial) -> bool:
    """Whether the CPU accounts for most of what a trial on one device took longer than another."""
    trial = place.trial
    return on_one_device(place.phase) and trial.cpu_time_s - other.cpu_time_s > (trial.time_s - other.time_s) / 2


def _at_most(trial: Trial, other: Trial) -> bool:
    """Whether a trial is no larger than another in any respect."""
    return (
        trial.batch_size <= other.batch_size
        and trial.prompt_tokens <= other.prompt_tokens
        and trial.output_tokens <= other.output_tokens
    )


def _preempted(pairs: Sequence[Pair]) -> Iterator[Finding]:
    places = _places(pairs, lambda trial: bool(trial.preemptions))
    if places:
        total = sum(place.trial.preemptions or 0 for place in places)
        yield Finding(
            kind="preemptions",
            message=f"Requests were preempted {count(total, 'time')} for lack of KV cache, and their tokens computed "
            f"again: {_named(places)}.",
            remedy=MORE_ROOM,
        )


def _queued(pairs: Sequence[Pair]) -> Iterator[Finding]:
    places = _places(pairs, lambda trial: bool(trial.queued))
    if places:
        most = max(places, key=lambda place: place.trial.queued or 0)
        yield Finding(
            kind="queued",
            message=f"Requests waited until others had ended, for lack of KV cache or at max_num_seqs: "
            f"{_named(places)}; at most {most.trial.queued} of {most.trial.batch_size}. The batches that ran are "
            "smaller than those of the workload.",
            remedy=MORE_ROOM,
        )


def _cached(pairs: Sequence[Pair]) -> Iterator[Finding]:
    places = _places(pairs, lambda trial: bool(trial.cached_tokens))
    if not places:
        return
    most = max(places, key=lambda place: (place.trial.cached_tokens or 0) / max(1, place.trial.prompt_tokens))
    unlike = any(
        baseline.cached_tokens != other.cached_tokens
        for pair in pairs
        for baseline, other in zip(pair.baseline.trials, pair.second.trials, strict=True)
    )
    alike = "not as many in both arms" if unlike else "as many in both arms"
    yield Finding(
        kind="cached_tokens",
        message=f"Prompt tokens were taken from the prefix cache instead of computed, {alike}: {_named(places)}; "
        f"at most {most.trial.cached_tokens} of {most.trial.prompt_tokens} in a trial.",
        remedy="Set backend.enable_prefix_caching=false to measure every prompt token.",
    )


def _long_steps(pairs: Sequence[Pair], protocol: ProtocolConfig) -> Iterator[Finding]:
    """A step far longer than its like that alone changes the trial's time by more than counts as no change."""

    def long(trial: Trial) -> bool:
        if trial.decode_step_s is None or trial.longest_step_s is None:
            return False
        excess_s = trial.longest_step_s - trial.decode_step_s
        share = excess_s / trial.time_s
        return trial.longest_step_s > LONG_STEP * trial.decode_step_s and share > protocol.equivalence_pct / 100

    places = _places(pairs, long)
    if places:
        worst = max(places, key=lambda place: place.trial.longest_step_s or 0.0).trial
        longest_ms, median_ms = 1000 * (worst.longest_step_s or 0.0), 1000 * (worst.decode_step_s or 0.0)
        yield Finding(
            kind="long_step",
            message=f"A single step took far longer than comparable steps: {_named(places)}; at most "
            f"{longest_ms:.0f} ms against {median_ms:.1f} ms in the median.",
            remedy="Look into the phase's log, and at what else ran: something may have stopped the engine.",
        )


def _kv_cache(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """A narrow KV cache, where the engine does not say whether any request waited for it or was put back."""
    for phase in (phase for pair in pairs for phase in pair):
        if all(trial.queued is not None and trial.preemptions is not None for trial in phase.trials):
            continue
        needed, capacity = phase.kv_cache_needed_tokens, phase.observed.kv_cache_tokens if phase.observed else 0
        if needed is not None and capacity and needed > KV_CACHE_SHARE * capacity:
            yield Finding(
                kind="kv_cache",
                message=f"The largest trial needs {needed:,} of the {capacity:,} tokens of the KV cache in the "
                f"{before_noun(phase.arm)} arm: requests may have to wait for it, or be put back.",
                remedy=MORE_ROOM,
            )
            return
