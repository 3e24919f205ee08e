"""The proof on real engines: it sees every sabotage of the plugin, and does not claim what it could not have seen."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bi_experiments.analysis.invariance import judge
from bi_experiments.config.compose import compose
from bi_experiments.experiment import run_single_phase
from bi_experiments.records import Arm, Invariance, InvarianceReport, PhaseResult, ProbeResult
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.engine

COMPOSITIONS = ["batch_8", "step_255", "step_256", "step_257"]
SMALL = (
    "experiment=cpu_demo",
    "workload.num_trials=1",
    "workload.max_batch_size=8",
    "workload.max_tokens=2",
    "protocol.warmup=0",
    f"verify.compositions=[{','.join(COMPOSITIONS)}]",
)


def run_phase(arm: Arm, *overrides: str) -> PhaseResult:
    return run_single_phase(compose([*SMALL, *overrides]), arm)


def sabotage(name: str, folder: Path) -> str:
    """The override that runs a phase with that thing of the plugin broken."""
    interpreter = folder / "python"
    command = shlex.join([sys.executable, str(REPOSITORY / "tests" / "engine" / "sabotage.py"), name])
    # The checkpoint is made by the same interpreter, and needs no plugin, which takes seconds to import.
    others = f'[ "$2" = bi_experiments.phase ] || exec {shlex.quote(sys.executable)} "$@"'
    interpreter.write_text(f'#!/bin/sh\n{others}\nexec {command} "$@"\n')
    interpreter.chmod(0o755)
    return f"runtime.python={interpreter}"


def sabotaged(name: str, folder: Path) -> tuple[InvarianceReport, dict[str, list[ProbeResult]]]:
    """The verdict on a batch-invariant phase with a broken plugin, and the results by composition."""
    phase = run_phase(Arm.BATCH_INVARIANT, sabotage(name, folder))
    report = judge([phase], "standard", COMPOSITIONS)
    assert report is not None
    by_composition: dict[str, list[ProbeResult]] = {name: [] for name in COMPOSITIONS}
    for result in phase.probes:
        by_composition[result.composition].append(result)
    return report, by_composition


def differing(results: Sequence[ProbeResult]) -> list[ProbeResult]:
    return [result for result in results if not result.equal]


def test_a_kernel_that_is_chosen_by_the_number_of_rows_is_seen(tmp_path: Path) -> None:
    report, results = sabotaged("tiles_off", tmp_path)
    assert report.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    assert differing(results["batch_8"])


def test_attention_that_splits_the_keys_is_seen(tmp_path: Path) -> None:
    report, _ = sabotaged("kv_split_on", tmp_path)
    assert report.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED


def test_a_kernel_that_changes_above_256_tokens_is_seen_there_and_only_there(tmp_path: Path) -> None:
    report, results = sabotaged("above_256_tokens", tmp_path)
    assert report.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    assert not differing(results["step_255"] + results["step_256"])
    assert results["step_256"]
    changed = differing(results["step_257"])
    assert changed
    # The step of 257 tokens is the prefill: already the first output token comes from it.
    assert {result.first_difference for result in changed} == {0}


def test_a_kernel_that_depends_on_the_position_is_seen_from_the_first_decoded_token_on(tmp_path: Path) -> None:
    report, results = sabotaged("position_in_batch", tmp_path)
    assert report.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    changed = differing(results["batch_8"])
    # The first position is the reference's own.
    assert {result.position for result in changed} == {result.position for result in results["batch_8"]} - {0}
    # The first output token comes from the prefill, which is a larger step: the first decoded one is the second.
    assert {result.first_difference for result in changed} == {1}


def test_a_baseline_that_does_not_differ_shows_nothing(tmp_path: Path) -> None:
    baseline = run_phase(Arm.BASELINE, sabotage("invariant_baseline", tmp_path))
    assert baseline.probes
    assert not differing(baseline.probes)
    report = judge([baseline, run_phase(Arm.BATCH_INVARIANT)], "standard", COMPOSITIONS)
    assert report is not None
    assert report.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_SHOWN
