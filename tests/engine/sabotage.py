"""Runs a phase with one thing of the CPU plugin after the other broken: `python sabotage.py -m MODULE ARGUMENT ...`.

Started instead of the phases' interpreter, so that the plugin itself needs no switch for it. The engine must be in
the phase's own process, as it is with `backend=cpu`. One engine serves all: what is broken changes while it runs, and
the compositions that are named with each sabotage run once with it, the sabotage's name before their own.
"""

import random
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from msgspec.structs import replace
from vllm.v1.attention.backends import cpu_attn
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from bi_experiments.phase.proof import probes
from bi_experiments.records import NEGATIVE_CONTROL, ProbeDone, ProbePlan
from bi_experiments.vllm_cpu import attention, linear

VOCABULARY = 8192
"""Rows of the demo model's LM head."""
LARGEST_STEP = 1024
"""Tokens of the demo's largest step."""


@dataclass
class Step:
    """The step that runs: tokens of each request in it, and its context with them."""

    query_lens: tuple[int, ...] = ()
    seq_lens: tuple[int, ...] = ()
    decodes_before: int = 0
    """Steps since the last prefill."""
    requests_before: int = 0
    """Requests of the step before it."""

    @property
    def decodes_alone(self) -> bool:
        """Whether no prompt is processed in it."""
        return all(length == 1 for length in self.query_lens)

    @property
    def requests(self) -> int:
        """Requests in it."""
        return len(self.query_lens)


Change = Callable[[torch.Tensor, Step], object]
"""Changes a linear layer's output rows in place; passed the step that they are of."""


def nothing(out: torch.Tensor, step: Step) -> None:
    """The plugin as it is, or broken elsewhere than in its linear layers."""


def above_256_tokens(out: torch.Tensor, _: Step) -> None:
    """Other results in steps of more than 256 tokens."""
    if out.shape[0] > 256:
        out.mul_(1.01)


def position_in_batch(out: torch.Tensor, _: Step) -> None:
    """Other results behind the first row where eight prompts decode together.

    The LM head is left alone, since it has eight rows in the prefill of eight prompts too.
    """
    if out.shape[0] == 8 and out.shape[1] != VOCABULARY:
        out[1:].mul_(1.01)


def decode_beside_prefill(out: torch.Tensor, step: Step, longer_than: int = 1) -> None:
    """Another result for a decoding row when another request's prompt is in its step."""
    if step.decodes_alone or out.shape[0] != sum(step.query_lens):
        return
    row = 0
    for query_len, seq_len in zip(step.query_lens, step.seq_lens, strict=True):
        if query_len == 1 and seq_len > longer_than:
            out[row].mul_(1.01)
        row += query_len


def long_decode_beside_prefill(out: torch.Tensor, step: Step) -> None:
    """The same for contexts of more than 256 tokens alone."""
    decode_beside_prefill(out, step, longer_than=256)


def exactly_29(out: torch.Tensor, step: Step) -> None:
    """Other results where exactly 29 sequences decode together."""
    if step.decodes_alone and step.requests == 29:
        out.mul_(1.01)


def after_20_tokens(out: torch.Tensor, step: Step) -> None:
    """Other results in a batch from its 20th step of decoding on."""
    if step.decodes_before >= 20 and step.requests > 1:
        out.mul_(1.01)


def draws_lots(out: torch.Tensor, _: Step) -> None:
    """Another result once in twenty calls, whatever is in the batch."""
    if random.random() < 0.05:
        out.mul_(1.01)


def returns_nan(out: torch.Tensor, _: Step) -> None:
    """An LM head that returns no numbers."""
    if out.shape[1] == VOCABULARY:
        out.fill_(float("nan"))


def last_row_of_the_largest_step(out: torch.Tensor, _: Step) -> None:
    """Another result for the last row of a full step."""
    if out.shape[0] == LARGEST_STEP:
        out[-1].mul_(1.01)


