"""Attention whose result for a query does not depend on which other queries are computed with it.

vLLM's CPU kernel splits the keys of a decoding request among threads, which is switched off here. It also walks the
keys in blocks whose length depends on how many queries of a request are computed together, so that a prompt longer
than a block gets other bits when it is prefilled in other chunks, or alongside other requests. So each request is given
to the kernel in tiles of a few queries, each as its own request: the kernel then always takes the blocks that it takes
for a single query. How many queries a tile may have is checked against single queries when the engine loads.
"""

import os
from dataclasses import dataclass
from typing import Self

import torch
from vllm import _custom_ops as ops
from vllm.config import VllmConfig, get_layers_from_vllm_config
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionMetadata, CPUAttentionMetadataBuilder
from vllm.v1.kv_cache_interface import AttentionSpec

from bi_experiments.vllm_cpu.agreement import SEED

KV_SPLIT = "0"
"""Value of VLLM_CPU_ATTN_SPLIT_KV."""

KERNEL_ROWS = {"amx": 32}
"""Rows (query heads of one key head, times queries) that a kernel computes at once; a tile must not have more."""

FEWEST_KERNEL_ROWS = 8
CHECKED_CONTEXT = 16384
"""The check's context length in tokens, where the model allows that many."""

CHECKED_QUERIES = 80
"""The check's queries, enough to meet every alignment of keys and tiles (the kernels align keys to 32 tokens)."""


def split_queries(metadata: CommonAttentionMetadata, tile: int) -> CommonAttentionMetadata:
    """The same queries with every request cut into requests of at most `tile` queries, each with the keys before it."""
    if metadata.max_query_len <= tile:
        return metadata
    starts = metadata.query_start_loc[: metadata.num_reqs + 1]
    query_lens = starts.diff()
    tiles_per_request = (query_lens + tile - 1) // tile
    request = torch.repeat_interleave(torch.arange(metadata.num_reqs), tiles_per_request)
    first_tile = tiles_per_request.cumsum(0) - tiles_per_request
    offset = (torch.arange(request.shape[0]) - first_tile[request]) * tile
    stop = torch.minimum(offset + tile, query_lens[request])
    context = metadata.seq_lens[: metadata.num_reqs] - query_lens
    return metadata.replace(
        num_reqs=request.shape[0],
        query_start_loc=torch.cat([starts[:1], starts[request] + stop]).to(starts.dtype),
        seq_lens=(context[request] + stop).to(metadata.seq_lens.dtype),
        block_table_tensor=metadata.block_table_tensor[request],
        max_query_len=tile,
    )


class TiledMetadataBuilder(CPUAttentionMetadataBuilder):  # type: ignore[misc]
    """What the kernel is to compute in a step, in tiles of queries."""

    def __init__(
        self, kv_cache_spec: AttentionSpec, layer_names: list[str], vllm_config: VllmConfig, device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.query_tile = largest_agreeing_tile(self)

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> CPUAttentionMetadata:
        """Build one step's metadata."""
        return super().build(common_prefix_len, split_queries(common_attn_metadata, self.query_tile), fast_build)


def largest_agreeing_tile(builder: CPUAttentionMetadataBuilder) -> int:
    """The most queries a tile may have: that they get the bits they get alone is checked, else it is one."""
    rows = KERNEL_ROWS.get(builder.isa, FEWEST_KERNEL_ROWS)
    tile = max(1, rows // (builder.num_heads // builder.num_kv_heads))
    return tile if tile == 1 or TileCheck.drawn(builder).agrees(tile) else 1


@dataclass(frozen=True)
class TileCheck:
    """The last queries of a long context, computed in tiles and alone, for the layers of one metadata builder."""

    builder: CPUAttentionMetadataBuilder
    first_query: int
    """Position of the first of the queries."""
    queries: torch.Tensor
    """[queries, query heads of one key head, head_dim]."""
    key_cache: torch.Tensor
    value_cache: torch.Tensor
    block_table: torch.Tensor
    """[blocks]."""

    @classmethod
    def drawn(cls, builder: CPUAttentionMetadataBuilder) -> Self:
        """Of random queries, keys and values."""
        context = min(builder.vllm_config.model_config.max_model_len, CHECKED_CONTEXT)
        first_query = max(0, context - CHECKED_QUERIES)
        heads = builder.num_heads // builder.num_kv_heads
        generator = torch.Generator().manual_seed(SEED)

        def draw(tokens: int, heads: int) -> torch.Tensor:
            return torch.randn(tokens, heads, builder.head_dim, generator=generator).to(builder.dtype)

        queries = draw(context - first_query, heads)
        blocks = -(-context // builder.block_size)
        cache = torch.zeros(blocks, 1, 2 * builder.block_size, builder.head_dim, dtype=builder.dtype)
        keys, values = cache.chunk(2, dim=2)
        ops.cpu_attn_reshape_and_cache(
            draw(context, 1), draw(context, 1), keys, values, torch.arange(context), builder.isa
        )
        return cls(builder, first_query, queries, keys, values, torch.arange(blocks, dtype=torch.int32))

    def agrees(self, tile: int) -> bool:
        """Whether tiles of `tile` queries, beginning anywhere, give every query the bits it gets alone."""
        layers = get_layers_from_vllm_config(self.builder.vllm_config, Attention, self.builder.layer_names)
        windows = {layer.impl.sliding_window for layer in layers.values()}
        return all(
            torch.equal(self.attend(window, 1, 1), self.attend(window, first, tile))
            for window in windows
            for first in (1, tile // 2, tile)
        )

    def attend(self, window: int, first: int, tile: int) -> torch.Tensor:
        """Attention of the queries in a tile of `first` queries and then tiles of `tile`; `window` in tokens or -1."""
        starts = torch.tensor([0, *range(first, len(self.queries), tile), len(self.queries)], dtype=torch.int32)
        seq_lens = self.first_query + starts[1:]
        out = torch.empty_like(self.queries)
        schedule = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(seq_lens),
            num_heads=self.queries.shape[1],
            num_kv_heads=1,
            head_dim=self.builder.head_dim,
            seq_lens=seq_lens,
            dtype=self.builder.dtype,
            query_start_loc=starts,
            causal=True,
            sliding_window_size=window,
            isa=self.builder.isa,
            enable_kv_split=False,
        )
        ops.cpu_attention_with_kv_cache(
            query=self.queries,
            key_cache=self.key_cache,
            value_cache=self.value_cache,
            output=out,
            query_start_loc=starts,
            seq_lens=seq_lens,
            scale=self.builder.head_dim**-0.5,
            causal=True,
            alibi_slopes=None,
            sliding_window=window,
            block_table=self.block_table.expand(len(seq_lens), -1).contiguous(),
            softcap=0,
            scheduler_metadata=schedule,
            s_aux=None,
        )
        return out


def install() -> None:
    """Make the CPU attention backend batch-invariant, and have it say so."""
    os.environ["VLLM_CPU_ATTN_SPLIT_KV"] = KV_SPLIT
    CPUAttentionBackend.supports_batch_invariance = classmethod(lambda cls: True)
    CPUAttentionBackend.get_builder_cls = staticmethod(lambda: TiledMetadataBuilder)
