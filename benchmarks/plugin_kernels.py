"""What the CPU plugin's row tiles cost: one dense layer's time, native against tiled, by number of rows.

    python benchmarks/plugin_kernels.py [--rows 1 16 32 ...] [--dtype bfloat16] [--threads 2] [--seconds 0.3]

For each dense layer of the demo model, and each number of rows, vLLM's own matrix multiplication and the plugin's take
turns; a row of the table has both medians, the ratio, and the tiles (b: by the kernel that blocks the rows itself).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform

from bi_experiments.phase.checkpoint import CheckpointSpec
from bi_experiments.vllm_cpu import linear
from bi_experiments.vllm_cpu.row_tiles import plan_tiles, to_mask

Dispatch = Callable[[torch.nn.Module, bool], None]

ROWS = (1, 2, 4, 8, 12, 16, 17, 24, 32, 33, 48, 64, 96, 128, 200, 256, 384, 512, 1024, 1500, 2048, 4096)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time of one dense layer, native against tiled.")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="numbers of rows")
    parser.add_argument("--dtype", default="bfloat16", help="torch name of the weights' type")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="OpenMP threads")
    parser.add_argument("--seconds", type=float, default=0.3, help="time spent on one entry of the table, in seconds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.cpu._init_amx()
    current_platform.import_kernels()
    linear.install()
    for name, (out_features, in_features) in layer_shapes(CheckpointSpec()).items():
        weight = torch.randn(out_features, in_features).to(getattr(torch, options.dtype)) / in_features**0.5
        layers = [
            make_layer(weight, dispatch) for dispatch in (dispatch_cpu_unquantized_gemm, linear.dispatch_tiled_linear)
        ]
        agreeing = linear.find_agreeing_kernels(out_features, in_features, weight.dtype, has_bias=False)
        print(f"\n{name}: {in_features} -> {out_features}, {options.dtype}, {options.threads} threads")
        print(f"tiles: oneDNN {agreeing.onednn_rows}, SGLang for the rest: {agreeing.blocked}")
        print(f"{'rows':>6} {'native ms':>10} {'tiled ms':>10} {'ratio':>6}  tiles")
        mask = to_mask(agreeing.onednn_rows)
        for rows in options.rows:
            x = torch.randn(rows, in_features).to(weight.dtype)
            native_ms, tiled_ms = medians_ms(layers, x, options.seconds)
            tiles = plan_tiles(rows, mask, agreeing.blocked)
            sizes = " ".join(f"{tile.rows}{'b' if tile.blocked else ''}" for tile in tiles)
            print(f"{rows:6} {native_ms:10.3f} {tiled_ms:10.3f} {tiled_ms / native_ms:6.2f}  {sizes}", flush=True)


def layer_shapes(spec: CheckpointSpec) -> dict[str, tuple[int, int]]:
    """Each dense layer's (out_features, in_features) as vLLM fuses them."""
    heads = spec.num_attention_heads + 2 * spec.num_key_value_heads
    return {
        "qkv_proj": (heads * spec.head_dim, spec.hidden_size),
        "o_proj": (spec.hidden_size, spec.num_attention_heads * spec.head_dim),
        "gate_up_proj": (2 * spec.intermediate_size, spec.hidden_size),
        "down_proj": (spec.hidden_size, spec.intermediate_size),
        "lm_head": (spec.vocab_size, spec.hidden_size),
    }


def make_layer(weight: torch.Tensor, dispatch: Dispatch) -> torch.nn.Module:
    """A layer with a copy of `weight`, whose `cpu_linear` is what `dispatch` sets up."""
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    dispatch(layer, True)
    return layer


def medians_ms(layers: list[torch.nn.Module], x: torch.Tensor, seconds: float) -> list[float]:
    """Median time of each layer for the rows `x`, in milliseconds; they take turns for `seconds`."""
    times_s: list[list[float]] = [[] for _ in layers]
    for layer in layers:
        layer.cpu_linear(x, layer.weight, None)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times_s[0]:
        for layer, taken in zip(layers, times_s, strict=True):
            start = time.perf_counter()
            layer.cpu_linear(x, layer.weight, None)
            taken.append(time.perf_counter() - start)
    return [1000 * statistics.median(taken) for taken in times_s]


if __name__ == "__main__":
    main()
