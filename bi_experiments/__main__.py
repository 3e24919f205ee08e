"""`python -m bi_experiments`: compose, validate, run, exit code."""

import os
import signal

from bi_experiments.signals import SIGNALS, Interruption, ends_in_order

if __name__ == "__main__":  # while the rest is imported nothing is started, and there is nothing to clean up
    for _number in SIGNALS:
        if signal.getsignal(_number) is not signal.SIG_IGN:
            signal.signal(_number, lambda *_: os._exit(130))

import argparse
import contextlib
import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bi_experiments.config.compose import conf_folder, from_hydra, one_line, register_schema
from bi_experiments.config.help import STUB
from bi_experiments.config.keys import refuse_overrides
from bi_experiments.errors import (
    ConfigurationError,
    ExitCode,
    ExperimentError,
    complain,
    did_you_mean,
    file_problem,
    os_error,
    say,
    warn,
)
from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.report.streams import SparedStream


def main() -> int:
    """Run what the command line asks for and return the process's exit status."""
    return ends_in_order(_run_command)


def _run_command(interruption: Interruption) -> int:
    # Hydra then raises what it cannot compose, instead of printing several lines and exiting with 1.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.stdout, sys.stderr = SparedStream(sys.stdout), SparedStream(sys.stderr)
    register_schema()
    if "--version" in sys.argv[1:]:
        return _print_versions(sys.argv[1:])
    codes: list[ExitCode] = []
    composed_whole = False

    @hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
    def job(composed: DictConfig) -> float | None:
        nonlocal composed_whole
        composed_whole = True
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            from bi_experiments.sweep.job import run_in_sweep

            return run_in_sweep(composed)
        code, own_s_per_token = _run(composed, interruption)
        codes.append(code)
        return own_s_per_token

    warnings.showwarning = _show_warning
    # Hydra carries on without a folder of options that is not there.
    warnings.filterwarnings("error", message="provider=hydra.searchpath.* is not available")
    try:
        options = _options(sys.argv[1:])
        settings: list[str] = options.overrides or []
        refuse_overrides(settings)
        with _only_options(options):
            if options.cfg and options.package:
                _show_part(job)
            else:
                job()
    except ConfigurationError as error:
        interruption.let_through()
        return complain(str(error), error.exit_code)
    except (HydraException, OmegaConfBaseException) as error:
        interruption.let_through()
        return complain(one_line(error), ExitCode.CANNOT_RUN)
    except Exception as error:
        interruption.let_through()
        if composed_whole and not isinstance(error, OSError):
            raise
        problem = os_error(error)
        # Until it is composed, all that there is was set by the user.
        return complain(one_line(error) if problem is None else file_problem(problem))
    return max(codes, default=ExitCode.DONE)


def _print_versions(arguments: Sequence[str]) -> ExitCode:
    """Say this project's version and that of vLLM in the interpreter that would run the phases; neither is imported."""
    from bi_experiments import __version__
    from bi_experiments.machine.interpreter import phase_versions

    named = [text.partition("=")[2] for text in arguments if text.startswith("runtime.python=")]
    python = named[-1] if named else sys.executable
    try:
        vllm = phase_versions(python).get("vllm", f"not installed for {python}")
    except ExperimentError as error:
        return complain(str(error), error.exit_code)
    sys.stdout.write(f"bi_experiments {__version__}\nvllm {vllm}\n")
    return ExitCode.DONE


