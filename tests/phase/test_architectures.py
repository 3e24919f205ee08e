import sys
from pathlib import Path

import pytest

from bi_experiments.phase.architectures import architectures


def test_those_of_the_installed_transformers_are_read_without_importing_it() -> None:
    known = architectures()
    assert {"qwen3", "qwen3_moe", "llama", "deepseek_v3", "opt"} <= set(known)
    assert "clip" not in known  # no language model


@pytest.mark.parametrize("source", ["", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = made()\n", "a b\n", None])
def test_of_a_release_that_keeps_them_elsewhere_none_are_known(
    source: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "transformers"
    (package / "models" / "auto").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    if source is not None:
        (package / "models" / "auto" / "modeling_auto.py").write_text(source)
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert architectures() == []
