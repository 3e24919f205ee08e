"""`python -m bi_experiments`: compose, validate, run, exit code."""

import os
import shlex
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bi_experiments.config.compose import conf_folder, from_hydra, one_line, register_schema
from bi_experiments.errors import ConfigurationError, ExitCode, ExperimentError, complain


def main() -> int:
    """Run what the command line asks for and return the process's exit status."""
    # Hydra then raises what it cannot compose, instead of printing several lines and exiting with 1.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    signal.signal(signal.SIGTERM, _interrupt)
    register_schema()
    codes: list[ExitCode] = []

    @hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
    def job(composed: DictConfig) -> float | None:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            from bi_experiments.sweep.job import run_in_sweep

            return run_in_sweep(composed)
        code, overhead_pct = _run(composed)
        codes.append(code)
        return overhead_pct

    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        return complain(one_line(error), ExitCode.CANNOT_RUN)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return max(codes, default=ExitCode.DONE)


def _run(composed: DictConfig) -> tuple[ExitCode, float | None]:
    """Run one composed configuration; returns its exit code and the overhead of its trial time in per cent."""
    # Imported here, so that --help and --cfg answer at once.
    from rich.console import Console

    from bi_experiments.analysis.outcome import exit_code
    from bi_experiments.config.plain import recorded_configuration
    from bi_experiments.experiment import prepare, run_experiment
    from bi_experiments.localisation import locate_violation
    from bi_experiments.paths import OutputFolder
    from bi_experiments.report.failures import last_words
    from bi_experiments.report.live import progress_for
    from bi_experiments.report.text import render_comparison
    from bi_experiments.tracking.log import log_experiment

    folder = OutputFolder(Path(HydraConfig.get().runtime.output_dir))
    console = Console()
    try:
        config = from_hydra(composed)
        if config.sweep.resume:
            raise ConfigurationError(
                "sweep.resume=true goes on with a sweep, and this is none: type -m before the settings"
            )
        prepare(config)
        with progress_for(console, recorded_configuration(config)) as progress:
            result = run_experiment(config, folder, _command(), progress)
            result = locate_violation(result, config, folder)
    except ExperimentError as error:
        return complain(str(error), error.exit_code), None
    console.print(render_comparison(result, folder.root), markup=False, highlight=False, soft_wrap=True, end="")
    sys.stderr.write(last_words(result, folder))
    log_experiment(result, folder.root, config.tracking)
    trial_time = result.comparison.metric("trial_time") if result.comparison else None
    return exit_code(result, config), trial_time.change_pct if trial_time else None


def _command() -> str:
    overrides = HydraConfig.get().overrides.task
    return shlex.join(["python", "-m", "bi_experiments", *overrides])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
