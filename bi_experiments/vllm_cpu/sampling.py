"""Seeded sampling that does not depend on how a prompt was cut into chunks.

vLLM samples from every request of a step, also from those whose prompt is not finished, drops what those gave, and
rewinds their random generators, which CPU generators do not support: the engine dies. Here such requests are sampled
without their generators, which therefore have nothing to rewind.
"""

import numpy as np
from vllm.v1.worker.gpu_model_runner import GPUModelRunner


def install() -> None:
    """Have vLLM leave the generators of unfinished prompts alone."""
    native_sample_tokens = GPUModelRunner.sample_tokens
    if native_sample_tokens.__module__ == __name__:
        return

    def sample_tokens(runner: GPUModelRunner, *args: object) -> object:
        generators = runner.input_batch.generators
        unfinished = np.flatnonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs])
        kept = {int(index): generators.pop(int(index)) for index in unfinished if int(index) in generators}
        try:
            return native_sample_tokens(runner, *args)
        finally:
            generators.update(kept)

    GPUModelRunner.sample_tokens = sample_tokens
