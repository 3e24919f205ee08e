"""Hydra's composition for many experiments that differ in values: the groups are read and merged once.

Hydra reads and merges every YAML file again for each experiment, twice, which takes longer than all else that a sweep
does. The files that are read depend on the chosen groups alone, and values are applied to what they compose to: so
that is composed once for each choice of groups, copied, and the values are applied to the copy by Hydra's own code.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from bi_experiments.config.plain import as_set
from bi_experiments.sweep.copies import Original
from bi_experiments.sweep.folder import refuse_outside
from bi_experiments.sweep.hydra_internals import ConfigLoaderImpl, get_overrides_dirname

KEPT = 16
"""Most choices of groups that are kept."""


class SweepConfigLoader(ConfigLoaderImpl):
    """The same configurations as its base class composes.

    Args:
        config_search_path: Where Hydra looks for files.
    """

    def __init__(self, config_search_path: Any) -> None:  # noqa: ANN401  a type that is internal to Hydra
        super().__init__(config_search_path)
        self._composed: dict[tuple[str, ...], Original] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what was composed: launchers send this object to other processes with every experiment."""
        return {**self.__dict__, "_composed": {}}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of one experiment of a sweep.

        Args:
            master_config: The sweep's.
            sweep_overrides: The experiment's overrides.
        """
        parsed = OverridesParser.create().parse_overrides(sweep_overrides)
        choices = [override for override in parsed if self._is_choice(override)]
        values = [override for override in parsed if not self._is_choice(override)]
        if master_config.hydra.searchpath or not all(map(_changes_a_value, values)):
            return super().load_sweep_config(master_config, sweep_overrides)
        config = self._choose(master_config, [str(choice.input_line) for choice in choices]).copy()
        self._apply_overrides_to_config(values, config)
        typed = [override for override in parsed if not override.is_hydra_override()]
        naming = config.hydra.job.config.override_dirname
        config.hydra.overrides.task = [override.input_line for override in typed]
        config.hydra.job.override_dirname = get_overrides_dirname(
            typed, kv_sep=naming.kv_sep, item_sep=naming.item_sep, exclude_keys=naming.exclude_keys
        )
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def _choose(self, master_config: DictConfig, choices: list[str]) -> Original:
        """What a choice of groups composes to."""
        key = (*as_set(master_config.hydra.overrides.hydra), *choices)
        if key not in self._composed:
            if len(self._composed) >= KEPT:
                self._composed.clear()
            self._composed[key] = Original.of(super().load_sweep_config(master_config, choices))
        return self._composed[key]

    def _is_choice(self, override: Override) -> bool:
        """Whether an override decides what is read, or is Hydra's own."""
        if override.is_hydra_override():
            return True
        return self.repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)


def _changes_a_value(override: Override) -> bool:
    """Whether an override gives a value to a key that exists: then its place among the others does not matter."""
    return override.type is OverrideType.CHANGE and override.package is None


def experiments(
    hydra_context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> Iterator[DictConfig]:
    """Compose the experiments of a sweep, each when it is requested.

    Args:
        hydra_context: Hydra's loader and callbacks.
        config: The sweep's configuration.
        job_overrides: The overrides of each experiment.
        first: Number of the first one in the sweep.

    Raises:
        ConfigurationError: The folder of one is not in the sweep's.
    """
    setup_globals()
    for number, overrides in enumerate(job_overrides, first):
        composed = hydra_context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = str(number)
            composed.hydra.job.num = number
        refuse_outside(str(composed.hydra.sweep.subdir))
        yield composed
