"""Faults that are planted into real models are named exactly: on Qwen3, Llama and a mixture of experts.

One engine an architecture, with all faults after one another (`locating.py`).
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import msgspec
import pytest

from bi_experiments.records import Location, ModuleDifference, ObservedEngine, from_json
from bi_experiments.report import reproduction
from tests.conftest import REPOSITORY
from tests.engine.faults import FAULTS
from tests.engine.locating import ARGUMENTS

pytestmark = pytest.mark.engine

SHAPE = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1024,
    "vocab_size": 2048,
    "dtype": "float32",
}
OVERRIDES = {
    "qwen3": [["tie_word_embeddings", False]],
    "llama": [["tie_word_embeddings", False]],
    "mixtral": [["num_local_experts", 4]],
}
KINDS = {"linear": "matrix multiplication", "attention": "attention", "norm": "norm", "lm_head": "LM head"}
VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TORCHDYNAMO_DISABLE": "1",
}
"""Of `experiment=cpu_demo`; others are the caller's."""
RANKS = {"VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, sorted(os.sched_getaffinity(0))[:2]))}
"""What vLLM asks for on the CPU where ranks share a NUMA node."""


def run(*command: str, folder: Path, mode: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, **VARIABLES, "PYTHONPATH": path, "VLLM_BATCH_INVARIANT": mode}
    variables |= RANKS if ranks > 1 else {}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=variables, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("located")


@cache
def checkpoint(architecture: str, place: Path) -> str:
    spec = json.dumps({"architecture": architecture, **SHAPE, "overrides": OVERRIDES[architecture]})
    made = run(
        "-m", "bi_experiments.phase.checkpoint", "--cache-dir", str(place), "--spec", spec, folder=place, mode="0"
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.strip().splitlines()[-1]


@cache
def located(
    architecture: str, mode: str, faults: tuple[str, ...], place: Path, ranks: int = 1, through: str = ""
) -> dict[str, Location]:
    """What is located on one engine, by fault; `through` is a script that starts it."""
    folder = place / f"{architecture}-{mode}-{ranks}{through}"
    folder.mkdir()
    script = [str(REPOSITORY / "tests" / "engine" / through)] if through else []
    settings = checkpoint(architecture, place), mode, str(ranks)
    ran = run(*script, "-m", "tests.engine.locating", *settings, *faults, folder=folder, mode=mode, ranks=ranks)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return {fault: from_json((folder / f"{fault}.json").read_bytes(), Location, fault) for fault in faults}


def first_of(location: Location) -> ModuleDifference:
    assert location.first is not None, location.stopped
    return location.first


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "architecture", ["qwen3", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("llama", "mixtral"))]
)
def test_a_planted_fault_is_named_exactly(architecture: str, fault: str, place: Path) -> None:
    location = located(architecture, "1", tuple(FAULTS), place)[fault]
    path, most_rows = FAULTS[fault]
    first = first_of(location)
    assert (first.module, first.kind) == (path, KINDS[fault])
    assert first.inputs_equal
    assert first.differing
    smallest = location.smallest
    assert smallest is not None
    assert smallest.first is not None
    assert smallest.first.module == path
    assert smallest.first.rows_in_batch == most_rows + 1
    assert first.rows_alone <= most_rows < first.rows_in_batch


def test_an_engine_that_schedules_ahead_is_observed_likewise(place: Path) -> None:
    faults = "linear", "attention"
    ahead = located("qwen3", "1", faults, place, through="scheduling_ahead.py")
    path = place / "qwen3-1-1scheduling_ahead.py" / "observed.json"
    assert from_json(path.read_bytes(), ObservedEngine, path).async_scheduling
    for fault in faults:
        first = first_of(ahead[fault])
        assert (first.module, first.kind) == (FAULTS[fault][0], KINDS[fault])
        assert first.inputs_equal


def test_of_several_ranks_the_one_with_the_fault_is_named(place: Path) -> None:
    location = located("qwen3", "1", ("linear",), place, ranks=2)["linear"]
    first = first_of(location)
    assert (first.module, first.kind, first.rank) == (FAULTS["linear"][0], "matrix multiplication and all-reduce", 1)
    assert first.inputs_equal
    assert {one.rank for one in location.layers} == {0, 1}


def test_the_baseline_names_an_operator_that_splits_its_work_and_from_how_many_rows_on(place: Path) -> None:
    location = located("qwen3", "0", ("none",), place)["none"]
    first = first_of(location)
    # Matrix multiplication, whose kernel follows from the rows, or attention, which splits a long context.
    assert first.kind in {"matrix multiplication", "attention"}
    assert first.inputs_equal
    assert location.smallest is not None
    assert location.smallest.first is not None
    assert location.smallest.first.rows_in_batch > location.smallest.first.rows_alone


@pytest.mark.parametrize(("fault", "status"), [("linear", 1), ("none", 0)])
def test_the_reproduction_shows_the_fault_with_vllm_alone(fault: str, status: int, place: Path) -> None:
    location = located("qwen3", "1", tuple(FAULTS), place)["linear"]
    engine = msgspec.structs.replace(ARGUMENTS, model=checkpoint("qwen3", place))
    text = reproduction.render(location, engine, {**VARIABLES, "VLLM_BATCH_INVARIANT": "1"}, "vLLM")
    assert text is not None
    (place / "repro.py").write_text(text)
    faults = str(REPOSITORY / "tests" / "engine" / "faults.py")
    ran = run(faults, fault, "repro.py", folder=place, mode="1")
    assert ran.returncode == status, ran.stderr[-3000:]
    assert ran.stdout.splitlines()[-1] == ("differs from output token 1 on" if status else "equal")
