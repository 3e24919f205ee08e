import math
from collections.abc import Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from bi_experiments.records import Arm, ExperimentResult, PhaseResult, PhaseStatus
from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing, LeftOut
from bi_experiments.report.figures.experiment import draw
from tests import factories
from tests.analysis.test_location import FOUND, LINEAR

ALL = ["overhead", "trial_costs", "trial_times", "latency", "invariance", "init_time", "drift"]


def figures(result: ExperimentResult) -> tuple[dict[str, Drawing], dict[str, str]]:
    """What was drawn, by name, and why the rest was not, by title."""
    with theme.style():
        drawn = draw(result)
    return (
        {one.name: one for one in drawn if isinstance(one, Drawing)},
        {one.title: one.reason for one in drawn if isinstance(one, LeftOut)},
    )


def texts(drawing: Drawing) -> str:
    """All text of a figure."""
    with theme.style():
        theme.lay_out(drawing.figure)
        return theme.svg(drawing.figure, "x", "")


def without_latencies(phases: Sequence[PhaseResult]) -> list[PhaseResult]:
    return [replace(one, trials=tuple(replace(trial, latencies=None) for trial in one.trials)) for one in phases]


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, Drawing], dict[str, str]]:
    """The figures of an experiment that has everything."""
    return figures(factories.whole_result())


def test_a_whole_record_gives_every_figure(whole: tuple[dict[str, Drawing], dict[str, str]]) -> None:
    shown, missing = whole
    assert list(shown) == ALL
    assert missing == {}


def test_the_ticks_of_a_located_difference_are_plain_numbers() -> None:
    """Text is never parsed as mathematics, so that no tick may be written as such."""
    later = [replace(LINEAR, module=f"model.layers.{at}", largest_difference=0.125 * 4**at) for at in range(3, 8)]
    shown, _ = figures(factories.whole_result(location=replace(FOUND, layers=(LINEAR, *later))))
    said = texts(shown["location"])
    assert "mathdefault" not in said
    assert ">10<" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("overhead", ["[%]", "n = 3 pairs", "total time", "TTFT p50", "higher →", "slower"]),
        ("trial_costs", ["[%]", "n = 3 pairs", "trial 3: 8 prompts, 512 + 128 tokens", "+7.5 % [+6.3 %, +8.7 %]"]),
        ("trial_times", ["[s]", "n = 3 pairs × 4 trials", "pair 3", "batch invariant first", ">8<"]),
        ("latency", ["baseline n = 96", "TTFT [ms]", "E2E [ms]"]),
        ("invariance", ["n = 24 an arm", "20/24", "1/24", "2/12", "0/12", "ragged"]),
        (
            "init_time",
            ["[s]", "n = 1", "n = 2", "first launch, baseline", "later launches, batch invariant", "12.0 s", "8.0 s"],
        ),
        ("drift", ["[%]", "n = 6 launches", "minutes"]),
    ],
)
def test_a_figure_has_numbers_units_and_n(
    name: str, said: list[str], whole: tuple[dict[str, Drawing], dict[str, str]]
) -> None:
    drawing = whole[0][name]
    text = texts(drawing)
    assert [words for words in said if words not in text] == []
    assert drawing.description
    assert drawing.caption


@pytest.mark.parametrize("caches", ["private", "user"])
def test_initialisation_is_called_cold_where_the_caches_were_the_experiments_own(caches: str) -> None:
    drawing = figures(factories.whole_result(None, f"protocol.caches={caches}"))[0]["init_time"]
    said = f"{texts(drawing)} {drawing.title} {drawing.description} {drawing.caption}".lower()
    assert all((word in said) is (caches == "private") for word in ("cold, baseline", "cold", "warm"))


def test_the_description_tells_the_numbers(whole: tuple[dict[str, Drawing], dict[str, str]]) -> None:
    shown, _ = whole
    assert "total time +7.5 % [+6.3 %, +8.7 %] slower" in shown["overhead"].description
    assert "ragged 20/24, 1/24" in shown["invariance"].description


