"""Where the engines of the two arms differ, by what vLLM itself reports of them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bi_experiments.analysis.pairs import Pair, complete_pairs
from bi_experiments.config.plain import as_text
from bi_experiments.records import Arm, ExperimentResult, ObservedEngine, PhaseResult

FIELDS = (
    "device",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "attention_backend",
    "flash_attn_version",
    "compilation_mode",
    "enforce_eager",
    "cudagraph_mode",
    "cudagraph_sizes",
    "fusions",
    "prefix_caching",
    "chunked_prefill",
    "max_num_batched_tokens",
    "max_num_seqs",
    "async_scheduling",
    "all_reduce",
    "fp32_precision",
    "threads",
    "block_size",
    "kv_cache_tokens",
)
"""All that is compared, the most severe first: every field of `ObservedEngine` but the mode, which is to differ."""


LEAST_KV_CACHE_SHARE = 0.01
"""Share by which the KV caches of the arms differ at least: on an H100 they did by 0.3 and 0.4 % without a cause."""


class EngineDifference(NamedTuple):
    """A field that the arms do not have in common; the values as text."""

    field: str
    baseline: str
    second: str

    @property
    def name(self) -> str:
        """The field in running text."""
        return self.field.replace("_", " ")

    @property
    def change(self) -> str:
        """The two values, the baseline's first; where one continues the other, what it adds."""
        for arm, longer, shorter in (
            ("second arm", self.second, self.baseline),
            ("baseline", self.baseline, self.second),
        ):
            if longer.startswith(f"{shorter} "):
                return f"in the {arm} also {longer.removeprefix(f'{shorter} ')}"
        return f"{self.baseline} → {self.second}"


def engine_differences(pairs: Sequence[Pair]) -> tuple[EngineDifference, ...]:
    """Every field of the observed engines that differs between the arms, the most severe first.

    A setting differs when the launches of one arm report a value that those of the other do not. The capacity of the KV
    cache is what memory the engine found free: it differs when the ranges of the arms are apart by more than
    `LEAST_KV_CACHE_SHARE`.
    """
    baseline = [pair.baseline.observed for pair in pairs if pair.baseline.observed is not None]
    second = [pair.second.observed for pair in pairs if pair.second.observed is not None]
    if not baseline or not second:
        return ()
    return tuple(
        EngineDifference(field, _said(baseline, field), _said(second, field))
        for field in FIELDS
        if _differs(field, [getattr(one, field) for one in baseline], [getattr(one, field) for one in second])
    )


def _differs(field: str, baseline: Sequence[Any], second: Sequence[Any]) -> bool:
    if field == "kv_cache_tokens":
        low, high = sorted((baseline, second), key=max)
        return bool(max(low) < min(high) * (1 - LEAST_KV_CACHE_SHARE))
    return set(baseline) != set(second)


def _said(engines: Iterable[ObservedEngine], field: str) -> str:
    return " or ".join(dict.fromkeys(as_text(getattr(engine, field)) for engine in engines))


def engine_settings(phases: Sequence[PhaseResult]) -> dict[str, str]:
    """What vLLM reports of an experiment's engines, by field of `FIELDS` but the capacity of the KV cache.

    Values are text, the baseline's first where the arms differ; `-` where nothing was reported.
    """
    engines = [(phase.arm is Arm.BASELINE, phase.observed) for phase in phases if phase.observed is not None]
    arms = [[one for baseline, one in engines if baseline is wanted] for wanted in (True, False)]
    return {
        field: " → ".join(dict.fromkeys(_said(arm, field) for arm in arms if arm)) or "-"
        for field in FIELDS
        if field != "kv_cache_tokens"
    }


def engine_sentence(result: ExperimentResult) -> str | None:
    """What vLLM changed between the arms besides the mode; None when it reports nothing of the kind."""
    changed = changed_settings(result.phases)
    return None if changed is None else f"{changed_sentence(changed)}."


def changed_settings(phases: Iterable[PhaseResult]) -> str | None:
    """The same as a list with commas; None when vLLM reports nothing of the kind."""
    return ", ".join(f"{one.name} ({one.change})" for one in engine_differences(complete_pairs(phases))) or None


def changed_sentence(changed: str) -> str:
    """The sentence of that list, without its full stop."""
    return f"vLLM also changed other settings between the arms (baseline → second arm): {changed}"
