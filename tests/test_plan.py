"""The planner says what it would take, in pairs, minutes and a command."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from bi_experiments import plan
from bi_experiments.analysis.estimates import paired_estimate
from bi_experiments.analysis.planner import Spread, deviation_interval, spread, to_narrow, to_show_less_than
from bi_experiments.claim import held
from bi_experiments.config.checks import check
from bi_experiments.config.compose import compose
from bi_experiments.errors import ExitCode
from bi_experiments.files import write_atomically
from bi_experiments.paths import OutputFolder
from bi_experiments.records import to_json
from bi_experiments.report.planning import planning
from tests import factories

DECIDED_PCT = [5.0, 8.0, 7.0, 9.5]
UNDECIDED_PCT = [-2.0, 3.0, 1.0, -1.5]


def written(folder: Path, costs_pct: list[float]) -> str:
    write_atomically(OutputFolder(folder).result, to_json(factories.whole_result(factories.phases(costs_pct))))
    return str(folder)


def test_an_experiment_that_still_runs_is_not_planned_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, UNDECIDED_PCT)
    with held(OutputFolder(tmp_path)):
        assert plan.main([folder]) is ExitCode.CANNOT_RUN
    assert capsys.readouterr().err == f"error: the experiment in {folder} is still running: wait until it has ended\n"
    assert plan.main([folder]) is ExitCode.DONE


def test_every_report_says_what_more_pairs_would_buy() -> None:
    first, command, basis, _ = planning(factories.whole_result(factories.phases(UNDECIDED_PCT)))
    assert first.startswith(
        "What more pairs would buy, in 80 % of experiments if the deviation is as estimated from 4 launches of each "
        "arm: to distinguish 2 % from no change here: "
    )
    assert "to show less than 1 %: " in first
    assert command.startswith("Run: python -m bi_experiments experiment=cpu_demo protocol.pairs=")
    assert re.search(r"deviation of (\S+) % \[(\S+) %, (\S+) %\] of .*, estimated from 4 launches of each arm", basis)


@pytest.mark.parametrize(("costs_pct", "verdict"), [(DECIDED_PCT, "slower"), ([0.1, -0.2, 0.2, 0.1], "equivalent")])
def test_of_a_decided_cost_a_narrower_interval_is_planned(costs_pct: list[float], verdict: str) -> None:
    result = factories.whole_result(factories.phases(costs_pct))
    first, command, *_ = planning(result)
    planned = re.search(r"to halve the interval, which already decides \((\w+)\), to ±(\S+) points: (\d+) pairs", first)
    assert planned is not None
    assert planned[1] == verdict
    metric = result.comparison.metric("total_time") if result.comparison else None
    assert metric is not None
    assert metric.low_pct is not None
    assert metric.high_pct is not None
    assert float(planned[2]) == pytest.approx((metric.high_pct - metric.low_pct) / 4, abs=0.01)
    assert command.endswith(f" protocol.pairs={planned[3]}")
    assert 4 < int(planned[3]) < 30
    assert "to distinguish" not in first
    assert "to show" not in first


def test_the_plan_of_two_stages_says_that_the_interval_rests_on_the_first() -> None:
    costs_pct = [3.0, 3.2, -9.0, 21.0]
    settings = ("protocol.pairs=2", "protocol.target_half_width_pct=3", "protocol.max_pairs=4")
    said = planning(factories.whole_result(factories.phases(costs_pct), *settings))
    deviation_pct = 100 * math.log(1.032 / 1.03) / math.sqrt(2)
    assert said[-1].endswith(f"rests on the 2 pairs of the first stage alone, {deviation_pct:.2f} %.")
    assert not any("would narrow the interval to" in sentence for sentence in said)


def test_own_targets_are_planned_for_where_the_cost_is_decided_too() -> None:
    said = planning(factories.whole_result(factories.phases(DECIDED_PCT)), [3.0], [0.5])[0]
    assert "to distinguish 3 % from no change here: " in said
    assert "to show less than 0.5 %: " in said
    assert "points" not in said


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["protocol.pairs=4"],
        ["protocol=rigorous"],
        ["protocol=rigorous", "protocol.pairs=4", "protocol.max_pairs=20"],
        ["protocol=rigorous", "protocol.target_half_width_pct=null", "protocol.pairs=4"],
        ["protocol.target_half_width_pct=2", "protocol.max_pairs=6"],
        ["protocol.caches=fresh", "protocol.launches_per_cache=2"],
        ["protocol.time_budget_min=7.8", "protocol.pairs=3"],
    ],
    ids=" ".join,
)
def test_every_planned_command_runs_as_many_pairs_as_planned(settings: list[str]) -> None:
    whole = factories.whole_result(
        factories.phases(UNDECIDED_PCT), *settings, command=" ".join([factories.experiment_result().command, *settings])
    )
    first, command, *_ = planning(whole)
    config = compose(command.removeprefix("Run: python -m bi_experiments ").split())
    check(config)
    planned = max(int(found) for found in re.findall(r": (\d+) pairs", first))
    assert config.protocol.pairs == planned > len(UNDECIDED_PCT)
    assert config.protocol.target_half_width_pct is None
    assert config.protocol.time_budget_min is None


def test_more_pairs_than_an_experiment_may_have_are_not_planned() -> None:
    spread = Spread(0.1, 4, pair_s=1.0, freedom=1, launches_per_cache=2)
    within_reach = to_show_less_than(spread._replace(launches_per_cache=1), 1.2)
    assert within_reach.pairs is not None
    assert within_reach.pairs > 500
    assert to_show_less_than(spread, 1.2).pairs is None


@pytest.mark.parametrize("interleave", ["launch", "trial"])
@pytest.mark.parametrize("of_the_baseline", [0.0, 0.3, 1.0, 5.0])
def test_a_plan_rests_on_the_spread_and_the_degrees_of_freedom_of_the_interval(
    interleave: str, of_the_baseline: float
) -> None:
    """However the arms share the spread, one of them may have none."""
    phases = [
        phase
        for pair, cost_pct in enumerate(UNDECIDED_PCT)
        for phase in factories.phases(
            [0.0] * pair + [cost_pct],
            [time_s * (1 + of_the_baseline * (-1) ** (pair % 3) / 100) for time_s in factories.TRIAL_TIMES_S],
        )[2 * pair :]
    ]
    result = factories.whole_result(tuple(phases), f"protocol.interleave={interleave}")
    found, total_time = spread(result), result.comparison.metric("total_time") if result.comparison else None
    assert found is not None
    assert total_time is not None
    assert total_time.low_pct is not None
    assert total_time.high_pct is not None
    margin = float(t.ppf(0.975, found.freedom)) * found.deviation / math.sqrt(found.pairs)
    width = math.log((100 + total_time.high_pct) / (100 + total_time.low_pct))
    assert 2 * margin == pytest.approx(width)


def test_planned_pairs_make_the_interval_as_narrow_as_promised() -> None:
    deviation, change_pct, half_width_pct = 0.02, 30.0, 2.0
    plan = to_narrow(Spread(deviation, 4, pair_s=1.0, freedom=3), half_width_pct, change_pct)
    assert plan.pairs is not None
    rng = np.random.default_rng(4)
    widths = [
        paired_estimate(rng.normal(np.log1p(change_pct / 100), deviation, plan.pairs).tolist()).half_width_pct or 0.0
        for _ in range(1000)
    ]
    assert 0.77 <= np.mean(np.array(widths) <= half_width_pct) <= 0.88


def test_a_cause_of_the_spread_that_is_known_is_to_be_removed_first() -> None:
    assert "remove it first" not in planning(factories.whole_result(factories.phases([7.0, 7.1, 6.9, 7.05])))[0]
    said = planning(factories.whole_result(factories.phases([7.0, 7.1, 6.9, 40.0]), "protocol.interleave=trial"))[0]
    assert said.endswith(
        " A finding names a cause of that deviation (outlying): remove it first, and the numbers fall."
    )


def test_a_smaller_target_takes_more_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, [5.0, 8.0, 7.0, 9.5])
    pairs = []
    for target in ("4", "2", "1"):
        assert plan.main([folder, "--tell", target]) is ExitCode.DONE
        shown = capsys.readouterr().out
        assert f"to distinguish {target} % from no change here" in shown
        assert "to show" not in shown
        pairs.append(int(shown.partition("here: ")[2].split()[0]))
    assert pairs == sorted(set(pairs))


def test_a_target_out_of_reach_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main([written(tmp_path, [5.0, 30.0]), "--show", "0.01"]) is ExitCode.DONE
    assert "more than 1000 pairs" in capsys.readouterr().out


def test_the_interval_of_the_spread_holds_the_true_one() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(1000):
        low, high = deviation_interval(Spread(float(rng.normal(0, 0.01, 4).std(ddof=1)), 4, pair_s=1.0, freedom=3))
        held += low <= 0.01 <= high
    assert 930 <= held <= 970


@pytest.mark.parametrize("costs_pct", [[5.0], []])
def test_one_pair_has_no_spread(costs_pct: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, costs_pct) if costs_pct else str(tmp_path)
    assert plan.main([folder]) is ExitCode.CANNOT_RUN
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("target", ["0", "-1", "nan", "inf", "x"])
def test_what_is_not_a_target_is_refused(target: str) -> None:
    with pytest.raises(SystemExit) as ended:
        plan.main(["folder", "--tell", target])
    assert ended.value.code == ExitCode.CANNOT_RUN


def test_no_number_of_pairs_makes_up_for_unequal_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline, *others = factories.phases(UNDECIDED_PCT)
    unequal = factories.whole_result([factories.with_trial(baseline, 0, output_tokens=7), *others])
    assert planning(unequal) == ()
    write_atomically(OutputFolder(tmp_path).result, to_json(unequal))
    assert plan.main([str(tmp_path)]) is ExitCode.CANNOT_RUN
    assert "the arms generated different numbers of tokens" in capsys.readouterr().err
