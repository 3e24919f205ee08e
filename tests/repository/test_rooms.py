"""The house: imports run downwards only, and the map in the package's docstring names every room once."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import bi_experiments
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "bi_experiments"

FLOORS = (
    {"records", "errors", "vocabulary"},
    {"paths", "files", "wording", "vllm_cpu"},
    {"phase"},
    {"config"},
    {"analysis", "machine", "workload"},
    {"tracking", "launch"},
    {"report"},
    {"experiment", "localisation"},
    {"sweep"},
    {"api", "compare", "locate", "plan", "track", "__main__"},
)
"""The rooms from the ground up: each may import from lower floors, and from its own."""


def rooms(package: Path) -> set[str]:
    return {path.stem for path in package.iterdir() if path.stem not in {"__init__", "__pycache__", "conf", "py"}}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import from the package itself, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "bi_experiments":
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bi_experiments."):
            yield node.lineno, node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (
                (node.lineno, alias.name.split(".")[1]) for alias in node.names if alias.name.startswith("bi_experim")
            )


def imports_that_run_up(package: Path) -> list[str]:
    floor = {room: number for number, names in enumerate(FLOORS) for room in names}
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts == ("__init__",) or "plugin" in parts:  # the package's face; the package in which Hydra finds us
            continue
        found += [
            f"{path.relative_to(package)}:{line} imports {room}"
            for line, room in imports(path)
            if floor[room] > floor[parts[0]] or (floor[room] == floor[parts[0]] and room == "experiment" != parts[0])
        ]
    return found


def test_imports_run_downwards() -> None:
    assert imports_that_run_up(PACKAGE) == []


def test_an_import_that_runs_up_is_seen(tmp_path: Path) -> None:
    planted = tmp_path / "analysis" / "planted.py"
    planted.parent.mkdir()
    planted.write_text("def later() -> None:\n    from bi_experiments.report import text\n")
    assert imports_that_run_up(tmp_path) == ["analysis/planted.py:2 imports report"]


def test_every_room_has_a_floor() -> None:
    assert rooms(PACKAGE) == set().union(*FLOORS)


def test_the_map_names_every_room_once() -> None:
    named = re.findall(r"^\* `(\w+)", bi_experiments.__doc__ or "", re.MULTILINE)
    assert sorted(named) == sorted(rooms(PACKAGE))


def test_a_folder_says_what_it_is_for() -> None:
    for folder in {path.parent for path in PACKAGE.rglob("*.py") if "plugin" not in path.parts}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder
        assert len(list(folder.glob("*.py"))) >= 3, folder


def test_private_modules_of_hydra_are_imported_in_one_place() -> None:
    private = re.compile(r"^\s*(?:from|import) (?:hydra\._|omegaconf\._)", re.MULTILINE)
    users = {path.name for path in PACKAGE.rglob("*.py") if private.search(path.read_text())}
    assert users == {"hydra_internals.py"}
