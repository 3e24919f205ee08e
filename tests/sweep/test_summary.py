import csv
import io
import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from bi_experiments.errors import ExitCode
from bi_experiments.files import write_atomically
from bi_experiments.records import Arm, Invariance, to_json
from bi_experiments.report.rows import Summary
from bi_experiments.sweep import confirmation, summary
from bi_experiments.sweep.folder import SweepFolder
from bi_experiments.sweep.records import ExperimentRecord, Status, SweepRecord
from tests.factories import experiment_result
from tests.sweep.test_records import record

OF = SweepRecord(
    command=("model=demo", "tp=1,2"), started_at=0.0, session_started_at=0.0, pid=1, planned=2, skip_impossible=False
)


def done(number: int, change_pct: float) -> ExperimentRecord:
    overrides = ("model=demo", f"tp={number}")
    return record(number, overrides=overrides, change_pct=change_pct, low_pct=change_pct - 1, high_pct=change_pct + 1)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], ExitCode.DONE),
        ([0, 2], ExitCode.CANNOT_RUN),
        ([2, 5], ExitCode.GATE_UNDECIDED),
        ([5, 4], ExitCode.OVER_GATE),
        ([4, 3], ExitCode.INVARIANCE_VIOLATED),
        ([3, 1], ExitCode.PHASE_FAILED),
        ([1, 130], ExitCode.INTERRUPTED),
    ],
)
def test_the_most_severe_exit_code_is_the_sweeps(codes: list[int], expected: ExitCode) -> None:
    assert summary.exit_code([record(i, exit_code=code) for i, code in enumerate(codes)], False) is expected


def test_a_table_names_what_differs_and_what_it_costs() -> None:
    failed = record(1, Status.FAILED, overrides=("model=demo", "tp=2"), reason="it broke")
    lines = summary.to_text([done(0, 7.5), failed], OF)
    header, _, first, second, reason = lines[2:]
    assert header.split()[:3] == ["#", "tp", "change"]
    assert first.split() == ["0", "0", "+7.50", "+6.50", "..", "+8.50", "-", "done"]
    assert second.split()[-1] == "failed"
    assert reason == "1: it broke"


def test_whether_outputs_agree_between_the_experiments_is_said_in_text_and_table() -> None:
    alike = [replace(done(at, 7.5), probed_alone="probes", outputs_alone="bits") for at in range(3)]
    said = "Outputs agree: each probe alone gave the same bits in all 3 experiments."
    assert summary.to_text(alike, OF)[-1] == said
    apart = [*alike[:2], replace(alike[2], outputs_alone="other")]
    assert summary.to_text(apart, OF)[-1].endswith("other bits, 2 kinds of them: tp=0, tp=1; tp=2.")
    rows = list(csv.DictReader(io.StringIO(summary.to_csv(apart, OF))))
    assert [(row["probed_alone"], row["outputs_alone"]) for row in rows] == [
        ("probes", "bits"), ("probes", "bits"), ("probes", "other"),
    ]  # fmt: skip


def test_the_cheapest_has_an_interval_and_a_mode_that_holds() -> None:
    records = [
        done(0, 7.5),
        replace(done(1, 1.0), invariance=Invariance.VIOLATED),
        replace(done(5, -44.0), invariance=Invariance.HOLDS, alike=False),  # float32 against TF32
        replace(done(6, 0.1), second_arm=Arm.CONTROL),
        replace(done(2, 2.0), low_pct=None, high_pct=None),
        replace(done(3, 3.0), again=4),
        replace(done(4, 9.0), own_s_per_token=0.1),
    ]
    chosen = confirmation.cheapest(records, search=False)
    assert chosen is not None
    assert chosen.number == 0
    assert confirmation.cheapest(records, search=True) is None  # one alone has what is searched for
    assert confirmation.cheapest(records[1:6], search=False) is None


def test_what_measuring_the_cheapest_again_gave_is_said() -> None:
    once = [done(0, 9.5), done(1, 5.0)]
    assert "before you call tp=1 the cheapest" in (confirmation.said(once, OF) or "")
    again = replace(done(2, 6.5), overrides=once[1].overrides, again=1)
    assert confirmation.said([*once, again], OF) == (
        "The cheapest is tp=1: +6.5 % [+5.5 %, +7.5 %] measured again in fresh pairs (+5.0 % [+4.0 %, +6.0 %] when it "
        "was chosen); of 1 other to choose from, no interval reaches down to that."
    )
    failed = record(2, Status.FAILED, again=1, reason="it broke")
    assert confirmation.said([*once, failed], OF) == "Measuring tp=1 again, the lowest, gave no result: it broke."
    assert summary.to_text([*once, again], OF)[:7] == summary.to_text(once, OF)[:7]  # it is no row of the table


