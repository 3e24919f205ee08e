"""The range of every number of the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Range:
    """The numbers that a key may have."""

    low: float
    high: float
    above: bool = False
    """Whether `low` itself is left out."""

    def __contains__(self, value: float) -> bool:
        """Whether the number is one of them; NaN is not."""
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        """As in a message."""
        begin, end = ("above", "and at most") if self.above else ("from", "to")
        return f"{begin} {self.low:,.12g} {end} {self.high:,.12g}".replace(",", "")


_SEED = Range(0, 2**32 - 1)  # what every generator of random numbers takes
_TOKENS = Range(1, 10_000_000)
_SHARE = Range(0, 1, above=True)
_TIMEOUT_S = Range(0, 31_536_000, above=True)  # a year

NUMBERS: Mapping[str, Range] = MappingProxyType(
    {
        "tp": Range(1, 1024),
        "pp": Range(1, 1024),
        "seed": _SEED,
        "model.max_model_len": _TOKENS,
        "model.gpu_memory_utilization": _SHARE,
        "model.parameters_billion": Range(0, 100_000, above=True),
        "model.bytes_per_parameter": Range(0, 8, above=True),
        "model.seeded.hidden_size": Range(1, 65_536),
        "model.seeded.num_hidden_layers": Range(1, 1024),
        "model.seeded.num_attention_heads": Range(1, 1024),
        "model.seeded.num_key_value_heads": Range(1, 1024),
        "model.seeded.head_dim": Range(1, 1024),
        "model.seeded.intermediate_size": Range(1, 1_000_000),
        "model.seeded.vocab_size": Range(257, 1_000_000),  # a token for every byte, and one for the end
        "model.seeded.seed": _SEED,
        "backend.max_num_batched_tokens": _TOKENS,
        "workload.max_batch_size": Range(1, 65_536),
        "workload.num_trials": Range(1, 10_000),
        "workload.min_prompt": _TOKENS,
        "workload.max_prompt": _TOKENS,
        "workload.max_tokens": _TOKENS,
        "workload.temperature": Range(0, 100),
        "workload.top_p": _SHARE,
        "workload.sampling_seed": _SEED,
        "protocol.pairs": Range(1, 1000),
        "protocol.seed": _SEED,
        "protocol.warmup": Range(0, 1000),
        "protocol.inject_pct": Range(0, 1000),
        "protocol.equivalence_pct": Range(0, 100, above=True),
        "protocol.target_half_width_pct": Range(0, 100, above=True),
        "protocol.max_pairs": Range(1, 1000),
        "protocol.launches_per_cache": Range(1, 1000),
        "protocol.time_budget_min": Range(0, 1_000_000, above=True),
        "verify.probes": Range(1, 10_000),
        "verify.max_tokens": _TOKENS,
        "verify.logprobs": Range(1, 20),  # as many as vLLM returns
        "verify.trial_prompts": Range(1, 10_000),
        "verify.time_share": Range(0, 1000),
        "verify.seed": _SEED,
        **{f"runtime.{step}_timeout_s": _TIMEOUT_S for step in ("phase", "init", "warmup", "trial", "probe")},
        "gate.max_overhead_pct": Range(0, 100_000),
        "sweep.cores": Range(1, 65_536),
    }
)
"""The range of every number of the configuration, by its key; one that may be null is not looked at then."""
