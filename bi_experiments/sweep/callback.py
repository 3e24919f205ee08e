"""Hydra's callback around a multirun: finds the sweep to resume, and ends with its summary and exit code.

Hydra turns an exception of a callback into a warning and returns nothing to the program, so both ways out are
`SystemExit`, which it lets through. It does not notify callbacks of an interruption: what is left to do is then done
when the program exits.
"""

import atexit
import contextlib
import copy
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec
from hydra.core.global_hydra import GlobalHydra
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bi_experiments.config.compose import one_line
from bi_experiments.config.credentials import refuse_secrets
from bi_experiments.config.keys import as_override
from bi_experiments.config.plain import as_set
from bi_experiments.errors import ConfigurationError, ExitCode, ExperimentError, complain, file_problem
from bi_experiments.files import try_lock
from bi_experiments.sweep.command import command_of, newest_of, planned_experiments, record_of
from bi_experiments.sweep.folder import SweepFolder, refuse_outside
from bi_experiments.sweep.loader import SweepConfigLoader
from bi_experiments.sweep.records import Status, SweepRecord, interrupted
from bi_experiments.tracking.uri import refuse_store

if TYPE_CHECKING:
    from bi_experiments.tracking.runs import RunStatus

SWEEPS = Path("multirun")
"""Where sweeps are by default (`hydra.sweep.dir`)."""