@pytest.mark.parametrize("change_pct", [6.5, 9.0])
def test_what_may_cost_no_more_than_the_lowest_keeps_it_from_being_called_the_cheapest(change_pct: float) -> None:
    others = [done(0, 7.5), done(3, 20.0), replace(done(4, 5.5), invariance=Invariance.VIOLATED)]
    again = replace(done(5, change_pct), again=1)
    said = confirmation.said([*others, done(1, 5.0), again], OF) or ""
    assert said.startswith(f"The lowest is tp=1: +{change_pct} %")
    assert said.endswith("That it is the cheapest is not shown: of 2 others to choose from, 1 may cost no more.")


@pytest.mark.parametrize(
    ("found", "why"),
    [({"invariance": Invariance.VIOLATED}, "violated"), ({"alike": False}, "the arms do not compute the same")],
)
def test_what_fails_when_it_is_measured_again_is_not_called_the_cheapest(found: dict[str, object], why: str) -> None:
    again = replace(done(2, 5.5), again=1, **found)
    said = confirmation.said([done(0, 20.0), done(1, 5.0), again], OF) or ""
    assert said.startswith("The lowest is tp=1: +5.5 %")
    assert said.endswith(f", but then it is not one to choose: {why}.")


def test_of_a_resumed_sweep_only_what_measured_the_present_lowest_again_counts() -> None:
    once = [done(0, 20.0), done(1, 5.0)]
    again = replace(done(9, 5.5), again=1)
    lower = done(2, 1.0)
    assert "before you call tp=2 the cheapest" in (confirmation.said([*once, lower, again], OF) or "")
    anew = replace(once[1], identity="another environment")
    assert "before you call tp=1 the cheapest" in (confirmation.said([once[0], anew, again], OF) or "")


def test_what_a_search_chose_is_not_called_the_cheapest_by_its_overhead() -> None:
    once = [replace(done(0, 20.0), own_s_per_token=0.2), replace(done(1, 30.0), own_s_per_token=0.1)]
    search = replace(OF, planned=None)
    said = confirmation.said([*once, replace(done(2, 31.0), again=1)], search) or ""
    assert said.startswith("The mode takes least time per token, going by the search, with tp=1: +31.0 % [")
    assert "cheapest" not in said


def test_what_is_said_of_the_cheapest_names_it_by_what_differs() -> None:
    models = [f"model.name=an-organisation/a-model-of-a-name-longer-than-forty-characters-{one}" for one in "ab"]
    once = [replace(done(at, 5.0 + at), overrides=(model,)) for at, model in enumerate(models)]
    said = confirmation.said(once, OF) or ""
    assert "before you call characters-a the cheapest" in said or "before you call a the cheapest" in said


def test_rows_in_which_vllm_changed_more_than_the_mode_say_so() -> None:
    differs = "compilation mode (VLLM_COMPILE → NONE)"
    records = [done(0, 7.5), replace(done(1, 5.0), differs=differs), replace(done(2, 6.0), differs=differs)]
    said = " ".join(summary.to_text(records, OF))
    assert f"1, 2: vLLM also changed other settings between the arms (baseline → second arm): {differs}" in said
    assert said.count("VLLM_COMPILE") == 1
    assert summary.to_csv(records, OF).count(differs) == 2


def test_a_thousand_experiments_are_shown_by_their_extremes_and_failures() -> None:
    many = [done(number, float(number)) for number in range(990)]
    many += [record(number, Status.FAILED, reason="it broke") for number in range(990, 1000)]
    lines = summary.to_text(many, OF)
    assert len(lines) < 60
    text = "\n".join(lines)
    assert "990 done, 10 failed" in text
    assert "+0.00" in text
    assert "+989.00" in text
    assert "999: it broke" in text


def test_two_baselines_are_called_so_and_are_not_among_the_lowest_costs() -> None:
    control = replace(done(1000, -3.0), second_arm=Arm.CONTROL, invariance=Invariance.NOT_PROBED)
    lines = summary.to_text([*(done(number, float(number)) for number in range(50)), control], OF)
    lowest = lines[lines.index("The lowest costs:") :]
    (shown,) = (line for line in lowest if line.startswith("1000"))
    assert shown.split()[-2:] == ["A/A", "done"]
    assert lines[lines.index(shown) - 3] == "A/A (two baselines), the first of 1:"
    assert summary.outcome(control) == "A/A -3.0 % [-4.0 %, -2.0 %]"
    same = {"probed_alone": "probes", "outputs_alone": "bits"}
    alike = [
        replace(done(0, 7.5), **same),
        replace(done(1, 7.5), **same),
        replace(control, **same | {"outputs_alone": "x"}),
    ]
    assert [one.agree for one in summary.alike_in(alike, OF)] == [True]


