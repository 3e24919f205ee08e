"""The composed configuration as flat text: to print it, to log it as parameters, and to tell experiments apart."""

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import msgspec
from omegaconf import ListConfig, OmegaConf

from bi_experiments.config.credentials import masked, without_credentials
from bi_experiments.config.schema import ExperimentConfig

IRRELEVANT = (
    "tracking",
    "gate",
    "sweep",
    *(f"runtime.{step}_timeout_s" for step in ("phase", "init", "warmup", "trial", "probe")),
    "runtime.cache_dir",
    "protocol.time_budget_min",
    "verify.strict",
    "verify.strict_launches",
    "verify.locate",
)
"""Keys and groups that change no result: where it is logged, what is made of it, when it is given up."""


def flatten(configuration: Mapping[str, Any]) -> dict[str, str]:
    """One entry for each key of the schema: `tp`, `model.name`, ...

    What is deeper than group and key (environment variables, a seeded checkpoint's shape) stays one value, so that
    every configuration has the same keys.

    Args:
        configuration: The composed configuration, as in the record.

    Returns:
        Dotted key to value, in the order of the configuration; values are written as in YAML.
    """
    flat: dict[str, str] = {}
    for key, value in configuration.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": as_text(entry) for name, entry in value.items()}
        else:
            flat[key] = as_text(value)
    return flat


def leaves(configuration: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """As `flatten`, with an entry for every key of the mappings in it too, so that two can be told apart.

    Args:
        configuration: The composed configuration, as in the record.
        within: What the keys begin with.
    """
    flat: dict[str, str] = {}
    for key, value in configuration.items():
        flat |= leaves(value, f"{within}{key}.") if isinstance(value, Mapping) else {f"{within}{key}": as_text(value)}
    return flat


def deciding(configuration: Mapping[str, Any]) -> dict[str, str]:
    """As `flatten`, the settings alone that can change a result.

    Args:
        configuration: The composed configuration, as in the record.
    """
    return {key: value for key, value in flatten(configuration).items() if decides(key)}


def decides(key: str) -> bool:
    """Whether the setting of that dotted key can change a result."""
    return not any(key == name or key.startswith(f"{name}.") for name in IRRELEVANT)


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What is not the same in two flat texts, each as `key old -> new`, in the order of the new one."""
    keys = [*new, *(key for key in old if key not in new)]
    return [
        f"{key} {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in keys if old.get(key) != new.get(key)
    ]


def as_text(value: object) -> str:
    """One value as in YAML's flow style: `null`, `true`, `0.4`, `FLASH_ATTN`, `{"A": "1"}`.

    Only text that is empty or has spaces at its ends is quoted.
    """
    if isinstance(value, str) and value and value == value.strip():
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def setting(configuration: Mapping[str, Any] | ExperimentConfig, key: str) -> Any:  # noqa: ANN401  it may be anything
    """The value of a dotted key of a configuration, or of one in a record.

    None where a part before it is null, and where an older or shorter record lacks it.

    Raises:
        AttributeError: The schema has no such key.
    """
    value: Any = configuration
    for name in key.split("."):
        if is_dataclass(value):
            value = getattr(value, name)
        elif isinstance(value, Mapping):
            value = value.get(name)
        else:
            return None
    return value


def recorded_configuration(config: ExperimentConfig) -> dict[str, Any]:
    """The configuration as plain values, without credentials."""
    plain = masked(msgspec.to_builtins(config))
    assert isinstance(plain, dict)
    plain["tracking"]["uri"] = without_credentials(config.tracking.uri)
    return plain


def as_set(overrides: "ListConfig | list[str]") -> tuple[str, ...]:
    """Overrides of Hydra's configuration as they were set: `${oc.env:TOKEN}` is not resolved, since they are kept."""
    if not isinstance(overrides, ListConfig):
        return tuple(overrides)
    texts = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(texts, list)
    return tuple(map(str, texts))