class SweepCallback(Callback):
    """Named in `conf/config.yaml` under `hydra.callbacks`."""

    def __init__(self) -> None:
        self._running: BinaryIO | None = None
        """The lock that says that this sweep is running: held until this process ends."""
        self._resumed = False

    def __getstate__(self) -> dict[str, object]:
        """What a launcher's worker gets of it: the lock stays with the program that the user started."""
        return {**self.__dict__, "_running": None}

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        """Refuse a single run before Hydra makes its folder, so that a refusal leaves nothing.

        Raises:
            SystemExit: A setting looks like a credential, or the run is refused.
        """
        try:  # Hydra would turn what is raised here into a warning, and fail again with an error
            refuse_secrets(OmegaConf.to_container(config, resolve=False))  # in files: the command line was looked at
            _refuse_run(config)
        except ExperimentError as error:
            raise SystemExit(complain(str(error), error.exit_code)) from error
        except OmegaConfBaseException as error:
            raise SystemExit(complain(one_line(error))) from error
        except OSError as error:
            raise SystemExit(complain(file_problem(error))) from error

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Find or make the sweep's folder, and claim it.

        Raises:
            SystemExit: There is nothing to resume, or the folder is another sweep's, or in use.
        """
        try:  # Hydra would turn what is raised here into a warning, and continue
            refuse_secrets(OmegaConf.to_container(config, resolve=False))  # in files: the command line was looked at
            if config.tracking.enabled:
                refuse_store(str(config.tracking.uri))
            sweep = self._claim(config)
            self._resumed = sweep.record.exists()
            _begin(sweep, config)
        except ConfigurationError as error:
            raise SystemExit(complain(str(error), error.exit_code)) from error
        except OSError as error:
            raise SystemExit(complain(file_problem(error, "hydra.sweep.dir"))) from error
        except OmegaConfBaseException as error:
            raise SystemExit(complain(one_line(error))) from error
        except Exception as error:
            raise SystemExit(complain(f"the sweep cannot be read: {one_line(error)}")) from error
        atexit.register(self._cut_short, config)
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        hydra.config_loader = SweepConfigLoader(hydra.config_loader.get_search_path())

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        """Show the summary and end the program.

        Raises:
            SystemExit: With the sweep's exit code.
        """
        sweep = SweepFolder(Path(config.hydra.sweep.dir))
        try:  # Hydra would turn what is raised here into a warning, and end with 0
            if config.sweep.confirm:
                from bi_experiments.sweep.confirmation import confirm
                from bi_experiments.sweep.job import run_in_sweep

                confirm(sweep, config, run_in_sweep)
            code = _finish(config, "FINISHED")
        except Exception as error:  # noqa: BLE001  what it comes from is said, and the exit code is not 0
            problem = f"the sweep's end failed, its experiments are in {sweep.root}: {one_line(error)}"
            code = complain(problem, ExitCode.PHASE_FAILED)
        atexit.unregister(self._cut_short)
        raise SystemExit(code)

    def _cut_short(self, config: DictConfig) -> None:
        """Mark what was running as interrupted, and finish the summary; if nothing started, leave no folder."""
        sweep = SweepFolder(Path(config.hydra.sweep.dir))
        records = sweep.read()
        for record in records:
            if record.status is Status.RUNNING:
                sweep.append(interrupted(record))
        if records:
            _finish(config, "KILLED")
        elif not self._resumed:
            _leave_nothing(sweep)

    def _claim(self, config: DictConfig) -> SweepFolder:
        _refuse_shared_folder(config)
        chosen = next(
            (text for text in as_set(config.hydra.overrides.hydra) if text.startswith("hydra.sweep.dir=")), None
        )
        sweep = SweepFolder(Path(config.hydra.sweep.dir))
        if config.sweep.resume and chosen is None:
            found = newest_of(command_of(config), SWEEPS)
            if found is None:
                raise ConfigurationError(
                    f"sweep.resume=true found no sweep of this command in {SWEEPS}: leave it out, or pass its "
                    "folder with hydra.sweep.dir=FOLDER"
                )
            _set_folder(config, found)
            sweep = SweepFolder(found)
        elif not config.sweep.resume and sweep.experiments.exists():
            raise ConfigurationError(
                f"hydra.sweep.dir={sweep.root} has a sweep: set sweep.resume=true to resume it, or use another folder"
            )
        sweep.root.mkdir(parents=True, exist_ok=True)
        self._running = sweep.running_lock.open("ab")
        if not try_lock(self._running):
            raise ConfigurationError(f"the sweep in {sweep.root} is still running: wait for it, or stop it first")
        return sweep


def _refuse_run(config: DictConfig) -> None:
    """Refuse a single run that is refused anyway.

    Raises:
        ExperimentError: It contradicts itself, cannot run here, or its folder is another's.
    """
    from bi_experiments.claim import refuse_claimed
    from bi_experiments.config.compose import from_hydra
    from bi_experiments.experiment import prepare
    from bi_experiments.paths import OutputFolder

    own = copy.deepcopy(config)
    OmegaConf.set_readonly(own, False)
    with open_dict(own):
        del own["hydra"]
    asked = from_hydra(own)
    if asked.sweep.resume and not _names_its_folder(config):
        raise ConfigurationError(
            "sweep.resume=true resumes a sweep, but this is a single run: add -m before the settings, or name the "
            "folder of the run to resume with hydra.run.dir=FOLDER"
        )
    prepare(asked)
    refuse_claimed(OutputFolder(Path(config.hydra.run.dir)), asked)


def _names_its_folder(config: DictConfig) -> bool:
    return any(text.startswith("hydra.run.dir=") for text in as_set(config.hydra.overrides.hydra))


def _leave_nothing(sweep: SweepFolder) -> None:
    """Remove the folder of a sweep that was refused before its first experiment, and what becomes empty with it."""
    for name in (sweep.record, sweep.running_lock, sweep.root / "multirun.yaml"):
        name.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in it
        os.removedirs(sweep.root)


def _refuse_shared_folder(config: DictConfig) -> None:
    """Refuse a sweep of no experiment, and one whose experiments would write into one folder or outside the sweep's.

    Raises:
        ConfigurationError: It is such a sweep.
    """
    planned = planned_experiments(config)
    if planned == 0:
        raise ConfigurationError("the sweep has no experiments: one of its settings has no value")
    subdir = str(OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"])  # type: ignore[index,call-overload]
    refuse_outside(subdir)
    if "${" not in subdir and (planned is None or planned > 1):
        raise ConfigurationError(
            f"hydra.sweep.subdir={subdir} would be the folder of every experiment: leave it out, or put "
            "${hydra.job.num} into it"
        )


def _finish(config: DictConfig, status: "RunStatus") -> ExitCode:
    from bi_experiments.sweep import summary, tracking

    sweep = SweepFolder(Path(config.hydra.sweep.dir))
    code = summary.finish(sweep)
    tracking.log(sweep, OmegaConf.to_object(config.tracking), status)  # type: ignore[arg-type]
    return code


def _set_folder(config: DictConfig, folder: Path) -> None:
    """Make a folder the sweep's: for this process, and for every experiment, whose configuration is composed again."""
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(as_override("hydra.sweep.dir", str(folder)))


def _begin(sweep: SweepFolder, config: DictConfig) -> None:
    from bi_experiments.files import write_atomically
    from bi_experiments.records import to_json

    now, before = time.time(), record_of(sweep)
    record = SweepRecord(
        command=command_of(config),
        started_at=now,
        session_started_at=now,
        pid=os.getpid(),
        planned=planned_experiments(config),
        skip_impossible=bool(config.sweep.skip_impossible),
    )
    if before is not None:
        record = msgspec.structs.replace(record, started_at=before.started_at, mlflow_run_id=before.mlflow_run_id)
    write_atomically(sweep.record, to_json(record))
    planned = "" if record.planned is None else f" of {record.planned} experiments"
    sys.stdout.write(f"{'Resuming the sweep' if before else 'Sweep'}{planned} in {sweep.root}\n")
    sys.stdout.flush()
