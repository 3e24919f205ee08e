"""What a worker says of itself, as far as that needs no engine."""

from types import SimpleNamespace

import pytest

from bi_experiments.phase.observer import WorkerObserver, flash_attn_versions


def test_tuned_rows_are_those_of_vllms_table_for_the_models_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from vllm.model_executor.determinism import batch_invariant_configs as configs

    class Runner:
        model = torch.nn.Linear(2048, 4096, bias=False, dtype=torch.bfloat16, device="meta")

    observer = WorkerObserver()
    observer.model_runner = Runner()
    assert observer.bi_experiments_tuned_rows() == []  # no tuned tiles for a CPU
    monkeypatch.setattr(configs, "_get_tuned_matmul_arch_family", lambda _: "ada")
    assert observer.bi_experiments_tuned_rows() == [1, 4, 8, 16, 32, 64, 256, 512, 1024, 2048]
    Runner.model = torch.nn.Linear(2048, 4096, bias=False, dtype=torch.float32, device="meta")
    assert observer.bi_experiments_tuned_rows() == []


def test_the_version_of_flash_attention_is_read_where_each_kind_of_attention_has_it() -> None:
    version = SimpleNamespace(vllm_flash_attn_version=3)
    standard = SimpleNamespace(impl=version)
    latent = SimpleNamespace(impl=SimpleNamespace(), prefill_backend=version)
    assert flash_attn_versions([standard]) == ["3"]
    assert flash_attn_versions([latent, standard]) == ["3"]
    elsewhere = SimpleNamespace(impl=SimpleNamespace(vllm_flash_attn_version=None), prefill_backend=None)
    assert flash_attn_versions([elsewhere, SimpleNamespace()]) == []