def test_the_csv_has_every_experiment_with_its_settings() -> None:
    cannot = record(1, Status.CANNOT_RUN, overrides=("model=demo", "tp=2"), reason='too few, "two"')
    timed = replace(done(0, 7.5), baseline_s=2.0, second_s=2.15)
    rows = list(csv.DictReader(io.StringIO(summary.to_csv([timed, cannot], OF))))
    assert [row["tp"] for row in rows] == ["0", "2"]
    assert rows[0]["change_pct"] == "7.5"
    assert (rows[0]["baseline_s"], rows[0]["batch_invariant_s"]) == ("2.0", "2.15")
    assert rows[1]["reason"] == 'too few, "two"'
    assert "model" not in rows[0]


def test_few_words_say_what_became_of_an_experiment() -> None:
    assert summary.outcome(record(0, change_pct=7.4, low_pct=6.1, high_pct=8.8, invariance=Invariance.NOT_SHOWN)) == (
        "+7.4 % [+6.1 %, +8.8 %] invariance not shown"
    )
    assert summary.outcome(record(0, Status.FAILED, reason="it broke")) == "failed: it broke"
    assert summary.outcome(record(0, Status.INTERRUPTED)) == "interrupted"
    assert summary.outcome(record(0)) == "no complete pair"


def test_the_page_shows_what_was_kept_of_each_result(tmp_path: Path) -> None:
    sweep = SweepFolder(tmp_path)
    sweep.append(done(0, 7.4))
    write_atomically(sweep.record, to_json(OF))
    summary.sum_up(Summary.of(experiment_result()), tmp_path / "0")
    assert summary.write(sweep)
    (row,) = summary.to_rows(sweep, sweep.read(), OF)
    assert row.result == Summary.of(experiment_result())
    assert row.settings == {"tp": "0"}
    assert "tp=0" in sweep.html.read_text()


def test_a_summary_with_fields_of_an_older_release_is_read(tmp_path: Path) -> None:
    sweep = SweepFolder(tmp_path)
    path = tmp_path / "0" / "summary.json"
    summary.sum_up(Summary.of(experiment_result()), path.parent)
    older = json.loads(path.read_bytes()) | {"sentence": "Batch invariance costs 7.4 %.", "started_at": 1.0}
    write_atomically(path, json.dumps(older).encode())
    (row,) = summary.to_rows(sweep, [done(0, 7.4)], OF)
    assert row.result == Summary.of(experiment_result())


def test_a_page_that_cannot_be_drawn_does_not_end_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no font")

    monkeypatch.setattr(summary, "draw", fail)
    sweep = SweepFolder(tmp_path)
    sweep.append(done(0, 7.4))
    assert summary.write(sweep)
    assert "7.4" in sweep.csv.read_text()
    assert "no font" in capsys.readouterr().err


def test_the_summary_takes_a_small_part_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still while nothing is written, and goes 1 s every time it is looked at."""
    clock = iter(range(1000))
    monkeypatch.setattr("time.time", lambda: float(next(clock)))
    sweep = SweepFolder(tmp_path)
    sweep.append(done(0, 7.4))
    written = [summary.write(sweep) for _ in range(100)]
    assert written[0]
    assert 0 < sum(written) < 10
    assert summary.write(sweep, at_any_rate=True)


def test_a_failure_of_an_earlier_start_does_not_end_a_resumed_sweep(tmp_path: Path) -> None:
    sweep = SweepFolder(tmp_path)
    sweep.append(record(0, Status.FAILED, at=5.0))
    sweep.append(record(1, Status.CANNOT_RUN, at=15.0))
    later = {"started_at": 0.0, "command": (), "pid": 1, "planned": None, "session_started_at": 10.0}
    write_atomically(sweep.record, to_json(SweepRecord(**later, skip_impossible=True)))  # type: ignore[arg-type]
    assert summary.first_failure(sweep) is None
    write_atomically(sweep.record, to_json(SweepRecord(**later, skip_impossible=False)))  # type: ignore[arg-type]
    found = summary.first_failure(sweep)
    assert found is not None
    assert found.number == 1
