"""From the YAML files and the command line to an `ExperimentConfig`: Hydra composes, OmegaConf validates."""

import functools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bi_experiments.config import backends, help
from bi_experiments.config.backends import Platform
from bi_experiments.config.checks import two_engines_fit
from bi_experiments.config.keys import (
    alternatives,
    dataclass_of,
    key_types,
    refuse_foreign_keys,
    refuse_overrides,
    several_values,
    takes,
    unknown,
)
from bi_experiments.config.launchers import RaySettings, SlurmSettings
from bi_experiments.config.plain import deciding, recorded_configuration
from bi_experiments.config.schema import (
    BackendConfig,
    ExperimentConfig,
    Interleave,
    ModelConfig,
    ProtocolConfig,
    RuntimeConfig,
    TrackingConfig,
    VerifyConfig,
    WorkloadConfig,
)
from bi_experiments.errors import ConfigurationError

OPEN = re.compile(r"backend\.(engine|environment)\.")
"""Keys below these are names of vLLM's, which the schema does not list; a new one is added with `+`."""


def register_schema() -> None:
    """Put the classes into Hydra's ConfigStore, under the names that the YAML files start from."""
    store = ConfigStore.instance()
    store.store(name="base_config", node=ExperimentConfig)
    for group, node in (
        ("model", ModelConfig),
        ("backend", BackendConfig),
        ("workload", WorkloadConfig),
        ("protocol", ProtocolConfig),
        ("verify", VerifyConfig),
        ("tracking", TrackingConfig),
        ("runtime", RuntimeConfig),
    ):
        store.store(group=group, name=f"base_{group}", node=node)
    store.store(group="hydra/launcher", name="base_submitit_slurm", node=SlurmSettings)
    store.store(group="hydra/launcher", name="base_ray", node=RaySettings)
    help.register()


def conf_folder() -> Path:
    """The folder of the YAML files: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def compose(overrides: Sequence[str]) -> ExperimentConfig:
    """Compose a configuration without a command line; also while Hydra runs one.

    Args:
        overrides: As on the command line: `group=option`, `key=value`.

    Raises:
        ConfigurationError: An override is unknown, has the wrong type, or a value cannot be resolved.
    """
    register_schema()
    refuse_overrides(overrides)
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return from_hydra(hydra_compose("config", overrides=list(overrides)))
    except ConfigurationError:
        raise
    except Exception as error:  # whatever Hydra raises while it composes, it is about what was asked for
        raise ConfigurationError(one_line(error)) from error
    finally:
        GlobalHydra.instance().hydra = running


def with_defaults(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration; what a record of an earlier version does not know was as it is by default.

    Args:
        configuration: As in the record.
    """
    if _is_whole(configuration):
        return dict(configuration)
    whole = recorded_configuration(compose([]))
    for key, value in configuration.items():
        group = isinstance(value, Mapping) and isinstance(whole.get(key), Mapping)
        whole[key] = {**whole[key], **value} if group else value
    return whole


def _is_whole(configuration: Mapping[str, Any]) -> bool:
    """Whether a recorded configuration has every key of today's groups."""

    def has(group: Field[Any]) -> bool:
        if not is_dataclass(group.type):
            return group.name in configuration
        part = configuration.get(group.name)
        return isinstance(part, Mapping) and {key.name for key in fields(group.type)} <= part.keys()

    return all(map(has, fields(ExperimentConfig)))


