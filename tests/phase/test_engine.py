"""What is passed on to vLLM, and what is read back from it."""

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from bi_experiments.config.compose import compose
from bi_experiments.launch.spec import engine_spec
from bi_experiments.phase.engine import build_engine, further_arguments, fusions, limits


def test_settings_of_attention_are_added_to_the_backend() -> None:
    spec = engine_spec(compose(["+backend.engine.attention_config={flash_attn_version:2}", "+backend.engine.x=1"]), "m")
    assert further_arguments(spec) == {"x": 1, "attention_config": {"flash_attn_version": 2, "backend": "FLASH_ATTN"}}


def test_without_a_backend_vllm_chooses() -> None:
    spec = replace(engine_spec(compose([]), "m"), attention_backend=None)
    assert further_arguments(spec) == {}
    assert further_arguments(replace(spec, extra={"attention_config": {"a": 1}})) == {"attention_config": {"a": 1}}


@pytest.mark.parametrize(
    ("setting", "passed"), [("null", {}), ("true", {"async_scheduling": True}), ("false", {"async_scheduling": False})]
)
def test_vllm_chooses_how_it_schedules_unless_the_setting_says_so(
    monkeypatch: pytest.MonkeyPatch, setting: str, passed: dict[str, bool]
) -> None:
    arguments: dict[str, object] = {}

    def engine(**given: object) -> SimpleNamespace:
        arguments.update(given)
        return SimpleNamespace(llm_engine=SimpleNamespace())

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=engine))
    build_engine(engine_spec(compose([f"backend.async_scheduling={setting}"]), "m"))
    assert {name: value for name, value in arguments.items() if name == "async_scheduling"} == passed


@pytest.mark.parametrize(
    ("stages", "ahead", "in_flight"), [(1, False, 0), (1, True, 1), (2, False, 1), (4, False, 3), (4, True, 4)]
)
def test_stages_of_a_pipeline_and_scheduling_ahead_keep_steps_in_flight(
    stages: int, ahead: bool, in_flight: int
) -> None:
    config = SimpleNamespace(
        compilation_config=SimpleNamespace(
            cudagraph_capture_sizes=[], compile_sizes=[], cudagraph_mode=SimpleNamespace(name="NONE")
        ),
        cache_config=SimpleNamespace(block_size=16, enable_prefix_caching=False),
        scheduler_config=SimpleNamespace(
            enable_chunked_prefill=True, long_prefill_token_threshold=0, async_scheduling=ahead
        ),
        parallel_config=SimpleNamespace(pipeline_parallel_size=stages),
    )
    core = SimpleNamespace(vllm_config=config, engine_core=SimpleNamespace())
    llm: Any = SimpleNamespace(llm_engine=core, collective_rpc=lambda _: [()])
    assert limits(llm, 512, 8, 512).steps_ahead == in_flight
    config.max_concurrent_batches = 2  # a release that says so itself
    assert limits(llm, 512, 8, 512).steps_ahead == 1


@dataclass
class Passes:
    """As vLLM's `PassConfig`: switches, None where its defaults were not decided, and numbers."""

    fuse_norm_quant: bool | None = True
    fuse_allreduce_rms: bool | None = None
    enable_qk_norm_rope_fusion: bool = False
    eliminate_noops: bool = True
    fi_allreduce_fusion_max_size_mb: float | None = 64


@pytest.mark.parametrize(
    ("mode", "passes", "quantized", "expected"),
    [
        ("VLLM_COMPILE", Passes(), False, "none"),
        ("VLLM_COMPILE", Passes(), True, "norm_quant"),
        ("VLLM_COMPILE", Passes(fuse_allreduce_rms=True), False, "allreduce_rms"),
        (
            "VLLM_COMPILE",
            Passes(fuse_allreduce_rms=True, enable_qk_norm_rope_fusion=True),
            True,
            "allreduce_rms norm_quant qk_norm_rope_fusion",
        ),
        ("NONE", Passes(fuse_allreduce_rms=True), True, "none"),
    ],
)
def test_fusions_are_those_that_can_change_a_kernel(mode: str, passes: Passes, quantized: bool, expected: str) -> None:
    compilation: Any = SimpleNamespace(mode=SimpleNamespace(name=mode), pass_config=passes)
    assert fusions(compilation, quantized=quantized) == expected
