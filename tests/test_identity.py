import os
from pathlib import Path

import pytest

from bi_experiments.config.compose import compose
from bi_experiments.config.plain import changes, recorded_configuration
from bi_experiments.errors import MachineError
from bi_experiments.identity import environment_of, identity
from bi_experiments.machine.interpreter import phase_versions

ENVIRONMENT = {"vllm": "0.32.0", "devices": "NVIDIA H100 80GB HBM3 79 GiB"}


def of(*overrides: str, **environment: str) -> str:
    return identity(recorded_configuration(compose(list(overrides))), ENVIRONMENT | environment).digest


def test_the_same_configuration_in_the_same_environment_is_the_same() -> None:
    assert of("tp=2") == of("tp=2")


@pytest.mark.parametrize(
    "override",
    [
        "tp=2",
        "seed=1",
        "workload.max_tokens=7",
        "protocol.pairs=5",
        "verify=off",
        "model=qwen3_8b",
        "runtime.python=/x",
    ],
)
def test_what_changes_the_result_changes_the_identity(override: str) -> None:
    assert of(override) != of()


@pytest.mark.parametrize(
    "override",
    [
        "tracking=off",
        "gate.max_overhead_pct=5",
        "sweep.resume=true",
        "runtime.phase_timeout_s=5",
        "verify.strict=false",
        "verify.strict_launches=true",
        "protocol.time_budget_min=5",
    ],
)
def test_what_changes_no_result_does_not(override: str) -> None:
    assert of(override) == of()


@pytest.mark.parametrize("environment", [{"vllm": "0.33.0"}, {"devices": "NVIDIA H200"}, {"torch": "2.14"}])
def test_another_environment_is_another_identity(environment: dict[str, str]) -> None:
    assert of(**environment) != of()


@pytest.mark.parametrize(
    ("environment", "alike"),
    [({}, True), ({"host": "b"}, True), ({"device UUIDs": "2"}, True), ({"vllm": "0.33.0", "host": "b"}, False)],
)
def test_another_machine_of_the_kind_is_alike(environment: dict[str, str], alike: bool) -> None:
    configuration = recorded_configuration(compose([]))
    here = identity(configuration, ENVIRONMENT | {"host": "a", "device UUIDs": "1"})
    assert here.alike(identity(configuration, ENVIRONMENT | {"host": "a", "device UUIDs": "1"} | environment)) == alike


def test_the_difference_is_named() -> None:
    old = identity(recorded_configuration(compose(["tp=1"])), ENVIRONMENT)
    new = identity(recorded_configuration(compose(["tp=2"])), ENVIRONMENT | {"vllm": "0.33.0"})
    assert changes(old.parts, new.parts) == ["tp 1 -> 2", "environment: vllm 0.32.0 -> 0.33.0"]
    assert changes(old.parts, old.parts) == []


def test_the_versions_are_those_of_the_phases_interpreter(fake_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "0.99.0")
    config = compose(["experiment=cpu_demo", f"runtime.python={fake_python}"])
    environment = environment_of(config)
    assert environment["vllm"] == "0.99.0"
    assert environment["cores"] == str(len(os.sched_getaffinity(0)))
    assert environment_of(compose(["experiment=cpu_demo", f"runtime.python={fake_python}", "sweep.cores=1"])) == (
        environment | {"cores": "1"}
    )


def test_an_interpreter_without_this_project_is_an_error() -> None:
    with pytest.raises(MachineError, match="install this project there"):
        phase_versions("/bin/false")
