"""`python -m bi_experiments`: compose, validate, run, exit code."""

import contextlib
import io
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bi_experiments.config.compose import conf_folder, from_hydra, one_line, register_schema
from bi_experiments.config.keys import refuse_overrides
from bi_experiments.errors import (
    ConfigurationError,
    ExitCode,
    ExperimentError,
    complain,
    file_problem,
    os_error,
)
from bi_experiments.files import try_lock
from bi_experiments.paths import OutputFolder
from bi_experiments.report.streams import SparedStream


def main() -> int:
    """Run what the command line asks for and return the process's exit status."""
    # Hydra then raises what it cannot compose, instead of printing several lines and exiting with 1.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    _handle_signals(_interrupt)
    sys.stdout, sys.stderr = SparedStream(sys.stdout), SparedStream(sys.stderr)
    register_schema()
    codes: list[ExitCode] = []
    composed_whole = False

    @hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
    def job(composed: DictConfig) -> float | None:
        nonlocal composed_whole
        composed_whole = True
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            from bi_experiments.sweep.job import run_in_sweep

            return run_in_sweep(composed)
        code, own_s_per_token = _run(composed)
        codes.append(code)
        return own_s_per_token

    try:
        refuse_overrides(_settings(sys.argv[1:]))
        job()
    except ConfigurationError as error:
        return complain(str(error), error.exit_code)
    except (HydraException, OmegaConfBaseException) as error:
        return complain(one_line(error), ExitCode.CANNOT_RUN)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if composed_whole and not isinstance(error, OSError):
            raise
        problem = os_error(error)
        # Until it is composed, all that there is was set by the user.
        return complain(one_line(error) if problem is None else file_problem(problem))
    return max(codes, default=ExitCode.DONE)


def _settings(arguments: Sequence[str]) -> list[str]:
    """The settings on the command line, without Hydra's options.

    Raises:
        ConfigurationError: There is an option that Hydra does not have, or settings stand on both sides of one.
    """
    from bi_experiments.sweep.hydra_internals import get_args_parser

    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        try:
            settings: list[str] = get_args_parser().parse_args(arguments).overrides or []
        except SystemExit as end:
            if end.code in {None, 0}:  # --version, which Hydra itself answers
                return []
            why = said.getvalue().strip().rpartition("error: ")[2]
            between = why.removeprefix("unrecognized arguments: ")
            if between != why and not between.startswith("-"):
                why = f"{between} is on the other side of an option than the settings before it: put the options first"
            raise ConfigurationError(why) from None
    return settings


def _run(composed: DictConfig) -> tuple[ExitCode, float | None]:
    """Run one composed configuration; returns its exit code and the second arm's own time per token in seconds."""
    # Imported here, so that --help and --cfg answer at once.
    from rich.console import Console

    from bi_experiments.analysis.metrics import own_s_per_token
    from bi_experiments.analysis.outcome import exit_code
    from bi_experiments.config.plain import recorded_configuration
    from bi_experiments.experiment import prepare, run_experiment
    from bi_experiments.localisation import locate_violation
    from bi_experiments.report.failures import last_words
    from bi_experiments.report.live import progress_for
    from bi_experiments.report.text import render_comparison
    from bi_experiments.tracking.log import log_experiment, warn_early

    folder = OutputFolder(Path(HydraConfig.get().runtime.output_dir))
    console = Console()
    try:
        config = from_hydra(composed)
        if config.sweep.resume and not any(_is_folder(text) for text in HydraConfig.get().overrides.hydra):
            raise ConfigurationError(
                "sweep.resume=true resumes a sweep, but this is a single run: add -m before the settings, or name the "
                "folder of the run to resume with hydra.run.dir=FOLDER"
            )
        prepare(config)
        with _claimed(folder), progress_for(console, recorded_configuration(config)) as progress:
            warn_early(config.tracking)
            result = run_experiment(config, folder, _command(), progress, resumable=config.sweep.resume)
            result = locate_violation(result, config, folder)
    except ExperimentError as error:
        return complain(str(error), error.exit_code), None
    except OSError as error:
        kept = f"; finished phases are kept in {folder.root / 'phases'}"
        return complain(f"{file_problem(error)}{kept}", ExitCode.PHASE_FAILED), None
    console.print(render_comparison(result, folder.root), markup=False, highlight=False, soft_wrap=True, end="")
    sys.stderr.write(last_words(result, folder))
    log_experiment(result, folder.root, config.tracking)
    return exit_code(result, config), own_s_per_token(result.phases)


def _command() -> str:
    from bi_experiments.config.plain import as_set

    overrides = as_set(HydraConfig.get().overrides.task)
    return shlex.join(["python", "-m", "bi_experiments", *overrides])


def _is_folder(override: str) -> bool:
    return override.startswith("hydra.run.dir=")


@contextlib.contextmanager
def _claimed(folder: OutputFolder) -> Iterator[None]:
    """Keep other programs out of an output folder.

    Raises:
        ConfigurationError: One writes into it now.
    """
    with folder.running_lock.open("ab") as file:
        if not try_lock(file):
            raise ConfigurationError(
                f"another experiment writes into {folder.root} now: wait for it, or set hydra.run.dir to another folder"
            )
        yield


def _handle_signals(handler: Callable[..., None] | signal.Handlers) -> None:
    """Let a signal that asks the program to end do so in order; one that was ignored at the start stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    # What comes next, a second Ctrl-C or SIGTERM, would end the clean-up and lose the record.
    _handle_signals(signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