def defaults_then(command: str, configuration: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that a recorded command needs today to compose what it composed then.

    Args:
        command: The command line of the record; one that cannot be composed today gets none.
        configuration: As in the record.
    """
    now = _deciding_today(command)
    if now is None:
        return ()
    then = deciding(with_defaults(configuration))
    return tuple(f"{key}={value}" for key, value in then.items() if now.get(key, value) != value)


@functools.cache
def _deciding_today(command: str) -> Mapping[str, str] | None:
    """What a command composes today, of what can change a result; None: it cannot be composed.

    Composed once: each format of a report asks for it, and Hydra takes a third of a second.
    """
    try:
        return deciding(recorded_configuration(compose([part for part in shlex.split(command) if "=" in part])))
    except ConfigurationError:
        return None


def from_hydra(composed: DictConfig) -> ExperimentConfig:
    """Turn the composed configuration into its dataclasses, every interpolation resolved and converted.

    Raises:
        ConfigurationError: A value is missing or cannot be resolved (an environment variable of the wrong type), or a
            key is not the schema's.
    """
    try:
        refuse_foreign_keys(composed)
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigurationError(one_line(error)) from error
    assert isinstance(config, ExperimentConfig)
    for group in fields(ExperimentConfig):
        value = getattr(config, group.name, None)
        if isinstance(group.type, type) and is_dataclass(group.type) and not is_dataclass(value):
            raise ConfigurationError(f"{group.name}={value} is not a group of settings: use {group.name}=OPTION")
    if config.protocol.interleave is Interleave.auto:
        by_turns = config.backend.platform is Platform.cuda and two_engines_fit(config)
        config.protocol.interleave = Interleave.trial if by_turns else Interleave.launch
    return config


_OF_OMEGACONF = ("full_key:", "object_type=", "reference_type=")
"""Lines that say what OmegaConf's own classes are."""


def one_line(error: Exception) -> str:
    """What Hydra or OmegaConf complains about, in one line.

    Hydra lists a group's options one a line, and the folders it searched after them; OmegaConf repeats the key.
    """
    lines = [line.strip().rstrip(".") for line in str(error).partition("Config search path:")[0].splitlines()]
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException) and "$" not in str(cause):
        lines.append(str(cause).strip().splitlines()[0].rstrip("."))
    said = [line for line in dict.fromkeys(lines) if line and not line.startswith(_OF_OMEGACONF)]
    if not_there := re.match(r"Could not override '([^']+)'", said[0] if said else ""):
        return _not_there(not_there[1])
    wrong = re.match(r"Error merging override \+*([\w.]+)=(.*)", said[0] if said else "")
    if wrong and wrong[1] in key_types():
        return f"{wrong[1]}={wrong[2]} is not possible: {takes(wrong[1])}"
    if said and said[0].startswith("Unexpected type for root: NoneType"):  # OmegaConf does not say whose
        nullable = [key for key, hint in key_types().items() if dataclass_of(hint) and type(None) in alternatives(hint)]
        return (
            f"a key below {' or '.join(nullable)} is set, which is null here: choose an option that has it (model=demo)"
        )
    sweep = re.match(
        r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)'(?: requires|$)", said[0] if said else ""
    )
    if sweep:
        return several_values(sweep[1])
    for index, line in enumerate(said):
        if line.startswith("Available options in"):
            existing = ", ".join(option for option in said[index + 1 :] if not option.startswith(help.STUB))
            removed = re.search(r"Could not find 'backend/(\w+)'", said[0])
            why = backends.REMOVED.get(removed.group(1).upper()) if removed else None
            return f"{said[0]}{f' ({why})' if why else ''}; use one of {existing}"
    if said and "nterpolation" in said[0] and (key := re.search(r"full_key: (\S+)", str(error))):
        said[0] = f"{key[1]} cannot be resolved: {said[0]}"
    return "; ".join(said) or type(error).__name__


def _not_there(key: str) -> str:
    """The error for a key that does not exist; Hydra itself would recommend adding it."""
    if key.startswith("hydra"):
        return f"{key} is not a key of Hydra's configuration: --hydra-help and --cfg hydra list them"
    group, _, rest = key.partition(".")
    if rest and group in key_types() and OPEN.match(key):
        return f"{key} is not set yet: write +{key}=VALUE"
    if key in key_types():
        return f"{key} takes its entries one by one: +{key}.NAME=VALUE"
    return unknown(key)
