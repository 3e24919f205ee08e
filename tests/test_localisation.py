"""`verify.locate=true`: a violation is located at once, and what fails costs a warning."""

import json
from pathlib import Path

import msgspec
import pytest

from bi_experiments.config.compose import compose
from bi_experiments.experiment import run_experiment
from bi_experiments.launch.progress import NoProgress
from bi_experiments.localisation import inherited, locate_violation
from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.records import INTERRUPTED, Arm, to_json
from tests import factories
from tests.test_locate import probe, write_probes


def test_a_violation_is_located_when_asked_for_and_what_fails_costs_a_warning(
    tmp_path: Path, fake_python: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["experiment=cpu_demo", "tracking=off", "protocol=single", f"runtime.python={fake_python}"]
    off, on = (compose([*settings, f"verify.locate={locate}"]) for locate in ("false", "true"))
    folder = OutputFolder(tmp_path / "out")
    result = run_experiment(on, folder, "python -m bi_experiments", NoProgress(), pages_from_s=1e9)
    write_probes(result, folder, Arm.BATCH_INVARIANT, probe())
    result = msgspec.structs.replace(read_result(folder.root), invariance=factories.invariance_report())
    folder.result.write_bytes(to_json(result))

    assert locate_violation(result, off, folder) is result
    assert locate_violation(msgspec.structs.replace(result, invariance=None), on, folder).location is None
    interrupted = msgspec.structs.replace(result, stopped=INTERRUPTED)
    assert locate_violation(interrupted, on, folder) is interrupted
    assert not folder.reproduction.exists()

    monkeypatch.setenv("FAKE_PHASE", json.dumps({"batch_invariant": "ignores_mode"}))
    assert locate_violation(result, on, folder) is result
    assert capsys.readouterr().err.startswith("warning: what violates invariance was not located: ")

    monkeypatch.setenv("FAKE_PHASE", "{}")
    found = locate_violation(result, on, folder)
    assert found.location is not None
    assert found.location.first is not None
    assert found == read_result(folder.root)
    assert folder.reproduction.exists()
    assert locate_violation(found, on, folder) is found

    write_probes(result, folder, Arm.BATCH_INVARIANT, probe("prefill"))  # which is no violation
    assert locate_violation(result, on, folder) is result
    assert "only tokens of timed outputs differ, or decode from prefill" in capsys.readouterr().err


def test_a_script_that_repeats_a_phase_has_the_switches_that_it_inherited_and_no_paths() -> None:
    exported = {
        "VLLM_USE_BREAKABLE_CUDAGRAPH": "0",
        "NCCL_ALGO": "Ring",
        "VLLM_CACHE_ROOT": "~/x",
        "OMP_NUM_THREADS": "2",
    }
    assert inherited(exported) == {"VLLM_USE_BREAKABLE_CUDAGRAPH": "0", "NCCL_ALGO": "Ring"}
