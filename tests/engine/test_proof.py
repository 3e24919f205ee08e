"""The proof on real engines: it sees every sabotage of the plugin, and does not claim what it could not have seen."""

import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bi_experiments.analysis.invariance import judge
from bi_experiments.config.compose import compose
from bi_experiments.experiment import run_single_phase
from bi_experiments.records import Arm, Fault, Invariance, InvarianceReport, PhaseResult, ProbeResult
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.engine

COMPOSITIONS = ["batch_8", "step_255", "step_256", "step_257"]
SMALL = (
    "experiment=cpu_demo",
    "workload.num_trials=1",
    "workload.max_batch_size=8",
    "workload.max_tokens=2",
    "protocol.warmup=0",
    "protocol.caches=user",
    f"verify.compositions=[{','.join(COMPOSITIONS)}]",
)


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all phases: without it each imports vLLM a second time, to look at the model's class."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CACHE_ROOT", str(tmp_path_factory.mktemp("caches")))
        yield


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


def sabotaged(name: str, folder: Path, *overrides: str) -> tuple[InvarianceReport, dict[str, list[ProbeResult]]]:
    """The verdict on a batch-invariant phase with a broken plugin, and the results by composition."""
    phase = run_phase(Arm.BATCH_INVARIANT, sabotage(name, folder), *overrides)
    report = judge([phase], "standard", COMPOSITIONS)
    assert report is not None
    by_composition: dict[str, list[ProbeResult]] = defaultdict(list)
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


STEPS = (
    "verify.compositions=[batch_8,trial,sizes,arrivals]",
    "workload.max_batch_size=32",
    "workload.max_tokens=24",
)
"""A trial whose prompts need several steps, so that some of them decode beside the prefill of others."""


def violated(report: InvarianceReport) -> set[str]:
    """The compositions of the batch-invariant arm that are violated."""
    return {one.composition for one in report.compositions if one.verdict is Invariance.VIOLATED}


def test_a_decode_that_changes_beside_a_prefill_is_seen_where_there_is_one(tmp_path: Path) -> None:
    report, _ = sabotaged("decode_beside_prefill", tmp_path, *STEPS)
    assert report.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    assert violated(report) == {"trial", "arrivals"}


def test_a_decode_that_changes_beside_a_prefill_in_long_contexts_alone_is_seen_there(tmp_path: Path) -> None:
    report, results = sabotaged("long_decode_beside_prefill", tmp_path, *STEPS)
    assert report.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    assert "arrivals" in violated(report) <= {"trial", "arrivals"}
    # The probes have contexts of 129 and 512 tokens.
    assert {result.probe for result in differing(results["arrivals"])} == {1}


def test_a_kernel_that_changes_at_exactly_29_sequences_is_seen(tmp_path: Path) -> None:
    report, _ = sabotaged("exactly_29", tmp_path, *STEPS)
    assert "sizes" in violated(report) <= {"sizes", "trial"}


def test_a_kernel_that_changes_after_the_20th_output_token_is_seen(tmp_path: Path) -> None:
    report, results = sabotaged("after_20_tokens", tmp_path, *STEPS)
    assert violated(report) == {"sizes", "trial"}
    assert min(result.first_difference or 0 for result in differing(results["sizes"])) == 20


def test_a_kernel_that_draws_lots_is_not_deterministic_and_not_blamed_on_the_batch(tmp_path: Path) -> None:
    report, results = sabotaged("draws_lots", tmp_path, *STEPS)
    assert report.verdict(Arm.BATCH_INVARIANT) is Invariance.NOT_DETERMINISTIC
    assert report.sentence.startswith("Not deterministic: ")
    assert differing(results["batch_1"])
    assert not violated(report)


def test_output_that_is_no_number_is_a_violation_with_a_name_of_its_own(tmp_path: Path) -> None:
    report, _ = sabotaged("returns_nan", tmp_path, *STEPS)
    assert report.verdict(Arm.BATCH_INVARIANT) is Invariance.VIOLATED
    assert {one.fault for one in report.compositions} == {Fault.NAN}
    assert "the output is NaN" in report.sentence


def test_a_baseline_that_does_not_differ_shows_nothing(tmp_path: Path) -> None:
    baseline = run_phase(Arm.BASELINE, sabotage("invariant_baseline", tmp_path))
    assert baseline.probes
    assert not differing(baseline.probes)
    report = judge([baseline, run_phase(Arm.BATCH_INVARIANT)], "standard", COMPOSITIONS)
    assert report is not None
    assert {one.verdict for one in report.compositions if one.verdict} == {Invariance.NO_CONTROL}
