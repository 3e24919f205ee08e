"""The keys that the schema has: what is set, removed or added besides them is refused, with what was probably meant."""

import dataclasses
import functools
import re
import shlex
import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString, RangeSweep
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from bi_experiments.config.credentials import refuse_secrets
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ConfigurationError, did_you_mean

MOST_EXPERIMENTS = 100_000
"""Most values that one key of a sweep may run through."""

LARGEST = 10**300
"""Largest whole number that is looked at: the largest that is a floating point number too."""


@functools.cache
def key_types() -> Mapping[str, Any]:
    """Every key of the schema, dotted, with its type: `model.name`, `tp`, ...; groups are keys too."""
    return types.MappingProxyType(dict(_fields(ExperimentConfig, "")))


def _fields(schema: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(schema).items():
        yield f"{prefix}{name}", hint
        part = dataclass_of(hint)
        if part is not None:
            yield from _fields(part, f"{prefix}{name}.")


def alternatives(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401  a type hint may be anything
    """The types that a type hint allows: of `int | None`, `int` and `NoneType`."""
    return get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)


def dataclass_of(hint: Any) -> type | None:  # noqa: ANN401
    """The dataclass that a type hint allows; None where it allows none."""
    return next((one for one in alternatives(hint) if dataclasses.is_dataclass(one) and isinstance(one, type)), None)


def takes(key: str) -> str:
    """What a key may be set to, for the error where it is something else."""
    hint = key_types()[key]
    kinds = [one for one in alternatives(hint) if one is not type(None)]
    origins = {get_origin(one) for one in kinds}
    if dataclass_of(hint) is not None:
        return f"set its keys one by one, {key}.NAME=VALUE"
    if origins & {dict, Mapping}:
        return f"add its entries one by one, +{key}.NAME=VALUE"
    named = f"a list, {key}=[A,B]" if list in origins else " or ".join(dict.fromkeys(map(_named, kinds)))
    return f"use {named}{' or null' if type(None) in alternatives(hint) else ''}"


def _named(hint: Any) -> str:  # noqa: ANN401
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(one.name for one in hint)}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}.get(hint, "another value")


def unknown(key: str) -> str:
    """What is said of a key that the schema does not have."""
    return f"{key} is not a key of the configuration{did_you_mean(key, key_types()) or ': --help lists the keys'}"


def refuse_foreign_keys(composed: DictConfig) -> None:
    """Refuse a composed configuration that has other keys than the schema, or lacks some, or has null for a value.

    Hydra lets `+key` add anything, and `~key` remove anything.

    Raises:
        ConfigurationError: Naming the first such key.
    """
    _refuse_foreign(composed, ExperimentConfig, "")


def _refuse_foreign(node: DictConfig, schema: type, prefix: str) -> None:
    hints = get_type_hints(schema)
    for key in node:
        if key not in hints:
            raise ConfigurationError(unknown(f"{prefix}{key!s}"))
    for name, hint in hints.items():
        key = f"{prefix}{name}"
        if name not in node and not OmegaConf.is_missing(node, name):
            raise ConfigurationError(_removed(key))
        if OmegaConf.is_missing(node, name):
            raise ConfigurationError(f"{key} has no value: set {key}=VALUE")
        value = node[name]
        if value is None and type(None) not in alternatives(hint):
            raise ConfigurationError(f"{key}=null is not possible: set a value, or leave it out for the default")
        part = dataclass_of(hint)
        if part is not None and isinstance(value, DictConfig):
            _refuse_foreign(value, part, f"{key}.")


def _removed(key: str) -> str:
    return f"~{key} removes a key that every experiment has: set it, or leave it as it is"


def refuse_overrides(overrides: Sequence[str]) -> None:
    """Refuse settings that Hydra would complain about in several lines, or not at all.

    Args:
        overrides: As on the command line: `group=option`, `key=value`.

    Raises:
        ConfigurationError: Naming the first setting that cannot be read, with how to write it.
    """
    parser = OverridesParser.create()
    for text in overrides:
        key, _, typed = text.partition("=")
        refuse_secrets(typed, key.lstrip("+~"))  # before anything repeats it
        try:
            override = parser.parse_overrides([text])[0]
        except (OverrideParseException, ValueError) as error:  # of a number with more digits than Python reads
            raise ConfigurationError(_unreadable(text)) from error
        leaf = override.key_or_group in key_types() and dataclass_of(key_types()[override.key_or_group]) is None
        if override.is_delete() and leaf:  # Hydra says of one that is null that it does not exist
            raise ConfigurationError(_removed(override.key_or_group))
        value = override.value()
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ConfigurationError(f"{override.key_or_group} is not possible: the number has too many digits")
        refuse_secrets(_plain(value), override.key_or_group)
        if override.key_or_group.startswith("hydra."):
            _refuse_hydra_key(override)
        _refuse_null_group(override, text)
        _refuse_range(override, text)


