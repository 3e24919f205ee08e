"""The gate holds the whole interval against the limit, and says when it cannot decide."""

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.outcome import decide_gate, describe_gate, exit_code
from bi_experiments.config.compose import compose
from bi_experiments.errors import ExitCode
from bi_experiments.records import Invariance, Reproducibility
from tests import factories


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (10.1, 12.0, ExitCode.OVER_GATE),
        (9.0, 12.0, ExitCode.GATE_UNDECIDED),
        (10.0, 12.0, ExitCode.GATE_UNDECIDED),
        (8.0, 10.0, ExitCode.DONE),
        (-3.0, -1.0, ExitCode.DONE),
        (None, None, ExitCode.GATE_UNDECIDED),
    ],
)
def test_decision(low: float | None, high: float | None, expected: ExitCode) -> None:
    comparison = factories.comparison(factories.metric(9.5, low, high))
    assert decide_gate(comparison, max_overhead_pct=10.0) is expected


def test_without_a_time_nothing_is_decided() -> None:
    comparison = factories.comparison(factories.metric(name="throughput"))
    assert decide_gate(comparison, 10.0) is ExitCode.GATE_UNDECIDED


@pytest.mark.parametrize(
    ("low", "high", "line"),
    [
        (6.1, 8.8, "Over the gate: the whole interval of +7.4 % [+6.1 %, +8.8 %] total time is over the gate of 5 %."),
        (
            1.0,
            3.0,
            "Within the gate: the whole interval of +7.4 % [+1.0 %, +3.0 %] total time is at or under the gate of 5 %.",
        ),
        (
            4.0,
            9.0,
            "Gate undecided: the gate of 5 % lies within the interval of +7.4 % [+4.0 %, +9.0 %] total time; "
            "more pairs narrow it.",
        ),
        (
            None,
            None,
            "Gate undecided: no interval to hold against the gate of 5 %; it takes two complete pairs "
            "(protocol.pairs).",
        ),
    ],
)
def test_the_line_says_what_was_decided_and_by_what(low: float | None, high: float | None, line: str) -> None:
    assert describe_gate(factories.comparison(factories.metric(7.4, low, high)), 5.0) == line


@pytest.mark.parametrize(
    ("verdict", "between", "overrides", "expected"),
    [
        (Invariance.HOLDS, Reproducibility.REPRODUCIBLE, [], ExitCode.DONE),
        (Invariance.NO_CONTROL, Reproducibility.ONE_LAUNCH, ["verify.strict_launches=true"], ExitCode.DONE),
        (Invariance.NOT_PROBED, Reproducibility.REPRODUCIBLE, [], ExitCode.DONE),
        (Invariance.VIOLATED, Reproducibility.REPRODUCIBLE, [], ExitCode.INVARIANCE_VIOLATED),
        (Invariance.VIOLATED, Reproducibility.REPRODUCIBLE, ["verify.strict=false"], ExitCode.DONE),
        (Invariance.NOT_DETERMINISTIC, Reproducibility.REPRODUCIBLE, [], ExitCode.INVARIANCE_VIOLATED),
        (Invariance.HOLDS, Reproducibility.NOT_REPRODUCIBLE, [], ExitCode.DONE),
        (
            Invariance.HOLDS,
            Reproducibility.NOT_REPRODUCIBLE,
            ["verify.strict_launches=true"],
            ExitCode.INVARIANCE_VIOLATED,
        ),
    ],
)
def test_the_exit_code_of_a_proof(
    verdict: Invariance, between: Reproducibility, overrides: list[str], expected: ExitCode
) -> None:
    report = factories.proof_report()
    arms = tuple(replace(arm, verdict=verdict, reproducible=between) for arm in report.arms)
    result = factories.experiment_result(invariance=replace(report, arms=arms))
    assert exit_code(result, compose(["experiment=cpu_demo", *overrides])) is expected