def test_one_launch_an_arm_has_no_interval_and_no_drift() -> None:
    shown, missing = figures(factories.whole_result(factories.phases([7.0])))
    assert set(ALL) - set(shown) == {"overhead", "drift"}
    assert "no interval, for there is one launch an arm" in missing.values()
    assert len(missing) == 2


def test_what_was_not_measured_is_named_with_the_reason() -> None:
    result = factories.whole_result(without_latencies(factories.phases()), "verify=off", invariance=None)
    shown, missing = figures(result)
    assert set(ALL) - set(shown) == {"latency", "invariance"}
    assert set(missing.values()) == {
        "this vLLM reported no request metrics",
        "verify=off: nothing was compared",
    }


def test_a_record_without_any_trial_has_no_figure_and_a_reason_for_each() -> None:
    phase = factories.phase(status=PhaseStatus.FAILED, error="it broke", init_time_s=None, trials=())
    shown, missing = figures(factories.whole_result([phase], "verify=off", invariance=None))
    assert shown == {}
    assert len(missing) == len(ALL)


def test_an_incomplete_pair_is_drawn_too() -> None:
    phases = factories.phases()
    lost = replace(phases[5], status=PhaseStatus.FAILED, error="it broke", trials=phases[5].trials[:1])
    shown, _ = figures(factories.whole_result([*phases[:5], lost]))
    assert "pair 3" in texts(shown["trial_times"])


def test_a_control_experiment_is_called_one() -> None:
    result = factories.whole_result(factories.phases([0.1, 0.2, 0.3], second=Arm.CONTROL), invariance=None)
    text = texts(figures(result)[0]["trial_times"])
    assert ">control<" in text
    assert "batch invariant" not in text


def test_intervals_of_any_width_fit_on_the_axis() -> None:
    metrics = (
        factories.metric(-52.1, -99.9, 13710.0),
        factories.metric(0.0, -0.01, 0.01, name="total_time"),
    )
    result = factories.whole_result(comparison=factories.comparison(*metrics))
    drawing = figures(result)[0]["overhead"]
    (axes,) = drawing.figure.axes
    low, high = axes.get_xlim()
    assert low < math.log(1e-3) < math.log(138.1) < high


def test_the_slope_is_the_records() -> None:
    """Six launches, each 2 % slower than the one before."""
    phases = [
        replace(one, trials=tuple(replace(trial, time_s=trial.time_s * 1.02**one.index) for trial in one.trials))
        for one in factories.phases([7.0, 7.0, 7.0])
    ]
    caption = figures(factories.whole_result(phases))[0]["drift"].caption
    assert "first launch to last: +10.4 %" in caption


def test_many_trials_are_drawn_and_some_are_named() -> None:
    phases = factories.phases([7.0, 8.0], times_s=[1.0 + 0.01 * trial for trial in range(100)])
    drawing = figures(factories.whole_result(phases))[0]["trial_costs"]
    assert drawing.description.count(" prompts, ") == 100
    assert 20 <= texts(drawing).count(" prompts, ") <= 40


def test_a_trial_with_unequal_tokens_is_left_out_of_the_costs() -> None:
    first, second = factories.phases([7.0])
    result = factories.whole_result((first, factories.with_trial(second, 1, output_tokens=5)))
    assert "trial 2:" not in figures(result)[0]["trial_costs"].description


def test_many_requests_are_drawn_through_a_limited_number_of_points() -> None:
    many = [
        replace(
            one,
            trials=tuple(
                replace(trial, latencies=factories.latencies(trial.time_s, requests=2000)) for trial in one.trials
            ),
        )
        for one in factories.phases()
    ]
    drawing = figures(factories.whole_result(many))[0]["latency"]
    assert "n = 24,000" in texts(drawing)
    curves = [line.get_path().vertices for axes in drawing.figure.axes for line in axes.lines]
    assert max(np.shape(curve)[0] for curve in curves) < 600


def test_the_title_of_the_verdicts_says_how_many_each_arm_compared() -> None:
    report = factories.invariance_report()
    baseline, second = report.arms
    fewer = replace(report, arms=(replace(baseline, total=22), second))
    assert "n = 22 and 24 an arm" in texts(figures(factories.whole_result(invariance=fewer))[0]["invariance"])
