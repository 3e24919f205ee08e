"""`python -m bi_experiments.operations`: what a profiled experiment ran, in the form of the recorded names."""

from pathlib import Path

import pytest

from bi_experiments.errors import ExitCode
from bi_experiments.operations import main
from bi_experiments.records import to_json
from tests.analysis.test_profiles import result


def test_every_name_of_each_arm_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "result.json").write_bytes(to_json(result()))
    assert main([str(tmp_path)]) is ExitCode.DONE
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines)) == 6
    assert "batch_invariant\tmatrix multiplication\t-\tmatmul_kernel_persistent" in lines
    assert "baseline\tattention\t-\tkernel_unified_attention" in lines


def test_without_a_profile_it_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "result.json").write_bytes(to_json(result(baseline=None, batch_invariant=None)))
    assert main([str(tmp_path)]) is ExitCode.CANNOT_RUN
    assert "profile=true" in capsys.readouterr().err
