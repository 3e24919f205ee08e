"""Fixtures of the whole suite."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bi_experiments.report.blocks import TITLE
from bi_experiments.report.layout import RULE, heading
from tests.fake_nvml import FakeDevice, FakeNvml

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    """An interpreter to name as `runtime.python`: its phases have no engine (`tests/fake_phase.py`)."""
    return write_fake_python(tmp_path)


def write_fake_python(folder: Path) -> Path:
    """Write that interpreter to a folder."""
    script = folder / "fake_python"
    command = shlex.join([sys.executable, str(REPOSITORY / "tests" / "fake_phase.py")])
    script.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(REPOSITORY))} exec {command} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    """Makes NVML see these devices and no others."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(*devices: FakeDevice) -> FakeNvml:
        fake = FakeNvml(devices)
        fake.install(monkeypatch)
        return fake

    return make


def as_on_a_terminal(text: str) -> str:
    """The text of `report.txt` with the answer, with which it opens, at its end."""
    title = "\n".join(heading(TITLE)) + "\n"
    found, _, blocks = text.removeprefix(title).partition("\n\nConfiguration:")
    return f"{title}Configuration:{blocks.removesuffix(RULE + chr(10))}{found}\n{RULE}\n"
