"""What `--help` says of groups, presets and keys: read from `conf/`, and from the schema's types and docstrings."""

import ast
import enum
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bi_experiments.config import schema
from bi_experiments.config.keys import alternatives, dataclass_of, key_types
from bi_experiments.config.plain import as_text

STUB = "base_"
"""What the names of configurations begin with that options inherit from, and that are not options themselves."""

PRESETS = "experiment"
"""The group of the presets."""

WIDTH = 120
"""Columns of `--help`."""


def register() -> None:
    """Let `${options:}`, `${presets:}` and `${keys:}` in the YAML files stand for what the functions below return."""
    for name, text in (("options", options), ("presets", presets), ("keys", keys)):
        OmegaConf.register_new_resolver(name, text, replace=True)


def options() -> str:
    """The options of every group but the presets, one group a paragraph."""
    loader = GlobalHydra.instance().config_loader()
    groups = sorted(group for group in loader.list_groups("") if group not in {"hydra", PRESETS})
    width = max(map(len, groups))
    return "\n".join(_wrapped(f"  {group:{width}}  ", ", ".join(_names(group)), width + 4) for group in groups)


def presets() -> str:
    """The presets, one a paragraph, with the first sentence of their files' comments."""
    below = GlobalHydra.instance().config_loader().list_groups(PRESETS)
    names = [*_names(PRESETS), *(f"{folder}/{name}" for folder in below for name in _names(f"{PRESETS}/{folder}"))]
    width = max(map(len, names))
    return "\n".join(_wrapped(f"  {name:{width}}  ", _first_sentence(name), width + 4) for name in names)


def keys(*, _root_: DictConfig) -> str:
    """Every key with its value and its meaning, group by group.

    Args:
        _root_: The composed configuration, whose values are shown.
    """
    docs, lines = docstrings(), []
    of_groups = {key: dataclass_of(hint) is not None or "." in key for key, hint in key_types().items()}
    for key in sorted(of_groups, key=of_groups.__getitem__):
        hint = key_types()[key]
        if "." not in key and dataclass_of(hint) is not None:
            lines += ["", f"  {key}: {docs[key]}"]
            continue
        if key.startswith("model.seeded."):
            continue  # the shape of a checkpoint that a preset makes
        meaning = " ".join(part for part in (docs[key], _choices(hint)) if part)
        lines.append(_wrapped(f"  {key}={_value(_root_, key)}  ", meaning, 8))
    return "\n".join(lines)


def _wrapped(head: str, text: str, indent: int) -> str:
    """A text behind its head, in lines of `WIDTH`."""
    lines = textwrap.wrap(
        head + text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


def docstrings() -> Mapping[str, str]:
    """Every key of the schema, dotted, with the first sentence of the docstring below it."""
    written: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(schema)).body:
        if isinstance(node, ast.ClassDef):
            written |= {(node.name, field): text for field, text in _documented(node)}
    found: dict[str, str] = {}

    def walk(owner: type, prefix: str) -> None:
        for key, hint in key_types().items():
            parent, _, name = key.rpartition(".")
            if parent == prefix:
                found[key] = written.get((owner.__name__, name), "")
                part = dataclass_of(hint)
                if part is not None:
                    walk(part, key)

    walk(schema.ExperimentConfig, "")
    return found


def _documented(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            yield field.target.id, " ".join(str(below.value.value).replace("`", "").split())


def _choices(hint: Any) -> str:  # noqa: ANN401  a type hint may be anything
    enums = [one for one in alternatives(hint) if isinstance(one, type) and issubclass(one, enum.Enum)]
    return f"({' | '.join(str(one.value) for one in enums[0])})" if enums else ""


def _value(root: DictConfig, key: str) -> str:
    try:
        value = OmegaConf.select(root, key)
    except OmegaConfBaseException:
        return "?"
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=False)
    return as_text(value.name if isinstance(value, enum.Enum) else value)


def _names(group: str) -> list[str]:
    found = GlobalHydra.instance().config_loader().get_group_options(group)
    return sorted(name for name in found if not name.startswith(STUB))


def _first_sentence(preset: str) -> str:
    """The first sentence of a preset's file, after the package and the command that uses it."""
    for element in GlobalHydra.instance().config_loader().get_search_path().get_path():
        path = Path(str(element.path).removeprefix("file://")) / PRESETS / f"{preset}.yaml"
        if not path.is_file():
            continue
        comments = re.findall(r"^#(?! @package| python -m) ?(.*)$", path.read_text(), re.MULTILINE)
        return re.split(r"(?<=\.)\s", " ".join(comments), maxsplit=1)[0]
    return ""
