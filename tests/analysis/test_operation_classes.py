"""Every name that was recorded, and every example of the table, is in the class that it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bi_experiments.analysis.operation_classes import TABLE, OperationClass, Row, classify

RECORDED = Path(__file__).with_name("recorded_operations.tsv")


class Recorded(NamedTuple):
    """A line of the file: what `python -m bi_experiments.operations` printed of a real profile."""

    arm: str
    kind: str
    within: str | None
    name: str


def recorded() -> Iterator[Recorded]:
    for line in RECORDED.read_text().splitlines():
        if line and not line.startswith("#"):
            arm, kind, within, name = line.split("\t")
            yield Recorded(arm, kind, None if within == "-" else within, name)


def test_every_recorded_name_is_in_the_class_that_was_checked_by_hand() -> None:
    wrong = [(*one, classify(one.name, one.within)) for one in recorded() if classify(one.name, one.within) != one.kind]
    assert wrong == []


def test_both_arms_were_recorded_and_nothing_recorded_is_unknown() -> None:
    assert {one.arm for one in recorded()} == {"baseline", "batch_invariant"}
    assert [one for one in recorded() if one.kind == OperationClass.UNKNOWN] == []


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.kind}: {row.pattern[:20]}")
def test_the_examples_of_a_row_are_of_its_class(row: Row) -> None:
    assert row.examples
    assert {classify(example) for example in row.examples} == {row.kind}


def test_every_class_of_names_has_a_row() -> None:
    found = {OperationClass.HOST, OperationClass.UNKNOWN, OperationClass.PROFILER}
    assert {row.kind for row in TABLE} == set(OperationClass) - found


def test_what_attention_calls_is_attention() -> None:
    assert classify("aten::bmm", "vllm::unified_attention_with_output") is OperationClass.ATTENTION
    assert classify("aten::bmm", "vllm::moe_forward") is OperationClass.EXPERTS
    assert classify("aten::bmm", "vllm::rms_norm") is OperationClass.MATRIX_MULTIPLICATION


def test_a_name_that_nobody_knows_is_unknown() -> None:
    assert classify("zzyzx_kernel") is OperationClass.UNKNOWN
