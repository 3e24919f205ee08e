"""`python -m bi_experiments.phase.arguments`: the engine arguments of this environment's vLLM, from its source.

Importing vLLM takes seconds; its source says the names at once (`EngineArgs`, `LLM.__init__`, and the classes of
`vllm/config` that arguments are made into).
"""

import ast
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_PLAIN = frozenset({"int", "float", "bool", "str", "None"})


class Argument(NamedTuple):
    """What is known of an engine argument."""

    keys: list[str] | None
    """Of the dictionary that it takes; None: any, or no dictionary."""
    types: list[str]
    """Names of the plain types that it takes; empty: others too, or choices."""


def engine_arguments() -> dict[str, Argument]:
    """The arguments of `vllm.LLM`.

    Empty where vLLM's source is not there, or is of a release that keeps them elsewhere.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return {}
    package = Path(spec.submodule_search_locations[0])
    try:
        configs = dict(_classes(*sorted((package / "config").glob("*.py"))))
        engine = dict(_classes(package / "engine" / "arg_utils.py"))["EngineArgs"]
        llm = dict(_classes(package / "entrypoints" / "llm.py"))["LLM"]
    except (OSError, SyntaxError, ValueError, KeyError):  # SyntaxError: written for a newer Python
        return {}
    fields = _parameters(llm) | dict(_fields(engine))
    return {name: Argument(_keys(name, hint, configs), _types(hint)) for name, hint in fields.items()}


def _classes(*files: Path) -> Iterator[tuple[str, ast.ClassDef]]:
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                yield node.name, node


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr | None]]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            yield line.target.id, line.annotation


def _parameters(node: ast.ClassDef) -> dict[str, ast.expr | None]:
    """Those of the class's constructor."""
    made = next(one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__")
    return {one.arg: one.annotation for one in (*made.args.args[1:], *made.args.kwonlyargs)}


def _keys(name: str, hint: ast.expr | None, configs: Mapping[str, ast.ClassDef]) -> list[str] | None:
    if hint is None or not name.endswith("_config"):
        return None
    named = [one.id for one in ast.walk(hint) if isinstance(one, ast.Name) and one.id in configs]
    if len(named) != 1:
        return None
    keys: list[str] = []
    node = configs[named[0]]
    while True:
        keys += [key for key, _ in _fields(node)]
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        if not node.bases:
            return keys
        if len(node.bases) != 1 or not bases or bases[0] not in configs:
            return None  # what it inherits is not known
        node = configs[bases[0]]


def _types(hint: ast.expr | None) -> list[str]:
    names = ast.unparse(hint).split(" | ") if hint is not None else []
    return names if _PLAIN.issuperset(names) else []


if __name__ == "__main__":
    sys.stdout.write(json.dumps(engine_arguments()) + "\n")
