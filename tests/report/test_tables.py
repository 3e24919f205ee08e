"""What a row is about: one launch, or the mean over pairs with prompts of their own."""

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
