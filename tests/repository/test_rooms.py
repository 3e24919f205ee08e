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
    {"api", "compare", "locate", "operations", "plan", "track", "__main__"},
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


def vllm_seen(path: Path) -> list[str]:
    """What a module of the phase knows of vLLM: names that it imports, and what it reads or calls of an engine."""
    tree = ast.parse(path.read_text())
    seen = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vllm":
            seen += [f"import {alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            seen += [f"import {alias.name}" for alias in node.names if alias.name.partition(".")[0] == "vllm"]
        elif isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if owner.lstrip("_") in {"llm", "llm_engine", "runner", "model_runner", "vllm_config"}:
                seen.append(f"{owner}.{node.attr}")
    return sorted(set(seen))


def test_vllm_is_read_in_the_engine_and_the_observer_alone() -> None:
    """The rest of a phase passes its objects on, by the names of their classes at the most."""
    passed_on = {"import LLM", "import SamplingParams", "import TokensPrompt"}
    found = {
        str(path.relative_to(PACKAGE)): sorted(set(vllm_seen(path)) - passed_on)
        for path in (PACKAGE / "phase").rglob("*.py")
        if path.name not in {"engine.py", "observer.py"}
    }
    assert {name: seen for name, seen in found.items() if seen} == {}


def test_an_attribute_of_vllm_that_is_read_elsewhere_is_seen(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("import vllm.envs\n\ndef peek(llm):\n    return llm.llm_engine.vllm_config\n")
    assert vllm_seen(planted) == ["import vllm.envs", "llm.llm_engine", "llm_engine.vllm_config"]


def test_facts_of_releases_stand_in_one_table() -> None:
    """Outside the phase, a release or a source file of vLLM is named where what is known of it stands, once."""
    release = re.compile(r"\bv?LLM 0\.\d+|\bvllm/[a-z_/0-9]+\.py")
    users = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.parts[len(PACKAGE.parts)] not in {"phase", "vllm_cpu"} and release.search(path.read_text())
    }
    # causes and untuned: the words of vLLM's own log
    assert users == {"config/backends.py", "launch/causes.py", "analysis/findings/untuned.py"}


def test_private_modules_of_hydra_are_imported_in_one_place() -> None:
    private = re.compile(r"^\s*(?:from|import) (?:hydra\._|omegaconf\._)", re.MULTILINE)
    users = {path.name for path in PACKAGE.rglob("*.py") if private.search(path.read_text())}
    assert users == {"hydra_internals.py"}
