"""The command of a sweep: how a sweep is recognised when it is resumed, and how many experiments it has."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from bi_experiments.config.plain import as_set
from bi_experiments.records import RecordError, from_json
from bi_experiments.report.labels import short_names
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.hydra_internals import BasicSweeper
from bi_experiments.sweep.records import ExperimentRecord, SweepRecord


def typed(overrides: Iterable[str]) -> str:
    """The command line of one experiment."""
    return shlex.join(["python", "-m", "bi_experiments", *lasting(overrides)])


def typed_sweep(command: Iterable[str]) -> str:
    """The command line of a whole sweep."""
    return shlex.join(["python", "-m", "bi_experiments", "-m", *command])


def lasting(overrides: Iterable[str]) -> tuple[str, ...]:
    """The overrides that say what is run, without those that say how a sweep runs it."""
    passing = ("sweep.", "hydra.sweep.dir=", "hydra.mode=")
    return tuple(override for override in overrides if not override.startswith(passing))


def command_of(config: DictConfig) -> tuple[str, ...]:
    """The command of the sweep of a composed configuration, as it is compared and shown."""
    overrides = config.hydra.overrides
    return lasting([*as_set(overrides.task), *as_set(overrides.hydra)])


def planned_experiments(config: DictConfig) -> int | None:
    """How many experiments Hydra's own sweeper makes of a command; None where another sweeper decides as it runs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
        return None
    params = OmegaConf.to_container(config.hydra.sweeper.params or OmegaConf.create({}))
    assert isinstance(params, dict)
    texts = [*(f"{key!s}={value}" for key, value in params.items()), *as_set(config.hydra.overrides.task)]
    loader = GlobalHydra.instance().config_loader()  # which `glob` looks for options with
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(texts)
    return sum(len(batch) for batch in BasicSweeper.split_arguments(overrides, None))


def newest_of(command: Sequence[str], folder: Path) -> Path | None:
    """The folder of the newest sweep of a command, among those below a folder; None when there is none.

    Args:
        command: As `command_of` gives it.
        folder: Folder in which sweeps have folders of their own, in it or in folders of it.
    """
    found: list[tuple[float, Path]] = []
    for path in [*folder.glob("*/sweep.json"), *folder.glob("*/*/sweep.json")]:
        try:
            record = from_json(path.read_bytes(), SweepRecord, path)
        except (OSError, RecordError):
            continue
        if record.command == tuple(command):
            found.append((record.started_at, path.parent))
    return max(found)[1] if found else None


def swept(overrides: Iterable[str], command: Iterable[str]) -> dict[str, str]:
    """The settings that an experiment does not share with its sweep: key to value.

    Args:
        overrides: Those of the experiment.
        command: Of the sweep, as `command_of` gives it.
    """
    common = set(command)
    own = [override for override in lasting(overrides) if override not in common]
    return {key.lstrip("+"): value for key, _, value in (override.partition("=") for override in own)}


def settings_of(record: ExperimentRecord, sweep_record: SweepRecord | None) -> dict[str, str]:
    """What an experiment does not share with the others of its sweep."""
    return swept(record.overrides, sweep_record.command if sweep_record else ())


def that_differ(settings: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Without the settings that all experiments have in common, unless there is one experiment alone."""
    if len(settings) < 2:
        return list(settings)
    alike = {key for key in settings[0] if len({one.get(key) for one in settings}) == 1}
    return [{key: value for key, value in one.items() if key not in alike} for one in settings]


def labels(records: Sequence[ExperimentRecord], sweep_record: SweepRecord | None) -> dict[int, str]:
    """A readable name of every experiment by its number: what differs between them, short enough for a sentence."""
    settings = that_differ([settings_of(record, sweep_record) for record in records])
    keys = dict.fromkeys(key for one in settings for key in one)
    last = {key: key.rpartition(".")[2] for key in keys}
    names = last if len(set(last.values())) == len(keys) else {key: key for key in keys}
    texts = [" ".join(f"{names[key]}={value}" for key, value in one.items()) for one in settings]
    short = short_names([text or f"experiment {one.number}" for text, one in zip(texts, records, strict=True)])
    return {record.number: name for record, name in zip(records, short, strict=True)}


def record_of(sweep: SweepFolder) -> SweepRecord | None:
    """The record of the sweep in a folder; None if it has no sweep, or one of another format."""
    try:
        return from_json(sweep.record.read_bytes(), SweepRecord, sweep.record)
    except (OSError, RecordError):
        return None
