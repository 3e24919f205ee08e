"""Where a trace says that the time went: own time, launches, steps, and what cannot be read."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bi_experiments.phase.profilers.chrome_trace import (
    MOST_CHARACTERS,
    MOST_OPERATIONS,
    REST,
    TraceError,
    WorkerProfile,
    mean,
    read,
)
from bi_experiments.records import Operation, ProfiledStep, StepsTime

PREFILL, DECODE, OUTSIDE = ProfiledStep
STEPS = {"prefill": "execute_context_2(64)_generation_0(0)", "decode": "execute_context_0(0)_generation_2(2)"}


def event(cat: str, name: str, ts: float, dur: float, tid: int = 1, correlation: int | None = None) -> dict[str, Any]:
    args = {} if correlation is None else {"correlation": correlation}
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "ts": ts, "dur": dur, "args": args}


def step(kind: str, ts: float, dur: float) -> dict[str, Any]:
    return event("user_annotation", STEPS[kind], ts, dur)


def launch(ts: float, correlation: int, name: str = "cudaLaunchKernel") -> dict[str, Any]:
    return event("cuda_runtime", name, ts, 1, correlation=correlation)


def kernel(name: str, ts: float, dur: float, correlation: int, stream: int = 7) -> dict[str, Any]:
    return event("kernel", name, ts, dur, stream, correlation)


METADATA = {"ph": "M", "name": "process_name", "pid": 1, "ts": 0, "args": {"name": "python", "correlation": "none"}}


def written(folder: Path, *events: dict[str, Any]) -> Path:
    path = folder / "rank0.pt.trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"schemaVersion": 1, "traceEvents": [METADATA, *events]}).encode()))
    return path


def times(profile: WorkerProfile) -> dict[tuple[str, ProfiledStep], tuple[int, float]]:
    """Calls and microseconds by name and kind of step."""
    return {(one.name, one.steps): (one.calls, round(1e6 * one.time_s, 6)) for one in profile.operations}


def test_an_operator_has_the_time_that_its_callees_do_not(tmp_path: Path) -> None:
    profile = read(
        written(
            tmp_path,
            step("prefill", 100, 100),
            event("cpu_op", "aten::linear", 110, 50),
            event("cpu_op", "aten::mm", 120, 30),
            event("cpu_op", "aten::empty", 125, 5),
            event("cpu_op", "aten::mul", 170, 10),
        )
    )
    assert not profile.on_device
    assert times(profile) == {
        ("aten::linear", PREFILL): (1, 20),
        ("aten::mm", PREFILL): (1, 25),
        ("aten::empty", PREFILL): (1, 5),
        ("aten::mul", PREFILL): (1, 10),
    }


def test_what_vllms_operator_calls_says_so(tmp_path: Path) -> None:
    profile = read(
        written(
            tmp_path,
            step("decode", 0, 100),
            event("cpu_op", "vllm::unified_attention_with_output", 10, 50),
            event("cpu_op", "aten::bmm", 20, 30),
            event("cpu_op", "aten::bmm", 70, 10),
        )
    )
    assert {(one.name, one.within) for one in profile.operations} == {
        ("vllm::unified_attention_with_output", None),
        ("aten::bmm", "vllm::unified_attention_with_output"),
        ("aten::bmm", None),
    }


def test_an_operator_belongs_to_the_last_step_that_had_begun(tmp_path: Path) -> None:
    profile = read(
        written(
            tmp_path,
            event("cpu_op", "aten::early", 0, 5),
            step("prefill", 100, 50),
            event("cpu_op", "aten::sampled", 160, 10),
            step("decode", 200, 50),
            event("cpu_op", "aten::decoded", 210, 10),
        )
    )
    assert times(profile) == {
        ("aten::early", OUTSIDE): (1, 5),
        ("aten::sampled", PREFILL): (1, 10),
        ("aten::decoded", DECODE): (1, 10),
    }
    assert [(one.steps, one.number, round(1e6 * one.time_s)) for one in profile.steps] == [
        (PREFILL, 1, 100),
        (DECODE, 1, 50),
    ]


def test_operators_of_other_threads_are_left_out(tmp_path: Path) -> None:
    other = event("cpu_op", "aten::copy_", 10, 50, tid=2)
    profile = read(written(tmp_path, step("decode", 0, 100), event("cpu_op", "aten::mm", 10, 20), other))
    assert times(profile) == {("aten::mm", DECODE): (1, 20)}


def test_a_kernel_belongs_to_the_step_that_launched_it(tmp_path: Path) -> None:
    """The host runs ahead: the kernels of the first step run while the second one is launched."""
    profile = read(
        written(
            tmp_path,
            step("prefill", 0, 10),
            launch(1, 11),
            step("decode", 20, 10),
            launch(21, 12, "cudaGraphLaunch"),
            kernel("gemm", 30, 40, 11),
            kernel("gemm", 70, 5, 12),
            kernel("flash", 75, 5, 12),
            event("cpu_op", "aten::mm", 1, 5),
            event("gpu_user_annotation", STEPS["prefill"], 30, 40, tid=7),
        )
    )
    assert profile.on_device
    assert times(profile) == {("gemm", PREFILL): (1, 40), ("gemm", DECODE): (1, 5), ("flash", DECODE): (1, 5)}
    assert [(one.steps, one.number, round(1e6 * one.time_s)) for one in profile.steps] == [
        (PREFILL, 1, 40),
        (DECODE, 1, 10),
    ]


def test_time_in_which_two_kernels_run_counts_once(tmp_path: Path) -> None:
    profile = read(
        written(
            tmp_path,
            step("decode", 0, 100),
            launch(1, 1),
            kernel("ncclDevKernel", 10, 20, 1),
            kernel("gemm", 20, 30, 1, stream=8),
            event("gpu_memcpy", "Memcpy DtoH", 25, 5, 9, correlation=1),
        )
    )
    assert times(profile) == {
        ("ncclDevKernel", DECODE): (1, 20),
        ("gemm", DECODE): (1, 20),
        ("Memcpy DtoH", DECODE): (1, 0),
    }


def test_names_and_their_number_are_bounded(tmp_path: Path) -> None:
    many = [event("cpu_op", f"op{number}" + "x" * 1000, 10 * number, 9) for number in range(MOST_OPERATIONS + 10)]
    profile = read(written(tmp_path, step("decode", 0, 1e6), *many))
    assert len(profile.operations) == MOST_OPERATIONS + 1
    assert max(len(one.name) for one in profile.operations) == MOST_CHARACTERS
    (rest,) = (one for one in profile.operations if one.name == REST)
    assert (rest.calls, round(1e6 * rest.time_s)) == (10, 90)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"not gzip", "cannot be read"),
        (gzip.compress(b'{"traceEvents": ['), "cannot be read"),
        (gzip.compress(b'{"traceEvents": [{"ph": "X", "ts": "soon"}]}'), "cannot be read"),
        (gzip.compress(b'{"traceEvents": []}'), "annotated no step"),
        (gzip.compress(b'{"traceEvents": []}')[:-6], "cannot be read"),
    ],
    ids=["not gzip", "broken off", "no number", "no step", "cut short"],
)
def test_a_trace_that_says_nothing_is_refused_in_a_sentence(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "broken.json.gz"
    path.write_bytes(data)
    with pytest.raises(TraceError, match=why):
        read(path)


def test_the_mean_counts_a_worker_that_did_not_run_an_operation() -> None:
    gemm = Operation(name="gemm", steps=DECODE, calls=4, time_s=2.0)
    nccl = Operation(name="nccl", steps=DECODE, calls=2, time_s=1.0)
    steps = (StepsTime(steps=DECODE, number=3, time_s=4.0),)
    whole = mean([WorkerProfile(True, steps, (gemm, nccl)), WorkerProfile(True, steps, (gemm,))])
    assert whole.steps == steps
    assert whole.operations == (
        gemm,
        Operation(name="nccl", steps=DECODE, calls=1, time_s=0.5),
    )
