"""The inputs of the trials: one module for each kind of workload, each with an option in `conf/workload`.

A kind's module has one function, `random_prompt(rng, min_words, max_words)`.
"""

import hashlib
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from bi_experiments.config.schema import WorkloadConfig
from bi_experiments.errors import ConfigurationError
from bi_experiments.files import write_atomically
from bi_experiments.records import Sampling, TrialInput, Workload, to_json
from bi_experiments.workload import needle, vllm_script

PromptMaker = Callable[[random.Random, int, int], str]

KINDS: Mapping[str, PromptMaker] = {
    "needle": needle.random_prompt,
    "vllm_script": vllm_script.random_prompt,
}


def prompt_maker(kind: str) -> PromptMaker:
    """The function that draws a prompt of that kind of workload.

    Raises:
        ConfigurationError: There is no such kind.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"workload.kind={kind} does not exist: use one of {', '.join(KINDS)}")
    return KINDS[kind]


def build_workload(config: WorkloadConfig, seed: int) -> Workload:
    """Draw the batches of all trials.

    Each batch has between half and all of `max_batch_size` prompts, at least two where that allows it, and the needle
    at a random position of it.

    Args:
        config: Group `workload`.
        seed: Seed of every random choice.

    Raises:
        ConfigurationError: There is no such kind of workload.
    """
    random_prompt = prompt_maker(config.kind)
    rng = random.Random(seed)
    fewest = min(2, config.max_batch_size)  # the needle, which may be as short as it likes, and one to be timed
    trials = []
    for _ in range(config.num_trials):
        batch_size = rng.randint(max(fewest, config.max_batch_size // 2), config.max_batch_size)
        needle_position = rng.randrange(batch_size)
        prompts = [
            config.needle if position == needle_position else random_prompt(rng, config.min_prompt, config.max_prompt)
            for position in range(batch_size)
        ]
        trials.append(TrialInput(prompts=tuple(prompts), needle_position=needle_position))
    return Workload(
        kind=config.kind,
        seed=seed,
        needle=config.needle,
        trials=tuple(trials),
        sampling=Sampling(
            temperature=config.temperature,
            top_p=config.top_p,
            seed=config.sampling_seed,
            max_tokens=config.max_tokens,
            ignore_eos=config.ignore_eos,
        ),
    )


def write_workload(workload: Workload, path: Path) -> str:
    """Write the workload for the phases to read.

    Returns:
        SHA-256 of the file, as hexadecimal digits.
    """
    data = to_json(workload)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()
