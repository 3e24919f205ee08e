"""The experiments of a sweep one after the other, in the program's own process: `hydra/launcher=local`.

Hydra's own launcher (`basic`) does the same, and copies every experiment's configuration node by node again and again,
which takes longer than everything else that an experiment costs its parent (`benchmarks/sweep.py`).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from bi_experiments.config.plain import as_set
from bi_experiments.sweep.copies import Original
from bi_experiments.sweep.hydra_internals import OmegaConfDumper


class _QuickDumper(getattr(yaml, "CDumper", yaml.Dumper)):  # type: ignore[misc]
    """What `OmegaConf.to_yaml` writes, written in C where PyYAML has it."""

    yaml_representers: ClassVar[dict[Any, Any]] = {
        **yaml.Dumper.yaml_representers,
        str: OmegaConfDumper.str_representer,
    }


def run_here(
    hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig, composed: Iterable[DictConfig]
) -> list[JobReturn]:
    """Run the experiments; what one of them raises ends the sweep.

    Args:
        hydra_context: Hydra's callbacks.
        task_function: What runs one experiment.
        config: The sweep's configuration.
        composed: The experiments' configurations, each taken when the one before is over.
    """
    of_sweep = HydraConfig.instance().cfg
    try:
        return [_run(hydra_context, task_function, experiment) for experiment in composed]
    finally:
        HydraConfig.instance().cfg = of_sweep
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)


def _run(hydra_context: HydraContext, task_function: TaskFunction, composed: DictConfig) -> JobReturn:
    """Run one experiment, with everything around it that Hydra promises."""
    folder = Path(composed.hydra.sweep.dir, str(composed.hydra.sweep.subdir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with open_dict(composed):
        composed.hydra.runtime.output_dir = str(folder)
    settings = Original.of(composed).copy()
    with read_write(settings), open_dict(settings):
        del settings["hydra"]
    OmegaConf.set_readonly(composed.hydra, True)
    HydraConfig.instance().cfg = composed  # type: ignore[assignment]
    hydra = composed.hydra
    if hydra.output_subdir is not None:
        _write_down(composed, folder / hydra.output_subdir)
    configure_log(hydra.job_logging, hydra.verbose)
    returned = JobReturn(overrides=list(as_set(hydra.overrides.task)), cfg=settings, working_dir=str(Path.cwd()))
    with env_override(hydra.job.env_set):
        hydra_context.callbacks.on_job_start(config=composed, task_function=task_function)
        returned.return_value = task_function(settings)
    returned.status = JobStatus.COMPLETED
    hydra_context.callbacks.on_job_end(config=composed, job_return=returned)
    returned.cfg = None  # Hydra keeps what is returned until the sweep ends, and a configuration is 0.1 MB
    return returned


def _write_down(composed: DictConfig, folder: Path) -> None:
    """Hydra's three files on how an experiment was composed."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: Any = OmegaConf.to_container(composed, enum_to_str=True)
    hydra = settings.pop("hydra")
    for name, part in (("config", settings), ("hydra", {"hydra": hydra}), ("overrides", hydra["overrides"]["task"])):
        text = yaml.dump(part, Dumper=_QuickDumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