def _plain(value: object) -> object:
    """A value of an override as plain values: what was quoted, and what a sweep runs through."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, ChoiceSweep):
        return [_plain(one) for one in value.list]
    if isinstance(value, dict):
        return {str(_plain(name)): _plain(entry) for name, entry in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _unreadable(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals:
        groups = [name for name, hint in key_types().items() if dataclass_of(hint) and "." not in name]
        meant = did_you_mean(key, [*key_types(), *groups])
        return f"{text} is neither a setting (KEY=VALUE) nor an option{meant}"
    if not key:
        return f"{text} has no key: write KEY=VALUE, without spaces around the ="
    if value.startswith(("[", "{")) and value[-1] != {"[": "]", "{": "}"}[value[0]]:
        return f"{text} cannot be read: its {value[0]} is not closed"
    if value.startswith("["):
        example = shlex.quote(f'{key}=["A","B"]')
        return f"{text} cannot be read: quote an entry that has other characters than letters and digits: {example}"
    return f"{text} cannot be read: quote a value that has = , : or brackets in it: {quoted(key, value)}"


def quoted(key: str, value: str) -> str:
    """A setting as it is written in a shell so that its value is one piece of text."""
    return shlex.quote(as_override(key, value))


def as_override(key: str, value: str) -> str:
    """A setting as Hydra reads it, its value one piece of text whatever characters it has."""
    # Hydra reads a backslash as it stands, unless nothing but backslashes is between it and a quotation mark.
    escaped = re.sub(r'(\\*)("|\Z)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), value)
    return f'{key}="{escaped}"'


def _refuse_hydra_key(override: Override) -> None:
    """Refuse a key that Hydra does not have, which `+` would add, and its callbacks, through which a sweep is run."""
    key = override.key_or_group
    if key == "hydra.callbacks" or key.startswith("hydra.callbacks."):
        raise ConfigurationError(f"{key} is the program's own: leave it as it is")
    if key in {"hydra.run.dir", "hydra.sweep.dir"} and str(override.value()).strip() == "":
        raise ConfigurationError(f"{key}= is not possible: name a folder (is a variable of the shell not set?)")
    schema: Any = HydraConf
    for name in key.split(".")[1:]:
        hints = get_type_hints(schema)
        if name not in hints:
            raise ConfigurationError(
                f"{key} is not a key of Hydra's configuration{did_you_mean(name, hints) or ': --hydra-help lists them'}"
            )
        schema = dataclass_of(hints[name])
        if schema is None:  # a value, or a dictionary of any names
            return


def _refuse_null_group(override: Override, text: str) -> None:
    key = override.key_or_group
    group = key in {"experiment", "hydra"} or key.startswith("hydra/") or dataclass_of(key_types().get(key)) is not None
    nullable = key in key_types() and type(None) in alternatives(key_types()[key])
    if group and not nullable and not override.is_delete() and override.value() is None:
        raise ConfigurationError(f"{text} is not possible: leave {key} out for its default, or name one of its options")


def several_values(text: str) -> str:
    """What is said of a setting with several values where there is no sweep."""
    key, _, value = text.partition("=")
    return (
        f"{text} has several values: for a sweep put -m before the settings, for one value quote it: "
        f"{quoted(key, value)}, for a list write {shlex.quote(f'{key}=[{value}]')}"
    )


def _refuse_range(override: Override, text: str) -> None:
    """Refuse a range of no values, or of more than fit into memory: Hydra makes a list of them."""
    value = override.value()
    if not isinstance(value, RangeSweep) or value.start is None or value.stop is None:
        return
    number = (value.stop - value.start) / (value.step or 1)
    if number <= 0:
        raise ConfigurationError(f"{text} has no values: a range goes from its first number up to one before its last")
    if not number <= MOST_EXPERIMENTS:
        raise ConfigurationError(f"{text} has {number:g} values: use at most {MOST_EXPERIMENTS}")
