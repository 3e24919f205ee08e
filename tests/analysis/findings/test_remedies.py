"""What a finding, or the remedy of a failure, recommends is possible: its settings compose and pass the checks."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields

import pytest

from bi_experiments.config.checks import check
from bi_experiments.config.compose import OPEN, compose
from bi_experiments.config.keys import key_types
from bi_experiments.config.schema import ExperimentConfig
from tests.conftest import REPOSITORY

GROUPS = "|".join([*(field.name for field in fields(ExperimentConfig)), "experiment"])
SETTING = re.compile(rf"(?<![\w.-])(\+?(?:{GROUPS})(?:\.\w+)*=(?:\[\.\.\.\]|[\w-]+(?:\.\d+)?))")
KEY = re.compile(rf"(?<![\w./-])(?:{GROUPS})(?:\.\w+)+")
PLACEHOLDERS = {"=N": "=64", "=FOLDER": "=folder", "=[...]": "=[1,2]"}


def texts() -> Iterator[str]:
    """All text of the modules that recommend something; what an f-string fills in is a 1."""
    package = REPOSITORY / "bi_experiments"
    for path in [*sorted((package / "analysis" / "findings").glob("*.py")), package / "launch" / "causes.py"]:
        tree = ast.parse(path.read_text())
        filled = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        parts = {id(part) for node in filled for part in node.values}
        for node in filled:
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "1" for part in node.values)
        for constant in ast.walk(tree):
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str) and id(constant) not in parts:
                yield constant.value


SETTINGS = sorted({found for text in texts() for found in SETTING.findall(text)})
KEYS = sorted({found for text in texts() for found in KEY.findall(text) if not OPEN.match(found)})


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_recommended_setting_is_possible(setting: str) -> None:
    for placeholder, value in PLACEHOLDERS.items():
        setting = re.sub(rf"{re.escape(placeholder)}$", value, setting)
    check(compose([setting]))


@pytest.mark.parametrize("key", KEYS)
def test_a_recommended_key_exists(key: str) -> None:
    assert key in key_types()


def test_there_are_settings_to_test() -> None:
    assert len(SETTINGS) > 20
    assert len(KEYS) > 10
