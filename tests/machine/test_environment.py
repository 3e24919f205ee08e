import os
import subprocess
from pathlib import Path

import pytest

from bi_experiments.machine.environment import checkout_state, describe, installed_versions, public_variables
from bi_experiments.records import Environment, from_json, to_json


def test_it_describes_this_machine_and_can_be_stored() -> None:
    environment = describe()
    assert from_json(to_json(environment), Environment, "memory") == environment
    assert environment.cpu_count == len(os.sched_getaffinity(0))
    assert environment.memory_bytes > 0
    assert environment.cpu
    assert environment.versions["msgspec"]
    assert "open_files" in environment.limits


def test_only_installed_packages_have_a_version() -> None:
    assert list(installed_versions(("msgspec", "no-such-distribution"))) == ["msgspec"]


def test_variables_that_change_a_result_are_kept() -> None:
    variables = {"VLLM_BATCH_INVARIANT": "1", "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0", "TORCH_LOGS": "all"}
    assert public_variables(variables, Path("/home/ann")) == variables


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLLM_API_KEY", "abc"),
        ("VLLM_SOME_TOKEN", "abc"),
        ("HF_TOKEN", "abc"),
        ("MLFLOW_TRACKING_PASSWORD", "abc"),
        ("SLURM_JOB_USER", "ann"),
        ("SLURM_JOB_ACCOUNT", "chemistry"),
        ("PATH", "/usr/bin"),
        ("VLLM_PROXY", "https://ann:secret@proxy.example:8080"),
        ("VLLM_SOME_URL", "https://host/blob?sig=abc&token=def"),
    ],
)
def test_secrets_and_everything_else_are_not(name: str, value: str) -> None:
    assert public_variables({name: value}, Path("/home/ann")) == {}


def test_no_secret_of_the_environment_is_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hush-1f0c"
    for name in (
        "HF_TOKEN",
        "VLLM_API_KEY",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "NCCL_SOME_SECRET",
    ):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://ann:{secret}@host/db")
    monkeypatch.setenv("VLLM_PROXY", f"https://ann:{secret}@host")
    monkeypatch.setenv("HOME", f"/home/{secret}")
    monkeypatch.setenv("VLLM_CACHE_ROOT", f"/home/{secret}/cache")
    record = to_json(describe()).decode()
    assert "~/cache" in record
    assert secret not in record


@pytest.mark.parametrize(
    ("home", "value", "expected"),
    [
        ("/home/ann", "/home/ann/.cache/vllm", "~/.cache/vllm"),
        ("/home/ann", "/opt/a.so:/home/ann/b.so", "/opt/a.so:~/b.so"),
        ("/home/ann", "/home/ann", "~"),
        ("/home/ann", "/home/anna/cache", "/home/anna/cache"),
        ("/", "/opt/cache", "/opt/cache"),
    ],
)
def test_home_folders_are_not_named(home: str, value: str, expected: str) -> None:
    assert public_variables({"VLLM_CACHE_ROOT": value}, Path(home)) == {"VLLM_CACHE_ROOT": expected}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_checkout_is_known_by_commit_and_by_whether_it_was_changed(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "--message=first")
    git(tmp_path, "tag", "--annotate", "--message=release", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert checkout_state(tmp_path) == (commit, False)
    (tmp_path / "code.py").write_text("2\n")
    assert checkout_state(tmp_path) == (commit, True)


def test_a_package_installed_inside_another_checkout_does_not_take_its_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=first")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    assert checkout_state(installed) == (None, None)
