"""Runs a phase with one thing of the CPU plugin broken: `python sabotage.py NAME -m MODULE ARGUMENT ...`.

Started in the place of the phases' interpreter, so that the plugin itself needs no switch for it. The engine must be in
the phase's own process, as it is with `backend=cpu`.
"""

import runpy
import sys
from collections.abc import Callable

import torch

from bi_experiments.vllm_cpu import activations, attention, linear

VOCABULARY = 8192
"""Rows of the demo model's LM head."""

ComputeRows = Callable[..., torch.Tensor]


def tiles_off() -> None:
    """PyTorch's matrix multiplication, whose kernel is chosen by the number of rows, in the place of the tiles."""

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
}


if __name__ == "__main__":
    name, _, module, *arguments = sys.argv[1:]
    SABOTAGES[name]()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
