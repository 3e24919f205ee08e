"""The script for an issue of vLLM, run with a vLLM that has the fault or has not."""

import ast
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bi_experiments.records import Arm, BatchRequest, EngineSpec, Location, SmallestBatch
from bi_experiments.report.reproduction import engine_arguments, render

ENGINE = EngineSpec(
    model="some/model",
    dtype="bfloat16",
    tensor_parallel_size=2,
    pipeline_parallel_size=1,
    max_model_len=512,
    gpu_memory_utilization=0.4,
    max_num_seqs=8,
    max_num_batched_tokens=None,
    attention_backend="FLASH_ATTN",
    enforce_eager=True,
    enable_prefix_caching=False,
    async_scheduling=False,
    load_format="auto",
    trust_remote_code=False,
    quantization=None,
    distributed_executor_backend=None,
    extra={"seed": 3},
)
FAKE_VLLM = """
import os
from types import SimpleNamespace

assert os.environ["VLLM_BATCH_INVARIANT"] == "1"


class SamplingParams(SimpleNamespace):
    pass


class LLM:
    def __init__(self, **arguments):
        assert arguments["model"] == "some/model" and arguments["attention_config"] == {"backend": "FLASH_ATTN"}
        assert arguments["tensor_parallel_size"] == 2 and arguments["seed"] == 3 and arguments["enforce_eager"] is True

    def reset_prefix_cache(self):
        return True

    def generate(self, prompts, params, use_tqdm):
        together = sum(len(prompt["prompt_token_ids"]) for prompt in prompts)
        fault = os.environ.get("FAULT") if together > 8 else None
        outputs = []
        for prompt, one in zip(prompts, params):
            ids = prompt["prompt_token_ids"]
            asked = SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=None)
            error = 1e-7 if fault == "yes" else 0.0
            if one.prompt_logprobs is not None:
                error = 1e-7 if fault == "prompt" else 0.0
                asked.prompt_logprobs = [None] + [{each: SimpleNamespace(logprob=-1.0 - error)} for each in ids[1:]]
                error = 0.0
            entries = [{7: SimpleNamespace(logprob=-1.0 - error * (token > 0))} for token in range(one.max_tokens)]
            token = 8 if fault == "tokens" and one.logprobs is None else 7
            sample = SimpleNamespace(
                token_ids=[token] * one.max_tokens, logprobs=None if one.logprobs is None else entries
            )
            asked.outputs = [sample] * one.n
            outputs.append(asked)
        return outputs
"""


def location(*prompts: tuple[int, ...], position: int = 1) -> Location:
    requests = tuple(BatchRequest(prompt=one, max_tokens=3, temperature=0.0, seed=None, samples=1) for one in prompts)
    smallest = SmallestBatch(
        requests=requests,
        position=position,
        sample=0,
        first_difference=1,
        neighbours_before=len(requests) - 1,
        tried=0,
        whole=True,
    )
    return Location(
        arm=Arm.BATCH_INVARIANT,
        composition="batch_8",
        batch=0,
        position=0,
        sample=0,
        first_difference=1,
        smallest=smallest,
        logprobs=5,
    )


def script(found: Location) -> str:
    text = render(found, ENGINE, {"VLLM_BATCH_INVARIANT": "1"}, "vLLM 0.32.0")
    assert text is not None
    return text


def run(text: str, folder: Path, fault: str) -> subprocess.CompletedProcess[str]:
    (folder / "vllm.py").write_text(FAKE_VLLM)
    (folder / "repro.py").write_text(text)
    return subprocess.run(
        [sys.executable, folder / "repro.py"],
        env={"FAULT": fault},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_ends_with_1_while_the_fault_is_there_and_with_0_without_it(tmp_path: Path) -> None:
    text = script(location((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    with_fault = run(text, tmp_path, "yes")
    assert (with_fault.returncode, with_fault.stdout) == (1, "differs from output token 2 on\n"), with_fault.stderr
    without = run(text, tmp_path, "")
    assert (without.returncode, without.stdout) == (0, "equal\n"), without.stderr


@pytest.mark.parametrize(
    ("asked", "fault", "said"),
    [
        ({"score_prompt": True}, "prompt", "differs from prompt token 2 on\n"),
        ({"logprobs": False}, "tokens", "differs from output token 1 on\n"),
    ],
)
def test_what_was_asked_of_logprobs_is_asked_again(
    asked: dict[str, bool], fault: str, said: str, tmp_path: Path
) -> None:
    found = location((1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert found.smallest is not None
    requests = tuple(msgspec.structs.replace(one, **asked) for one in found.smallest.requests)
    smallest = msgspec.structs.replace(found.smallest, requests=requests)
    text = script(msgspec.structs.replace(found, smallest=smallest))
    with_fault = run(text, tmp_path, fault)
    assert (with_fault.returncode, with_fault.stdout) == (1, said), with_fault.stderr
    without = run(text, tmp_path, "")
    assert (without.returncode, without.stdout) == (0, "equal\n"), without.stderr


def test_one_bit_of_a_float_is_a_difference(tmp_path: Path) -> None:
    text = script(location((1, 2, 3, 4, 5), (6, 7, 8, 9)))
    assert run(text, tmp_path, "yes").returncode == 1


def test_a_vllm_that_cannot_run_it_is_neither(tmp_path: Path) -> None:
    text = script(location((1, 2, 3), (4, 5, 6), (7, 8, 9))).replace("some/model", "other/model")
    failed = run(text, tmp_path, "yes")
    assert failed.returncode == 125
    assert "AssertionError" in failed.stderr


@pytest.mark.parametrize("requests", [1, 2, 4, 5, 128])
def test_the_script_has_under_60_lines_and_imports_vllm_alone(requests: int) -> None:
    text = script(location(*[tuple(range(300))] * requests, position=0))
    assert len(text.splitlines()) < 60
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imported}
    assert modules == {"os", "struct", "sys", "traceback", "vllm"}


def test_what_else_is_said_of_attention_stands_beside_its_backend() -> None:
    engine = msgspec.structs.replace(ENGINE, extra={"attention_config": {"flash_attn_version": 2}, "seed": 3})
    arguments = engine_arguments(engine)
    assert arguments["attention_config"] == {"backend": "FLASH_ATTN", "flash_attn_version": 2}
    assert arguments["seed"] == 3
    assert "attention_config" not in engine_arguments(msgspec.structs.replace(ENGINE, attention_backend=None))


def test_without_a_batch_there_is_no_script() -> None:
    assert render(msgspec.structs.replace(location((1,), (2,)), smallest=None), ENGINE, {}, "vLLM") is None
