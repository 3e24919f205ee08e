"""Batches of requests and their outputs, as the probes see them: no engine, no torch."""

from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True)
class EngineLimits:
    """What the engine can take at once.

    Attributes:
        max_num_batched_tokens: Largest step, in tokens.
        max_num_seqs: Most sequences in a step.
        max_model_len: Longest sequence, prompt and output, in tokens.
        prefix_caching: Whether the engine keeps the KV cache of prompts it has seen.
        block_size: Tokens in a block of the KV cache: only whole blocks are found again.
        graph_sizes: Tokens of the steps that have a CUDA graph; smaller steps are padded to the next. None: no graphs.
        borders: Numbers of tokens at which the engine changes kernels or graphs, as far as it reports them.
        blocks_can_be_held: Whether the KV cache can be made smaller for one batch.
        chunked_prefill: Whether a prompt that does not fit a step is split; else it waits for a step that it fits.
        long_prefill_tokens: Most tokens of a prompt that a step takes beside other requests; 0: as many as it has room.
        steps_ahead: Most steps that are in flight when another one is scheduled; 0: it waits for the one before it.
    """

    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    prefix_caching: bool
    block_size: int
    graph_sizes: frozenset[int] = frozenset()
    borders: tuple[int, ...] = ()
    blocks_can_be_held: bool = False
    chunked_prefill: bool = True
    long_prefill_tokens: int = 0
    steps_ahead: int = 0

    @property
    def longest_piece(self) -> int:
        """Most tokens of a prompt that a step takes beside other requests."""
        return min(self.long_prefill_tokens or self.max_num_batched_tokens, self.max_num_batched_tokens)


@dataclass(frozen=True)
class Request:
    """One prompt and how it is continued.

    Attributes:
        prompt: Token ids, or text for the prompts of the workload.
        max_tokens: Tokens to generate; exactly as many, because the end-of-sequence token is ignored.
        temperature: 0 is greedy.
        seed: Sampling seed; None when greedy.
        samples: Continuations of this prompt.
        scored_from: Index of the first prompt token whose logprobs are returned instead of an output; None: no scoring.
        score_prompt: Whether the logprobs of the prompt, from its second token on, are returned before the output's.
        logprobs: Whether logprobs are asked for at all; without them tokens alone are compared.
    """

    prompt: tuple[int, ...] | str
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    samples: int = 1
    scored_from: int | None = None
    score_prompt: bool = False
    logprobs: bool = True

    def digest(self) -> str:
        """The beginning of a SHA-256 over all that is asked."""
        return sha256(repr(self).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Sample:
    """One continuation: its tokens, and for each of them the returned (token id, logprob), best rank first."""

    token_ids: tuple[int, ...]
    logprobs: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True)
class Output:
    """What the engine made of one request.

    Attributes:
        samples: Its continuations.
        cached_tokens: Prompt tokens that came from the prefix cache.
        preemptions: How often it had to leave the KV cache and start again.
    """

    samples: tuple[Sample, ...]
    cached_tokens: int = 0
    preemptions: int = 0


@dataclass(frozen=True)
class Probed:
    """A request of a batch that is compared with itself alone.

    Attributes:
        probe: The probe's number.
        position: Its index in the batch.
        reference: What runs alone.
        draw: Its place in the order in which the batch's prompts were drawn from the workload; None: it was not drawn.
        needed: Whether it is compared however long that takes.
    """

    probe: int
    position: int
    reference: Request
    draw: int | None = None
    needed: bool = True


@dataclass(frozen=True)
class Batch:
    """Requests that are queued together, in this order, and which of them are probes.

    Attributes:
        requests: All requests.
        probed: Those that are compared.
        primed: Whether the same batch runs just before, so that the prefix cache holds its prompts.
        kv_blocks: Blocks that the KV cache has for this batch, too few for all of it; None: all there are.
    """

    requests: tuple[Request, ...]
    probed: tuple[Probed, ...]
    primed: bool = False
    kv_blocks: int | None = None
