"""What a row is about: one launch, or the mean over pairs with prompts of their own."""

import pytest
from msgspec.structs import replace

from bi_experiments.records import Arm, ExperimentResult
from bi_experiments.report import tables
from bi_experiments.report.figures.drawing import Drawing
from bi_experiments.report.figures.overhead import trial_costs
from tests import factories
from tests.analysis.probed_phases import launches, probes, report


def with_fresh_prompts() -> ExperimentResult:
    """Two pairs, whose trials have 3 and 4 prompts."""
    phases = [
        replace(
            phase,
            trials=tuple(
                replace(trial, batch_size=3 + phase.pair, prompt_tokens=1000 * (3 + phase.pair), output_tokens=64)
                for trial in phase.trials
            ),
        )
        for phase in factories.phases([7.0, 8.0])
    ]
    return factories.whole_result(phases, "workload.fresh_prompts=true")


def test_the_size_of_a_trial_is_the_mean_over_pairs_with_prompts_of_their_own() -> None:
    result = with_fresh_prompts()
    assert tables.trial_costs(result).rows[0][:4] == ("1", "3.5", "3,500", "64")
    assert "a trial's prompts and tokens are means over the pairs" in tables.trials_note(result)
    drawing = trial_costs(result)
    assert isinstance(drawing, Drawing)
    assert "trial 1: 3.5 prompts, 3,500 + 64 tokens" in drawing.description
    assert "means over the pairs" in drawing.caption


def test_with_the_same_prompts_in_every_pair_nothing_is_a_mean_over_pairs() -> None:
    result = factories.whole_result()
    assert tables.trial_costs(result).rows[0][1] == "8"
    assert "over the pairs" not in tables.trials_note(result)


def test_without_a_complete_pair_nothing_is_said_of_the_trials() -> None:
    for fresh in ("true", "false"):
        alone = factories.whole_result(factories.phases([7.0])[:1], f"workload.fresh_prompts={fresh}")
        assert tables.trials_note(alone) == ""
    assert tables.trials_note(factories.experiment_result((), comparison=None)) == ""


@pytest.mark.parametrize(
    ("fresh", "further"), [("true", "other prompts (workload.fresh_prompts)"), ("false", "the same prompts")]
)
def test_of_one_pair_nothing_is_said_that_takes_several(fresh: str, further: str) -> None:
    result = factories.whole_result(factories.phases([7.0]), f"workload.fresh_prompts={fresh}")
    assert tables.trial_costs(result).rows[0][-1] == "-"
    drawing = trial_costs(result)
    assert isinstance(drawing, Drawing)
    assert drawing.caption.endswith("Dashed: the change of total time; no change has an interval.")
    assert "interval" not in drawing.description.replace("no interval", "")
    assert tables.trials_note(result) == (
        f"One launch of each arm, so that no trial has an interval; a further pair would have {further}."
    )


def test_of_several_pairs_it_is_said_which_prompts_they_had() -> None:
    fresh, same = tables.trials_note(with_fresh_prompts()), tables.trials_note(factories.whole_result())
    assert "; other prompts in every pair (workload.fresh_prompts), so that the intervals are about such work" in fresh
    assert "; the same prompts in every pair, so that the intervals are about these prompts" in same
    for said in (fresh, same):
        assert said.endswith("Each trial's interval stands alone: they do not all hold at once.")
    alike = factories.whole_result(None, "workload.fresh_prompts=true")  # other prompts, as long as those before
    assert "; other prompts in every pair" in tables.trials_note(alike)


def test_without_any_interval_none_is_spoken_of() -> None:
    overrides = ("protocol.caches=fresh", "protocol.launches_per_cache=2", "protocol.pairs=2")
    note = tables.trials_note(factories.whole_result(factories.phases([7.0, 8.0]), *overrides))
    assert "so that the changes are about these prompts" in note
    assert "interval" not in note


def test_what_was_measured_in_a_pair_with_prompts_of_its_own_names_that_pair() -> None:
    assert tables.tokens(with_fresh_prompts()).header[0] == "Measured, pair 1"
    assert tables.tokens(factories.whole_result()).header[0] == "Measured, one launch"


def test_how_many_prompts_the_baseline_compared_is_said_of_those_drawn() -> None:
    sampled = probes(None, 0, 0, composition="trial", sampled=True)
    phases = [replace(phase, left_out=29) for phase in launches(Arm.BASELINE, sampled)]
    result = replace(factories.whole_result(), phases=tuple(phases))
    notes = tables.proof_notes(report(phases), result)
    drawn = "3 of the 32 prompts drawn from the workload"
    assert f"In the baseline {drawn} were compared before time ran out." in notes


def test_of_unequal_work_the_tokens_of_both_arms_are_shown_and_nothing_is_said_of_changes() -> None:
    baseline, *others = factories.phases([7.0, 8.0])
    result = factories.whole_result([factories.with_trial(baseline, 0, output_tokens=1), *others])
    generated = [row[3] for row in tables.trial_costs(result).rows]
    assert " / " in generated[0]
    assert not any(" / " in one for one in generated[1:])
    every = [
        phase
        if phase.arm is not Arm.BASELINE
        else replace(phase, trials=tuple(replace(trial, output_tokens=1) for trial in phase.trials))
        for phase in factories.phases([7.0, 8.0])
    ]
    assert tables.trials_note(factories.whole_result(every)) == "Geometric means over the launches."
