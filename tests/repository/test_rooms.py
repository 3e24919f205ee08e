"""The house: imports run downwards only, and the map in the package's docstring names every room once."""

import ast
import re
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

import bi_experiments
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "bi_experiments"

FLOORS = (
    {"records", "errors", "signals", "vocabulary"},
    {"paths", "files", "wording", "vllm_cpu"},
    {"phase"},
    {"config"},
    {"analysis", "claim", "identity", "machine", "workload"},
    {"tracking", "launch"},
    {"report"},
    {"experiment", "localisation"},
    {"sweep"},
    {"api", "compare", "locate", "operations", "plan", "track", "__main__"},
)
"""The rooms from the ground up: each may import from lower floors, and from its own."""

DOORS = FLOORS[-1]
"""Commands: what two of them need is in a room."""

KNOW = {"phase": {"records", "vocabulary", "phase"}, "vllm_cpu": {"vllm_cpu"}, "records": set(), "vocabulary": set()}
"""All that these may import of the project: a phase's environment may have neither Hydra nor MLflow."""


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


def modules(package: Path) -> Iterator[tuple[Path, str]]:
    """Every module with the room that it is in."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts != ("__init__",) and "plugin" not in parts:  # the package's face; the package in which Hydra finds us
            yield path, parts[0]


def forbidden_imports(package: Path) -> list[str]:
    """Imports that run up, those of a door by another, and those beyond what a room may know."""
    floor = {room: number for number, names in enumerate(FLOORS) for room in names}

    def forbidden(room: str, imported: str) -> bool:
        if room in KNOW:
            return imported not in KNOW[room]
        same = floor[imported] == floor[room]
        return floor[imported] > floor[room] or (same and imported != room and imported in {"experiment", *DOORS})

    return [
        f"{path.relative_to(package)}:{line} imports {imported}"
        for path, room in modules(package)
        for line, imported in imports(path)
        if forbidden(room, imported)
    ]


def imported_modules(path: Path, known: Set[str]) -> set[str]:
    """Dotted names of the modules among `known` that a module imports, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else node.module for name in named}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def cycles(package: Path) -> list[str]:
    """The modules that import themselves by way of others."""
    paths = {
        ".".join(("bi_experiments", *path.relative_to(package).with_suffix("").parts)).removesuffix(".__init__"): path
        for path, _ in modules(package)
    }
    graph = {name: imported_modules(path, paths.keys()) for name, path in paths.items()}

    def reached(name: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[name])
        while waiting:
            if (module := waiting.pop()) not in seen:
                seen.add(module)
                waiting += graph[module]
        return seen

    return [name for name in graph if name in reached(name)]


def plant(package: Path, module: str, text: str) -> None:
    (package / module).parent.mkdir(exist_ok=True)
    (package / module).write_text(text)


def test_imports_run_downwards() -> None:
    assert forbidden_imports(PACKAGE) == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("analysis/planted.py", "report"),
        ("phase/planted.py", "files"),
        ("phase/planted.py", "errors"),
        ("vllm_cpu/planted.py", "records"),
        ("records.py", "vocabulary"),
        ("locate.py", "track"),
        ("localisation.py", "experiment"),
    ],
)
def test_an_import_that_is_not_allowed_is_seen(tmp_path: Path, module: str, imported: str) -> None:
    plant(tmp_path, module, f"def later() -> None:\n    from bi_experiments.{imported} import planted\n")
    assert forbidden_imports(tmp_path) == [f"{module}:2 imports {imported}"]


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert cycles(PACKAGE) == []


def test_a_cycle_on_one_floor_is_seen(tmp_path: Path) -> None:
    plant(tmp_path, "analysis/one.py", "from bi_experiments.analysis import two\n")
    plant(tmp_path, "analysis/two.py", "def later() -> None:\n    import bi_experiments.analysis.three\n")
    plant(tmp_path, "analysis/three.py", "from bi_experiments.analysis.one import something\n")
    plant(tmp_path, "analysis/four.py", "from bi_experiments.analysis import one\n")
    assert cycles(tmp_path) == [f"bi_experiments.analysis.{name}" for name in ("one", "three", "two")]


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


def test_locks_are_taken_in_one_place() -> None:
    users = {path.name for path in PACKAGE.rglob("*.py") if re.search(r"^\s*import fcntl", path.read_text(), re.M)}
    assert users == {"files.py"}


def work_in_constructors(path: Path) -> list[str]:
    """What a constructor does beyond assigning: statements of other kinds, and calls to the operating system."""
    system = {"os", "subprocess", "tempfile", "threading", "time", "shutil"}
    harmless = {"threading.Event", "threading.Lock", "threading.Semaphore"}
    found = []
    for constructor in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(constructor, ast.FunctionDef) and constructor.name == "__init__"):
            continue
        for statement in constructor.body:
            text = ast.unparse(statement)
            assigns = isinstance(statement, ast.Assign | ast.AnnAssign | ast.Pass)
            says = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            calls = {ast.unparse(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)} - harmless
            works = any(call == "open" or call.partition(".")[0] in system for call in calls)
            if works or not (assigns or says or text.startswith("super().__init__(")):
                found.append(f"{path.name}:{statement.lineno} {text.splitlines()[0]}")
    return found


def test_a_constructor_assigns() -> None:
    assert [work for path in sorted(PACKAGE.rglob("*.py")) for work in work_in_constructors(path)] == []


def test_a_constructor_that_works_is_seen(tmp_path: Path) -> None:
    plant(
        tmp_path,
        "planted.py",
        "class Planted:\n"
        "    def __init__(self, path):\n"
        '        """Open it."""\n'
        "        self.lock = threading.Lock()\n"
        "        self.file = open(path)\n"
        "        self.started = time.monotonic()\n"
        "        if not path:\n"
        "            raise ValueError\n"
        "        threading.Thread(target=print).start()\n",
    )
    assert work_in_constructors(tmp_path / "planted.py") == [
        "planted.py:5 self.file = open(path)",
        "planted.py:6 self.started = time.monotonic()",
        "planted.py:7 if not path:",
        "planted.py:9 threading.Thread(target=print).start()",
    ]
