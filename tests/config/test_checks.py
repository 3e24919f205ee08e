import pytest

from bi_experiments.config.checks import check
from bi_experiments.config.compose import compose
from bi_experiments.errors import ConfigurationError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workload.min_prompt=3000"], "workload.min_prompt=3000 .*workload.max_prompt=2048"),
        (["workload.max_prompt=5000"], "model.max_model_len=5120 .*at least 5128 tokens"),
        (["workload.max_batch_size=0"], "workload.max_batch_size=0"),
        (["workload.num_trials=0"], "workload.num_trials=0"),
        (["workload.temperature=-0.1"], "workload.temperature=-0.1"),
        (["workload.top_p=0"], "workload.top_p=0"),
        (["tp=0"], "tp=0"),
        (["pp=-1"], "pp=-1"),
        (["protocol.pairs=0"], "protocol.pairs=0"),
        (["model.gpu_memory_utilization=1.5"], "model.gpu_memory_utilization=1.5"),
        (["protocol=rigorous", "protocol.max_pairs=4"], "protocol.max_pairs=4 .*protocol.pairs=8"),
        (["protocol.interleave=trial", "model.gpu_memory_utilization=0.5"], "protocol.interleave=trial .*1.00 of"),
        (["backend.attention=XFORMERS"], "XFORMERS does not exist: vLLM removed it in 0.12; use one of FLASH_ATTN,"),
        (["backend.attention=FLASH_ATTENTION"], "FLASH_ATTENTION is not known.*use one of FLASH_ATTN,"),
        (["model=deepseek", "backend=flash_attn"], "FLASH_ATTN cannot run deepseek.*use one of FLASH_ATTN_MLA"),
        (["model=qwen3", "backend=triton_mla"], "TRITON_MLA cannot run Qwen"),
        (["model.name=deepseek-ai/DeepSeek-R1"], "model.name=deepseek-ai/DeepSeek-R1 has multi-head latent"),
        (["verify.compositions=[batch_2,sideways]"], "verify.compositions has 'sideways'.*use one of"),
        (["verify.max_tokens=6000"], "verify.max_tokens=6000 .*model.max_model_len=5120"),
        (["experiment=cpu_demo", "backend.enforce_eager=false"], "would compile nothing.*TORCHDYNAMO_DISABLE=0 too"),
        (["backend=cpu", "backend.attention=FLASH_ATTN"], "FLASH_ATTN runs on cuda.*use one of CPU_ATTN"),
    ],
)
def test_contradictions_are_refused_with_what_to_type_instead(overrides: list[str], message: str) -> None:
    config = compose(overrides)
    with pytest.raises(ConfigurationError, match=message) as caught:
        check(config)
    assert "\n" not in str(caught.value)