@contextlib.contextmanager
def _only_options(options: argparse.Namespace) -> Iterator[None]:
    """Leave what options inherit from out of the answers that a shell completes with."""
    if not options.shell_completion or not any(one.startswith("query=") for one in options.overrides or []):
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()) as answer:
        yield
    sys.stdout.write(re.sub(rf"(?<!\S)(\S+=)?{STUB}\w+\s?", "", answer.getvalue()))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's options on the command line, and the settings, as `overrides`.

    Raises:
        ConfigurationError: There is an option that Hydra does not have, or settings stand on both sides of one.
    """
    from bi_experiments.sweep.hydra_internals import get_args_parser

    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        try:
            options: argparse.Namespace = get_args_parser().parse_args(arguments)
        except SystemExit:
            why = said.getvalue().strip().rpartition("error: ")[2]
            between = why.removeprefix("unrecognized arguments: ")
            if between != why and not between.startswith("-"):
                why = f"{between} is on the other side of an option than the settings before it: put the options first"
            elif between != why:
                option = between.split()[0]
                why = f"{option} is not an option{did_you_mean(option, _OPTIONS) or ': --help lists them'}"
            raise ConfigurationError(why) from None
    if options.experimental_rerun is not None:  # it would load a pickle
        raise ConfigurationError("--experimental-rerun is not possible: run the command that a report ends with")
    return options


def _show_part(job: Callable[[], object]) -> None:
    """`--cfg ... --package PART`.

    Raises:
        ConfigurationError: There is no such part, which Hydra says in its own way.
    """
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            job()
        except SystemExit as end:
            if end.code in {None, 0}:
                raise
            raise ConfigurationError(said.getvalue().strip()) from None


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of a library in one line; those of how a value is written say nothing that its error does not."""
    if "some elements are missing" not in str(message) and not issubclass(category, DeprecationWarning):
        warn(str(message).strip())


_OPTIONS = ("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--multirun", "--info")
"""Those that are mistyped most."""


def _run(composed: DictConfig, interruption: Interruption) -> tuple[ExitCode, float | None]:
    """Run one composed configuration; returns its exit code and the second arm's own time per token in seconds."""
    # Imported here, so that --help and --cfg answer at once.
    from rich.console import Console

    from bi_experiments.analysis.metrics import own_s_per_token
    from bi_experiments.analysis.outcome import exit_code
    from bi_experiments.claim import claimed, complete
    from bi_experiments.config.plain import recorded_configuration
    from bi_experiments.experiment import conclude, experiment_name, prepare, run_experiment
    from bi_experiments.launch.location import recorded_config
    from bi_experiments.localisation import locate_violation, to_be_located
    from bi_experiments.machine.placement import own_devices
    from bi_experiments.report.failures import last_words
    from bi_experiments.report.live import coloured, progress_for
    from bi_experiments.report.text import render_end
    from bi_experiments.tracking.log import log_experiment, warn_early

    folder = OutputFolder(Path(HydraConfig.get().runtime.output_dir))
    console = Console()
    try:
        config = from_hydra(composed)
        prepare(config)  # again: Hydra makes a warning of what a callback raises unexpectedly
        with claimed(folder, config):
            resume = config.sweep.resume
            result = complete(folder) if resume else None
            if result is not None:
                conclude(result, folder)
            if result is None or to_be_located(result, config):
                shown = progress_for(console, recorded_configuration(config), _command(), folder)
                with own_devices(config, experiment_name(config), say) as place, shown as progress:
                    if result is None:
                        warn_early(config.tracking)
                        result = run_experiment(config, folder, _command(), progress, resumable=resume, place=place)
                    result = locate_violation(result, config, folder)
    except ExperimentError as error:
        interruption.let_through()
        return complain(str(error), error.exit_code), None
    except OSError as error:
        interruption.let_through()
        kept = f"; finished phases are kept in {folder.root / 'phases'}"
        return complain(f"{file_problem(error)}{kept}", ExitCode.PHASE_FAILED), None
    except KeyboardInterrupt:
        if folder.result.exists():
            result = read_result(folder.root)
            console.print(coloured(render_end(result, folder.root)), soft_wrap=True, end="")
            _say_what_is_kept(folder, to_be_located(result, recorded_config(result)))
        raise
    console.print(coloured(render_end(result, folder.root)), soft_wrap=True, end="")
    sys.stderr.write(last_words(result, folder))
    try:
        log_experiment(result, folder.root, config.tracking)
    except KeyboardInterrupt:
        _say_what_is_kept(folder)
        raise
    return exit_code(result, config), own_s_per_token(result.phases)


def _say_what_is_kept(folder: OutputFolder, to_be_located: bool = False) -> None:
    """One line on an experiment that was interrupted once its record was written."""
    locate = "python -m bi_experiments.locate names the operator, " if to_be_located else ""
    say(
        f"interrupted: the record is in {folder.root}; {locate}python -m bi_experiments.report draws its pages, "
        "python -m bi_experiments.track logs it"
    )


def _command() -> str:
    from bi_experiments.config.plain import as_set
    from bi_experiments.sweep.command import typed

    return typed(as_set(HydraConfig.get().overrides.task))


if __name__ == "__main__":
    sys.exit(main())
