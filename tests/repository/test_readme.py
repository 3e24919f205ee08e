"""The README's commands, as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bi_experiments.config.checks import check
from bi_experiments.config.compose import compose
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"python -m bi_experiments((?: +[\w@.+/-]+=[\w@.,/-]+| +-m)*)", README)))


@pytest.mark.parametrize("arguments", COMMANDS)
def test_every_command_composes_and_passes_the_checks(arguments: str) -> None:
    overrides = [word for word in shlex.split(arguments) if word != "-m"]
    for override in one_job(overrides):
        check(compose(override))


def one_job(overrides: list[str]) -> list[list[str]]:
    """The jobs of a sweep over at most one key; one job without a sweep."""
    swept = [override for override in overrides if "," in override]
    if not swept:
        return [overrides]
    key, _, values = swept[0].partition("=")
    fixed = [override for override in overrides if override not in swept]
    return [[*fixed, f"{key}={value}"] for value in values.split(",")]


def test_there_are_commands_to_test() -> None:
    assert len(COMMANDS) > 8


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([\w.-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([\w.-]+)`", README)) | set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert named
    assert named <= targets


def python_block(word: str) -> str:
    """The block of Python that has a word in it."""
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if word in block)
    return str(block)


@pytest.mark.engine
def test_the_script_that_shows_batch_invariance_prints_the_same_bits_in_the_mode(tmp_path: Path) -> None:
    (tmp_path / "invariance.py").write_text(python_block("logprob_bits"))
    (exported,) = re.findall(r"^export (VLLM_.*)", README, re.MULTILINE)
    variables = dict(word.split("=") for word in exported.split()) | {"VLLM_BATCH_INVARIANT": "1"}
    printed = subprocess.run(
        [sys.executable, "invariance.py"],
        cwd=tmp_path,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    alone, in_a_batch = re.findall(r"^(?:alone|in a batch) +((?: ?[0-9a-f]{8}){4})$", printed, re.MULTILINE)
    assert alone == in_a_batch


@pytest.mark.engine
def test_the_python_example_runs() -> None:
    example = python_block("run_benchmark_with_batch_invariant")
    names: dict[str, object] = {}
    exec(example, names)
    result = names["result"]
    assert isinstance(result, dict)
    assert set(result) == {
        "init_time",
        "avg_time",
        "min_time",
        "max_time",
        "total_tokens",
        "total_prompts",
        "throughput",
        "prompts_per_sec",
        "trial_times",
    }
    assert len(result["trial_times"]) == 2
    assert result["total_tokens"] == 8 * result["total_prompts"]
    assert result["throughput"] == pytest.approx(result["total_tokens"] / sum(result["trial_times"]))
    assert result["min_time"] <= result["avg_time"] <= result["max_time"]
