"""Runs a phase with one thing of the CPU plugin broken: `python sabotage.py NAME -m MODULE ARGUMENT ...`.

Started instead of the phases' interpreter, so that the plugin itself needs no switch for it. The engine must be in
the phase's own process, as it is with `backend=cpu`.
"""

import random
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bi_experiments.vllm_cpu import activations, attention, linear

VOCABULARY = 8192
"""Rows of the demo model's LM head."""

ComputeRows = Callable[..., torch.Tensor]


def tiles_off() -> None:
    """PyTorch's matrix multiplication, whose kernel is chosen by the number of rows, instead of the tiles."""

    def cpu_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.nn.functional.linear(x, weight, bias)

    def dispatch(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = cpu_linear

    # The plugin knows its own layers by this.
    cpu_linear.__module__ = linear.__name__
    linear.dispatch_tiled_linear = dispatch


def invariant_baseline() -> None:
    """The plugin's kernels without the mode, so that the baseline cannot differ on any CPU."""
    linear.install()
    activations.install()
    attention.install()


def kv_split_on() -> None:
    """Attention that splits the keys of a request among threads, depending on what else there is to do."""
    attention.KV_SPLIT = "1"
    attention.split_queries = lambda metadata, tile: metadata


def above_256_tokens() -> None:
    """Linear layers that give other results in steps of more than 256 tokens."""
    change_rows(lambda out: out.mul_(1.01) if out.shape[0] > 256 else out)


def position_in_batch() -> None:
    """Linear layers that give other results behind the first row where eight prompts decode together.

    The LM head is left alone, since it has eight rows in the prefill of eight prompts too.
    """

    def change(out: torch.Tensor) -> None:
        if out.shape[0] == 8 and out.shape[1] != VOCABULARY:
            out[1:].mul_(1.01)

    change_rows(change)


@dataclass
class Step:
    """The step that runs: tokens of each request in it, and its context with them."""

    query_lens: tuple[int, ...] = ()
    seq_lens: tuple[int, ...] = ()
    decodes_before: int = 0
    """Steps since the last prefill."""

    @property
    def decodes_alone(self) -> bool:
        """Whether no prompt is processed in it."""
        return all(length == 1 for length in self.query_lens)


def change_in_steps(change: Callable[[torch.Tensor, Step], object]) -> None:
    """Have the output rows of every linear layer but the LM head changed in place, told which step it is."""
    step = Step()
    build: Callable[..., object] = attention.TiledMetadataBuilder.build

    def watched(builder: object, common_prefix_len: int, metadata: object, fast_build: bool = False) -> object:
        requests = metadata.num_reqs  # type: ignore[attr-defined]
        step.query_lens = tuple(metadata.query_start_loc[: requests + 1].diff().tolist())  # type: ignore[attr-defined]
        step.seq_lens = tuple(metadata.seq_lens[:requests].tolist())  # type: ignore[attr-defined]
        step.decodes_before = step.decodes_before + 1 if step.decodes_alone else 0
        return build(builder, common_prefix_len, metadata, fast_build)

    attention.TiledMetadataBuilder.build = watched  # type: ignore[method-assign,assignment]
    change_rows(lambda out: change(out, step) if out.shape[1] != VOCABULARY else None)


def decode_beside_prefill(longer_than: int = 1) -> None:
    """Linear layers that give a decoding row another result when another request's prompt is in its step."""

    def change(out: torch.Tensor, step: Step) -> None:
        if step.decodes_alone or out.shape[0] != sum(step.query_lens):
            return
        row = 0
        for query_len, seq_len in zip(step.query_lens, step.seq_lens, strict=True):
            if query_len == 1 and seq_len > longer_than:
                out[row].mul_(1.01)
            row += query_len

    change_in_steps(change)


def long_decode_beside_prefill() -> None:
    """The same for contexts of more than 256 tokens alone."""
    decode_beside_prefill(longer_than=256)


def exactly_29() -> None:
    """Linear layers that give other results where exactly 29 sequences decode together."""
    change_in_steps(lambda out, step: out.mul_(1.01) if step.decodes_alone and len(step.query_lens) == 29 else None)


def after_20_tokens() -> None:
    """Linear layers that give other results in a batch from its 20th step of decoding on."""
    change_in_steps(
        lambda out, step: out.mul_(1.01) if step.decodes_before >= 20 and len(step.query_lens) > 1 else None
    )


def draws_lots() -> None:
    """Linear layers that give another result once in a hundred calls, whatever is in the batch."""
    change_rows(lambda out: out.mul_(1.01) if random.random() < 0.01 else None)


def returns_nan() -> None:
    """An LM head that returns no numbers."""
    change_rows(lambda out: out.fill_(float("nan")) if out.shape[1] == VOCABULARY else None)


def change_rows(change: Callable[[torch.Tensor], object]) -> None:
    """Have every linear layer's output rows changed in place."""
    compute_rows: ComputeRows = linear.compute_rows

    def changed(*arguments: object) -> torch.Tensor:
        out = compute_rows(*arguments)
        change(out)
        return out

    linear.compute_rows = changed  # type: ignore[assignment]


SABOTAGES = {
    "tiles_off": tiles_off,
    "invariant_baseline": invariant_baseline,
    "kv_split_on": kv_split_on,
    "above_256_tokens": above_256_tokens,
    "position_in_batch": position_in_batch,
    "decode_beside_prefill": decode_beside_prefill,
    "long_decode_beside_prefill": long_decode_beside_prefill,
    "exactly_29": exactly_29,
    "after_20_tokens": after_20_tokens,
    "draws_lots": draws_lots,
    "returns_nan": returns_nan,
}


if __name__ == "__main__":
    name, _, module, *arguments = sys.argv[1:]
    SABOTAGES[name]()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