def later_chunk_of_a_prompt(out: torch.Tensor, step: Step) -> None:
    """Other results for prompts of over 256 tokens from their second chunk on."""
    if out.shape[0] != sum(step.query_lens):
        return
    row = 0
    for query_len, seq_len in zip(step.query_lens, step.seq_lens, strict=True):
        if 1 < query_len < seq_len and seq_len > 256:
            out[row : row + query_len].mul_(1.01)
        row += query_len


def after_a_larger_step(out: torch.Tensor, step: Step) -> None:
    """Other results in a decode after a step of more requests: something of these was left behind.

    Prompts of one token are left alone: their first step looks like a decode, and follows a batch of others by chance.
    """
    if step.decodes_alone and step.requests_before > step.requests and min(step.seq_lens) > 1:
        out.mul_(1.01)


def one_shard_of_the_vocabulary(out: torch.Tensor, _: Step) -> None:
    """Other logits for the last quarter of the vocabulary where more than sixteen are computed together."""
    if out.shape[1] == VOCABULARY and out.shape[0] > 16:
        out[:, -VOCABULARY // 4 :].mul_(1.01)


def logits_of_prompts(out: torch.Tensor, step: Step) -> None:
    """Other logits where those of a prompt are computed too, and it is not alone."""
    if out.shape[1] == VOCABULARY and step.requests > 1 and out.shape[0] > step.requests:
        out.mul_(1.01)


@dataclass
class Sabotage:
    """One thing that is broken, and the compositions that run with it beside `batch_1`."""

    compositions: Sequence[str]
    change: Change = nothing
    tiles_off: bool = False
    """PyTorch's matrix multiplication, whose kernel is chosen by the number of rows, instead of the tiles."""
    kv_split_on: bool = False
    """Attention that splits the keys of a request among threads, depending on what else there is to do."""
    seeds_off: bool = False
    """Random numbers of a seeded request are passed over where it is not alone."""


IN_TURN: dict[str, Sabotage] = {
    "nothing": Sabotage(["batch_8", "step_257", "seeded"]),
    "tiles_off": Sabotage(["batch_8"], tiles_off=True),
    "kv_split_on": Sabotage(["batch_8"], kv_split_on=True),
    "above_256_tokens": Sabotage(["step_255", "step_256", "step_257"], above_256_tokens),
    "position_in_batch": Sabotage(["batch_8"], position_in_batch),
    "decode_beside_prefill": Sabotage(["batch_8", "trial", "arrivals"], decode_beside_prefill),
    "long_decode_beside_prefill": Sabotage(["batch_8", "arrivals"], long_decode_beside_prefill),
    "exactly_29": Sabotage(["batch_8", "sizes"], exactly_29),
    "after_20_tokens": Sabotage(["batch_8", "sizes"], after_20_tokens),
    "draws_lots": Sabotage(["batch_8"], draws_lots),
    "returns_nan": Sabotage(["batch_8"], returns_nan),
    "last_row_of_the_largest_step": Sabotage(["batch_8", "chunked_prefill"], last_row_of_the_largest_step),
    "later_chunk_of_a_prompt": Sabotage(["step_257", "chunked_prefill"], later_chunk_of_a_prompt),
    "after_a_larger_step": Sabotage(["batch_8", "ragged"], after_a_larger_step),
    "one_shard_of_the_vocabulary": Sabotage(["batch_8", "batch_32"], one_shard_of_the_vocabulary),
    "logits_of_prompts": Sabotage(["batch_8", "prompt_logprobs"], logits_of_prompts),
    "seeds_off": Sabotage(["batch_8", "seeded"], seeds_off=True),
}


@dataclass
class Broken:
    """What is broken at the moment."""

    now: Sabotage = field(default_factory=lambda: Sabotage([]))


def install(broken: Broken) -> None:
    """Make everything breakable."""
    _watch_rows(broken)
    _watch_tiles(broken)
    _watch_attention(broken)
    _watch_seeds(broken)


def _watch_rows(broken: Broken) -> None:
    step = Step()
    build: Callable[..., object] = attention.TiledMetadataBuilder.build
    compute_rows: Callable[..., torch.Tensor] = linear.compute_rows

    def watched(builder: object, common_prefix_len: int, metadata: object, fast_build: bool = False) -> object:
        requests = metadata.num_reqs  # type: ignore[attr-defined]
        step.requests_before = step.requests
        step.query_lens = tuple(metadata.query_start_loc[: requests + 1].diff().tolist())  # type: ignore[attr-defined]
        step.seq_lens = tuple(metadata.seq_lens[:requests].tolist())  # type: ignore[attr-defined]
        step.decodes_before = step.decodes_before + 1 if step.decodes_alone else 0
        return build(builder, common_prefix_len, metadata, fast_build)

    def changed(*arguments: object) -> torch.Tensor:
        out = compute_rows(*arguments)
        broken.now.change(out, step)
        return out

    attention.TiledMetadataBuilder.build = watched  # type: ignore[method-assign,assignment]
    linear.compute_rows = changed  # type: ignore[assignment]


def _watch_tiles(broken: Broken) -> None:
    dispatch: Callable[[torch.nn.Module, bool], None] = linear.dispatch_tiled_linear

    def dispatch_both(layer: torch.nn.Module, remove_weight: bool) -> None:
        native = layer.weight
        dispatch(layer, remove_weight)
        tiled: Callable[..., torch.Tensor] = layer.cpu_linear

        def cpu_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            if broken.now.tiles_off:
                return torch.nn.functional.linear(x, native, bias)
            return tiled(x, weight, bias)

        # The plugin knows its own layers by this.
        cpu_linear.__module__ = linear.__name__
        layer.cpu_linear = cpu_linear

    linear.dispatch_tiled_linear = dispatch_both


def _watch_attention(broken: Broken) -> None:
    split: Callable[..., object] = attention.split_queries
    schedule: Callable[..., object] = cpu_attn.ops.cpu_attn_get_scheduler_metadata

    def split_queries(metadata: object, tile: int) -> object:
        return metadata if broken.now.kv_split_on else split(metadata, tile)

    def scheduler_metadata(*arguments: object, enable_kv_split: bool, **named: object) -> object:
        return schedule(*arguments, enable_kv_split=enable_kv_split or broken.now.kv_split_on, **named)

    attention.split_queries = split_queries
    cpu_attn.ops.cpu_attn_get_scheduler_metadata = scheduler_metadata


def _watch_seeds(broken: Broken) -> None:
    sample: Callable[..., object] = GPUModelRunner.sample_tokens

    def sample_tokens(runner: GPUModelRunner, *arguments: object) -> object:
        if broken.now.seeds_off and runner.input_batch.num_reqs > 1:
            for generator in runner.input_batch.generators.values():
                torch.rand(1, generator=generator)
        return sample(runner, *arguments)

    GPUModelRunner.sample_tokens = sample_tokens


def run_in_turn(broken: Broken) -> None:
    """Have a phase run its probes once with each sabotage, in place of once."""
    run_probes: Callable[..., None] = probes.run_probes

    def run_for_each(
        llm: object, plan: ProbePlan, *arguments: object, emit: Callable[[ProbeDone], None], **named: object
    ) -> None:
        for name, sabotage in IN_TURN.items():
            broken.now = sabotage
            own = replace(plan, compositions=(NEGATIVE_CONTROL, *sabotage.compositions))
            run_probes(llm, own, *arguments, **named, emit=partial(emit_renamed, emit, name))

    probes.run_probes = run_for_each  # type: ignore[assignment]


def emit_renamed(emit: Callable[[ProbeDone], None], sabotage: str, event: ProbeDone) -> None:
    """Pass on the results of one composition with the name of what was broken meanwhile before its own."""
    emit(ProbeDone(results=tuple(replace(one, composition=f"{sabotage} {one.composition}") for one in event.results)))


if __name__ == "__main__":
    _, module, *arguments = sys.argv[1:]
    broken = Broken()
    install(broken)
    run_in_turn(broken)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
