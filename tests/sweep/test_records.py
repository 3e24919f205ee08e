from pathlib import Path

import pytest
from msgspec.structs import replace

from bi_experiments.records import Arm, ArmVerdict, Invariance, InvarianceReport
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.records import ExperimentRecord, Status, with_result
from tests import factories
from tests.factories import experiment_result, proof_report


def record(number: int, status: Status = Status.DONE, **fields: object) -> ExperimentRecord:
    return ExperimentRecord(
        **{
            "number": number,
            "folder": str(number),
            "overrides": (f"tp={number}",),
            "status": status,
            "at": 1.0,
            **fields,
        }  # type: ignore[arg-type]
    )


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "sweep")


def test_what_the_engines_of_the_arms_do_not_share_is_part_of_the_row() -> None:
    compiled = factories.observed(compilation_mode="VLLM_COMPILE")
    phases = [
        replace(one, observed=compiled) if one.arm is Arm.BASELINE else one for one in factories.phases((7.0, 8.0))
    ]
    assert with_result(record(0), experiment_result(phases)).differs == "compilation mode (VLLM_COMPILE → NONE)"
    assert with_result(record(0), experiment_result()).differs is None


def test_two_baselines_are_known_by_their_second_arm() -> None:
    controls = experiment_result(factories.phases((0.1, -0.1), second=Arm.CONTROL))
    assert [with_result(record(0), one).control for one in (controls, experiment_result())] == [True, False]


def test_the_last_line_of_an_experiment_counts(folder: SweepFolder) -> None:
    for one in (record(1, Status.RUNNING), record(0), record(1)):
        folder.append(one)
    assert folder.read() == [record(0), record(1)]


def test_the_second_arms_time_is_stored_under_the_name_of_the_mode(folder: SweepFolder) -> None:
    folder.append(record(0, second_s=2.15))
    assert b'"batch_invariant_s":2.15' in folder.experiments.read_bytes()
    assert folder.read()[0].second_s == 2.15


def test_a_line_that_was_torn_by_a_kill_costs_nothing_but_itself(folder: SweepFolder) -> None:
    folder.append(record(0))
    with folder.experiments.open("ab") as file:
        file.write(b'{"number":1,"fold')
    assert folder.read() == [record(0)]
    folder.append(record(2))
    assert folder.read() == [record(0), record(2)]


def test_a_sweep_without_experiments_has_none(folder: SweepFolder) -> None:
    assert folder.read() == []


def test_a_record_has_the_overhead_and_the_verdict_of_the_second_arm() -> None:
    verdicts = [
        ArmVerdict(arm=arm, verdict=verdict, differing=0, total=9, launches_compared=3, launches_differing=0)
        for arm, verdict in ((Arm.BASELINE, Invariance.VIOLATED), (Arm.BATCH_INVARIANT, Invariance.HOLDS))
    ]
    report = InvarianceReport(
        level="standard", arms=tuple(verdicts), compositions=(), needle_differing={}, needle_total={}, sentence=""
    )
    found = with_result(record(0), experiment_result(invariance=report))
    assert found.alike is None
    assert with_result(record(0), experiment_result(invariance=proof_report())).alike is False
    assert found.change_pct == 7.4
    assert found.invariance is Invariance.HOLDS


def test_a_result_without_a_pair_has_no_overhead() -> None:
    found = with_result(record(0), experiment_result(comparison=None))
    assert found.wall_time_s is not None
    assert found.change_pct is None
