"""The cheapest experiment of a sweep, measured again in fresh pairs before it is called so (`sweep.confirm`).

The lowest of several measurements is partly low by luck, so that the number by which it was chosen is too good: what
counts is one that the choice did not rest on. It says what that experiment costs. That no other one costs less is shown
only where the intervals of all others lie above its new one.
"""

import sys
from collections.abc import Sequence

import msgspec
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from bi_experiments.files import write_atomically
from bi_experiments.records import Invariance, to_json
from bi_experiments.sweep.command import labels, record_of
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.records import ExperimentRecord, Status, SweepRecord
from bi_experiments.wording import band, count, invariance_word, signed

_UNUSABLE = {Invariance.VIOLATED, Invariance.NOT_DETERMINISTIC}


def measured_once(records: Sequence[ExperimentRecord]) -> list[ExperimentRecord]:
    """The experiments of the sweep itself."""
    return [record for record in records if record.again is None]


def cheapest(records: Sequence[ExperimentRecord], *, search: bool) -> ExperimentRecord | None:
    """The experiment of the lowest cost with an interval; None with fewer than two to choose from.

    Where a sweeper searches, it is the one with what it searched for, the lowest own time per token of the mode. One in
    which the mode does not hold, in which the arms do not compute the same, or which has no mode (A/A), is not one to
    choose.

    Args:
        records: All experiments.
        search: Whether a sweeper searches.
    """
    costs = [((record.own_s_per_token if search else record.change_pct), record) for record in _candidates(records)]
    known = [(cost, record.number, record) for cost, record in costs if cost is not None]
    return min(known)[2] if len(known) > 1 else None


def _candidates(records: Sequence[ExperimentRecord]) -> list[ExperimentRecord]:
    return [
        record
        for record in measured_once(records)
        if record.status is Status.DONE and record.low_pct is not None and _is_usable(record)
    ]


def _is_usable(record: ExperimentRecord) -> bool:
    return not record.control and record.invariance not in _UNUSABLE and record.alike is not False


def confirm(sweep: SweepFolder, config: DictConfig, run: TaskFunction) -> None:
    """Measure the cheapest experiment again, by the sweep's own launcher.

    Args:
        sweep: The sweep's folder; all of its experiments have ended.
        config: The sweep's configuration.
        run: Runs one experiment of a sweep.
    """
    from bi_experiments.sweep.hydra_internals import Callbacks

    records, sweep_record = sweep.read(), record_of(sweep)
    if sweep_record is None:
        return
    chosen = cheapest(records, search=sweep_record.planned is None)
    if chosen is None:
        sys.stdout.write("sweep.confirm: fewer than two experiments have an interval to choose the cheapest by\n")
        return
    number = 1 + max(record.number for record in measured_once(records))
    again = msgspec.structs.replace(sweep_record, again=(number, chosen.number))
    write_atomically(sweep.record, to_json(again))
    sys.stdout.write(f"Measuring the cheapest, experiment {chosen.number}, again in fresh pairs\n")
    sys.stdout.flush()
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=run, config=config)
    launcher.launch([list(chosen.overrides)], initial_job_idx=number)


def said(records: Sequence[ExperimentRecord], sweep_record: SweepRecord | None) -> str | None:
    """What measuring the cheapest again gave, or that it was not; None where nothing could be chosen."""
    search = sweep_record is not None and sweep_record.planned is None
    chosen = cheapest(records, search=search)
    if chosen is None:
        return None
    name = labels(measured_once(records), sweep_record)[chosen.number]
    again = _again(records, chosen)
    if again is None:
        return (
            "The lowest of several measurements is partly low by luck: before you call "
            f"{name} the cheapest, measure it again in fresh pairs, as sweep.confirm=true does."
        )
    if again.status is not Status.DONE or again.change_pct is None:
        return f"Measuring {name} again, the lowest, gave no result: {again.reason or again.status}."
    measured = f"{name}: {_cost(again)} measured again in fresh pairs ({_cost(chosen)} when it was chosen)"
    if not _is_usable(again):
        why = "the arms do not compute the same" if again.alike is False else invariance_word(again.invariance)
        return f"The lowest is {measured}, but then it is not one to choose: {why}."
    if search:
        return f"The mode takes least time per token, going by the search, with {measured}: these are overheads."
    return _against_others(measured, again, [one for one in _candidates(records) if one.number != chosen.number])


def _against_others(measured: str, again: ExperimentRecord, others: Sequence[ExperimentRecord]) -> str:
    """Whether the others that could be chosen are shown to cost more."""
    near = sum(not _is_above(one, again) for one in others)
    to_choose = f"{count(len(others), 'other')} to choose from"
    if not near:
        return f"The cheapest is {measured}; of {to_choose}, no interval reaches down to that."
    return f"The lowest is {measured}. That it is the cheapest is not shown: of {to_choose}, {near} may cost no more."


def _again(records: Sequence[ExperimentRecord], chosen: ExperimentRecord) -> ExperimentRecord | None:
    """What measured the chosen one again; a resumed sweep may have chosen another since, or measured it anew."""
    return next(
        (
            record
            for record in records
            if record.again == chosen.number
            and record.status is not Status.RUNNING
            and (record.status is not Status.DONE or record.identity == chosen.identity)
        ),
        None,
    )


def _is_above(one: ExperimentRecord, other: ExperimentRecord) -> bool:
    return one.low_pct is not None and other.high_pct is not None and one.low_pct > other.high_pct


def _cost(record: ExperimentRecord) -> str:
    assert record.change_pct is not None
    interval = "" if record.low_pct is None or record.high_pct is None else f" {band(record.low_pct, record.high_pct)}"
    return f"{signed(record.change_pct)}{interval}"
