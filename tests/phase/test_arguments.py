import sys
from pathlib import Path

import pytest

from bi_experiments.phase.arguments import Argument, engine_arguments

SOURCES = {
    "config/one.py": "class BaseConfig:\n    level: int = 0\nclass OneConfig(BaseConfig):\n    mode: int = 1\n",
    "config/other.py": "class OtherConfig(Unknown):\n    x: int\n",
    "engine/arg_utils.py": (
        "class EngineArgs:\n    seed: int = 0\n    one_config: OneConfig | None = None\n"
        "    other_config: OtherConfig = get()\n    free_config: dict[str, Any] = None\n"
        "    size: int | None = 1\n    mode: Mode | str = 'a'\n    quoted: 'int | None' = 1\n    def run(self): ...\n"
    ),
    "entrypoints/llm.py": "class LLM:\n    def __init__(self, model: str, *, spec_tokens: int = 1, **kwargs): ...\n",
}


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, sources: dict[str, str]) -> None:
    for name, text in {"__init__.py": "raise RuntimeError('imported')", **sources}.items():
        path = folder / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.syspath_prepend(str(folder))


def test_arguments_and_their_keys_are_read_from_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, monkeypatch, SOURCES)
    assert engine_arguments() == {
        "model": Argument(None, ["str"]),
        "spec_tokens": Argument(None, ["int"]),
        "seed": Argument(None, ["int"]),
        "one_config": Argument(["mode", "level"], []),
        "other_config": Argument(None, []),  # it inherits what is not known
        "free_config": Argument(None, []),
        "size": Argument(None, ["int", "None"]),
        "mode": Argument(None, []),
        "quoted": Argument(None, []),
    }


@pytest.mark.parametrize("name", ["engine/arg_utils.py", "entrypoints/llm.py"])
def test_a_release_that_keeps_them_elsewhere_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    package(tmp_path, monkeypatch, {**SOURCES, name: "class Renamed: ..."})
    assert engine_arguments() == {}


def test_no_vllm_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert engine_arguments() == {}
