"""The MLflow run of a sweep, which the runs of its experiments are put under."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from bi_experiments.config.schema import TrackingConfig
from bi_experiments.errors import warn
from bi_experiments.files import locked, write_atomically
from bi_experiments.records import to_json
from bi_experiments.sweep.command import record_of, typed_sweep
from bi_experiments.sweep.confirmation import measured_once
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.records import ExperimentRecord, Status, SweepRecord
from bi_experiments.sweep.summary import alike_in
from bi_experiments.tracking.log import log_sweep
from bi_experiments.tracking.runs import RunStatus, of_sweep


def run_id_of(sweep: SweepFolder, tracking: TrackingConfig) -> str | None:
    """The sweep's run, made by the first of its experiments; None when tracking is off or failed."""
    if not tracking.enabled:
        return None
    try:
        with locked(sweep.run_id_lock):
            return _made_once(sweep, tracking)
    except TimeoutError as error:  # a server that is slow to answer another experiment costs this one its place
        warn(f"this experiment's MLflow run is not nested under its sweep's: {error}")
        return None


def _made_once(sweep: SweepFolder, tracking: TrackingConfig) -> str | None:
    sweep_record = record_of(sweep)
    if sweep_record is None or sweep_record.mlflow_run_id is not None:
        return None if sweep_record is None else sweep_record.mlflow_run_id
    run_id = _log(sweep, sweep_record, tracking, None)
    write_atomically(sweep.record, to_json(msgspec.structs.replace(sweep_record, mlflow_run_id=run_id)))
    return run_id


def log(sweep: SweepFolder, tracking: TrackingConfig, status: RunStatus | None) -> None:
    """Bring the sweep's run up to date.

    Args:
        sweep: The sweep's folder.
        tracking: Where to log.
        status: How the sweep ended; None while it is running.
    """
    sweep_record = record_of(sweep)
    if tracking.enabled and sweep_record is not None:
        _log(sweep, sweep_record, tracking, status)


def _log(
    sweep: SweepFolder, sweep_record: SweepRecord, tracking: TrackingConfig, status: RunStatus | None
) -> str | None:
    records = sweep.read()
    counts = Counter(record.status for record in records)
    command = typed_sweep(sweep_record.command)
    content = of_sweep(
        name=f"sweep {sweep.root.parent.name} {sweep.root.name}",
        identity=f"{sweep_record.started_at:.6f} {command}",
        started_at=sweep_record.started_at,
        done=counts[Status.DONE],
        status=status,
        parameters={"command": command},
        metrics=_metrics(records),
        tags={**{str(name): str(number) for name, number in counts.items()}, **_outputs(records, sweep_record)},
        note=f"`{command}`",
    )
    files = [sweep.record, sweep.csv, sweep.html, *sorted(sweep.figures.glob("*.png"))]
    return log_sweep(content, sweep.root, files, sweep.mlflow_lock, tracking)


def _outputs(records: Sequence[ExperimentRecord], sweep_record: SweepRecord) -> dict[str, str]:
    """Whether the second arm's outputs agree between the experiments; nothing where none can be compared."""
    alike = alike_in(records, sweep_record)
    return {"outputs": "agree" if all(one.agree for one in alike) else "differ"} if alike else {}


def _metrics(records: Sequence[ExperimentRecord]) -> dict[str, float]:
    """How many experiments ended how, and the range of what they cost."""
    once = [record for record in measured_once(records) if not record.control]
    costs = [record.change_pct for record in once if record.change_pct is not None]
    metrics = {
        f"experiments/{status.value.replace(' ', '_')}": float(sum(record.status is status for record in records))
        for status in (Status.DONE, Status.FAILED, Status.INTERRUPTED, Status.CANNOT_RUN)
    }
    if costs:
        metrics |= {"overhead/lowest_pct": min(costs), "overhead/highest_pct": max(costs)}
    again = next((record for record in records if record.again is not None and record.change_pct is not None), None)
    if again is not None and again.change_pct is not None:
        metrics["overhead/lowest_again_pct"] = again.change_pct
    return metrics
