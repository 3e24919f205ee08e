import csv
import io
import json

import pytest
from msgspec.structs import replace

from bi_experiments.records import Arm
from bi_experiments.report.exports import COLUMNS, benchmark_json, trials_csv
from tests import factories


def test_every_trial_is_a_row_under_the_same_columns() -> None:
    result = factories.whole_result()
    rows = list(csv.DictReader(io.StringIO(trials_csv(result))))
    assert len(rows) == sum(len(phase.trials) for phase in result.phases)
    assert tuple(rows[0]) == COLUMNS
    first = result.phases[0].trials[0]
    assert float(rows[0]["time_s"]) == first.time_s
    assert int(rows[0]["batch_size"]) == first.batch_size
    assert {row["arm"] for row in rows} == {Arm.BASELINE.value, Arm.BATCH_INVARIANT.value}
    assert {row["needle_equal"] for row in rows} == {"true"}


def test_one_launch_an_arm_has_no_interval_here_either() -> None:
    (cost, *_) = json.loads(benchmark_json(factories.whole_result(factories.phases([7.0]))))
    assert cost["extra"].startswith("1 pair, no interval\n")


@pytest.mark.parametrize(
    ("settings", "second", "said"),
    [
        ((), Arm.BATCH_INVARIANT, "cost of the mode"),
        (("protocol.inject_pct=5",), Arm.BATCH_INVARIANT, "cost of the mode, with 5 % injected"),
        (("protocol=control",), Arm.CONTROL, "a second baseline"),
        (("protocol=control", "protocol.inject_pct=5"), Arm.CONTROL, "a second baseline, with 5 % injected"),
    ],
)
def test_a_check_of_the_method_is_not_drawn_as_a_cost(settings: tuple[str, ...], second: Arm, said: str) -> None:
    result = factories.whole_result(factories.phases([7.0, 7.5], second=second), *settings)
    (ratio, *_) = json.loads(benchmark_json(result))
    assert ratio["name"] == f"{result.name} {' '.join(result.command.split()[3:])}: {said}"


def test_two_configurations_are_two_lines_of_a_chart_wherever_they_were_logged() -> None:
    commands = [
        "backend.enforce_eager=true tracking=off hydra.run.dir=a",
        "backend.enforce_eager=true",
        "+backend.engine.quantization=fp8",
    ]
    first, elsewhere, other = (
        [
            entry["name"]
            for entry in json.loads(
                benchmark_json(replace(factories.whole_result(), command=f"python -m bi_experiments {settings}"))
            )
        ]
        for settings in commands
    )
    assert first == elsewhere
    assert not set(first) & set(other)


def test_a_record_without_a_trial_is_a_head_alone() -> None:
    result = replace(factories.whole_result(), phases=(), comparison=None, invariance=None)
    assert trials_csv(result) == ",".join(COLUMNS) + "\n"
    assert json.loads(benchmark_json(result)) == []


def test_the_dashboard_gets_names_units_and_finite_values_of_which_smaller_is_better() -> None:
    result = factories.whole_result()
    assert result.comparison is not None
    entries = {entry["name"].partition(": ")[2]: entry for entry in json.loads(benchmark_json(result))}
    metric = result.comparison.metric("total_time")
    assert metric is not None
    assert metric.change_pct is not None
    cost = entries["cost of the mode"]
    assert cost["value"] == pytest.approx(1 + metric.change_pct / 100)
    assert cost["unit"] == "x total time"
    assert result.command in cost["extra"]
    assert entries["total time, baseline"]["value"] == metric.baseline
    assert entries["total time, batch invariant"]["value"] == metric.second
    assert all(set(entry) <= {"name", "unit", "value", "range", "extra"} for entry in entries.values())
