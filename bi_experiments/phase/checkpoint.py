"""A small seeded checkpoint with a tokenizer, made on disk, so that a real engine runs without a download of weights.

`python -m bi_experiments.phase.checkpoint --cache-dir DIR --spec JSON` prints its folder as the last line of stdout:
the parent process never imports torch, so it calls this as a subprocess.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bi_experiments.vocabulary import WORDS

ConfigValue = str | int | float | bool | None | list[int] | Mapping[str, object]

MANIFEST = "checkpoint.json"
END_OF_TEXT = "<|endoftext|>"
RECIPE = 1
"""Part of the folder's digest: a change of how weights or tokens are made must be a change of folder."""

WEIGHT_GAIN = 2.0
"""Weights are drawn at twice the scale that keeps the variance, so that logits are a few nats apart instead of flat."""

VECTOR_NOISE = 0.1
"""One-dimensional parameters (norm weights, biases) move this far off their neutral values, so that they matter."""

ENDINGS = ("s", "ed", "ing", "er", "ly", "ness", "ful", "less", "able", "ment")


@dataclass(frozen=True)
class CheckpointSpec:
    """What a seeded checkpoint is made of. The defaults are the demo model.

    Attributes:
        architecture: `model_type` of any causal language model known to transformers (`qwen3`, `llama`, `opt`, ...).
        hidden_size: Width of the residual stream.
        num_hidden_layers: Number of decoder layers.
        num_attention_heads: Number of query heads.
        num_key_value_heads: Number of key and value heads.
        head_dim: Width of one head.
        intermediate_size: Width of the MLP.
        vocab_size: Rows of the embedding, and the most tokens the tokenizer may have.
        max_position_embeddings: Longest sequence, in tokens.
        dtype: Type of the stored weights, a torch name (`bfloat16`, `float32`).
        seed: Seed of the weights.
        overrides: Further arguments of the architecture's transformers configuration, as (name, value). They win over
            the attributes above, for architectures that name a size differently.
        weights: Whether weights are drawn at all; without them vLLM runs it with `load_format=dummy` alone.
    """

    architecture: str = "qwen3"
    hidden_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 64
    intermediate_size: int = 1024
    vocab_size: int = 8192
    max_position_embeddings: int = 8192
    dtype: str = "float32"
    seed: int = 20240919
    overrides: tuple[tuple[str, ConfigValue], ...] = field(default=(("tie_word_embeddings", False),))
    weights: bool = True

    def folder_name(self) -> str:
        """Architecture and a digest of everything that the files depend on."""
        recipe = json.dumps([RECIPE, asdict(self), WEIGHT_GAIN, VECTOR_NOISE, WORDS, ENDINGS], sort_keys=True)
        return f"{self.architecture}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"


def ensure_checkpoint(spec: CheckpointSpec, cache_dir: Path) -> Path:
    """Return the folder of the checkpoint that `spec` describes, after creating it if it is missing or incomplete.

    The files are written next to their destination and moved there in one rename, so that two processes may race: one
    of them wins, and both return the same complete folder.

    Args:
        spec: What to make.
        cache_dir: Folder that holds one folder a spec; created if missing.

    Raises:
        ValueError: The architecture is not one that transformers knows, or its configuration refuses a value.
    """
    destination = cache_dir / spec.folder_name()
    if is_complete(destination):
        return destination
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".making-") as temporary:
        made = Path(temporary) / "checkpoint"
        made.mkdir()
        write_tokenizer(spec, made)
        write_model(spec, made)
        sizes = {path.name: path.stat().st_size for path in sorted(made.iterdir())}
        (made / MANIFEST).write_text(json.dumps({"spec": asdict(spec), "file_bytes": sizes}, indent=1))
        if destination.exists() and not is_complete(destination):
            destination.rename(Path(temporary) / "incomplete")
        try:
            made.rename(destination)
        except OSError:
            # Another process was first: a rename never replaces a folder that has files in it.
            if not is_complete(destination):
                raise
    return destination


def is_complete(folder: Path) -> bool:
    """Whether every file that the manifest names is there with the size it had when it was written."""
    try:
        sizes: dict[str, int] = json.loads((folder / MANIFEST).read_text())["file_bytes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def corpus() -> Iterator[str]:
    """Lines to train the tokenizer on: each word often, with a space before it, and its derived forms seldom."""
    for word in WORDS:
        stem = word.removesuffix("e")
        derived = [(stem if ending[0] in "aeiou" else word) + ending for ending in ENDINGS]
        yield from [f"{word.capitalize()} {word} {word} {word}"] * 4
        yield " ".join([derived[0].capitalize(), *derived])
        yield " ".join(derived)


def write_tokenizer(spec: CheckpointSpec, folder: Path) -> None:
    """Train a byte-level BPE tokenizer on the corpus and save it in transformers' format. Deterministic."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=spec.max_position_embeddings,
    ).save_pretrained(folder)


def write_model(spec: CheckpointSpec, folder: Path) -> None:
    """Save the model's configuration, and the weights that are drawn for it as safetensors."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        name: value
        for name, value in asdict(spec).items()
        if name not in ("architecture", "seed", "overrides", "weights")
    }
    # The tokenizer's only special token has the id 0.
    settings = {**sizes, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, **dict(spec.overrides)}
    config = AutoConfig.for_model(spec.architecture, **settings)
    if not spec.weights:
        config.architectures = [AutoModelForCausalLM._model_mapping[type(config)].__name__]
        config.save_pretrained(folder)
        return
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, spec.dtype))
    generator = torch.Generator().manual_seed(spec.seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.add_(VECTOR_NOISE * noise)
            else:
                parameter.copy_(noise * WEIGHT_GAIN / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)


def main() -> None:
    """Make one checkpoint and print its folder."""
    parser = argparse.ArgumentParser(description="Make a seeded checkpoint, once.")
    parser.add_argument("--cache-dir", type=Path, required=True, help="folder that holds one folder a checkpoint")
    parser.add_argument("--spec", type=json.loads, default={}, help="attributes of CheckpointSpec, as JSON")
    arguments = parser.parse_args()
    folder = ensure_checkpoint(CheckpointSpec(**arguments.spec), arguments.cache_dir.expanduser().resolve())
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
