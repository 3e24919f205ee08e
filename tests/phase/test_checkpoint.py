"""The seeded checkpoints: made once, complete, the same bytes every time, for any architecture transformers knows."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the cpu extra")

from bi_experiments.phase.checkpoint import CheckpointSpec, ensure_checkpoint

TINY = CheckpointSpec(
    architecture="llama",
    hidden_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=32,
    intermediate_size=96,
    vocab_size=512,
    max_position_embeddings=128,
    dtype="float32",
)
OTHER_ARCHITECTURES = {
    "gemma": (),
    "gpt2": (),
    "opt": (("ffn_dim", 96), ("word_embed_proj_dim", 64)),
    "qwen3_moe": (("num_experts", 4), ("num_experts_per_tok", 2), ("moe_intermediate_size", 32)),
    "mixtral": (("num_local_experts", 4),),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_without_weights_there_is_a_configuration_and_a_tokenizer(tmp_path: Path) -> None:
    quantization: dict[str, object] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    spec = replace(TINY, weights=False, overrides=(("quantization_config", quantization),))
    folder = ensure_checkpoint(spec, tmp_path)
    written = json.loads((folder / "config.json").read_text())
    assert written["architectures"] == ["LlamaForCausalLM"]
    assert written["quantization_config"]["weight_block_size"] == [128, 128]
    assert (folder / "tokenizer.json").exists()
    assert not list(folder.glob("*.safetensors"))


def test_same_spec_gives_the_same_bytes(tmp_path: Path) -> None:
    first = ensure_checkpoint(TINY, tmp_path / "a")
    second = ensure_checkpoint(TINY, tmp_path / "b")
    assert first.name == second.name
    assert contents(first) == contents(second)


def test_a_complete_checkpoint_is_reused(tmp_path: Path) -> None:
    folder = ensure_checkpoint(TINY, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert ensure_checkpoint(TINY, tmp_path) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("damage", ["missing", "truncated", "no manifest"])
def test_an_incomplete_checkpoint_is_regenerated(tmp_path: Path, damage: str) -> None:
    folder = ensure_checkpoint(TINY, tmp_path)
    whole = contents(folder)
    weights = folder / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(whole[weights.name][:-1])
    else:
        (folder / "checkpoint.json").unlink()
    assert contents(ensure_checkpoint(TINY, tmp_path)) == whole


@pytest.mark.parametrize("change", [{"seed": 1}, {"hidden_size": 128}, {"overrides": (("rms_norm_eps", 1e-5),)}])
def test_a_changed_spec_has_a_folder_of_its_own(change: dict[str, object]) -> None:
    assert replace(TINY, **change).folder_name() != TINY.folder_name()  # type: ignore[arg-type]


def test_racing_makers_share_one_folder_and_leave_nothing_else(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: ensure_checkpoint(TINY, tmp_path), range(2)))
    assert folders[0] == folders[1]
    assert list(tmp_path.iterdir()) == [folders[0]]


@pytest.mark.parametrize("architecture", OTHER_ARCHITECTURES)
def test_other_architectures_load_back(tmp_path: Path, architecture: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = replace(TINY, architecture=architecture, dtype="bfloat16", overrides=OTHER_ARCHITECTURES[architecture])
    folder = ensure_checkpoint(spec, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)("There once was a king", return_tensors="pt")["input_ids"]
    logits = model(tokens).logits
    assert logits.dtype == torch.bfloat16
    assert logits.shape[-1] == TINY.vocab_size
    assert logits.float().std() > 0.5


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nonesuch"):
        ensure_checkpoint(replace(TINY, architecture="nonesuch"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_demo_folder_last(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    command = [sys.executable, "-m", "bi_experiments.phase.checkpoint", "--cache-dir", str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    folder = Path(printed[-1])
    assert folder == tmp_path / CheckpointSpec().folder_name()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == CheckpointSpec().vocab_size
    sentence = "There once was a quiet harbor where the old captain watched the evening ships return to the shore"
    tokens = tokenizer(sentence)["input_ids"]
    assert len(tokens) <= 1.5 * len(sentence.split())
    assert tokenizer.decode(tokens) == sentence
