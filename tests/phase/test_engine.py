"""What is passed on to vLLM besides the program's own arguments."""

from msgspec.structs import replace

from bi_experiments.config.compose import compose
from bi_experiments.launch.spec import engine_spec
from bi_experiments.phase.engine import further_arguments


def test_settings_of_attention_are_added_to_the_backend() -> None:
    spec = engine_spec(compose(["+backend.engine.attention_config={flash_attn_version:2}", "+backend.engine.x=1"]), "m")
    assert further_arguments(spec) == {"x": 1, "attention_config": {"flash_attn_version": 2, "backend": "FLASH_ATTN"}}


def test_without_a_backend_vllm_chooses() -> None:
    spec = replace(engine_spec(compose([]), "m"), attention_backend=None)
    assert further_arguments(spec) == {}
    assert further_arguments(replace(spec, extra={"attention_config": {"a": 1}})) == {"attention_config": {"a": 1}}
