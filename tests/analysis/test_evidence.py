"""What the phases of an arm found: each output once, launches apart."""

from msgspec.structs import replace

from bi_experiments.analysis.evidence import gather
from bi_experiments.records import Arm, StepKind
from tests.analysis.probed_phases import UNCHANGED, launches, probe, probes, step


def test_outputs_are_counted_once_and_launches_apart() -> None:
    found = gather(launches(Arm.BATCH_INVARIANT, *UNCHANGED))[Arm.BATCH_INVARIANT]
    assert (len(found.compared), len(found.launches)) == (4, 2)


def test_a_prompt_under_several_names_is_one_prompt() -> None:
    trial = probes(None, None, composition="trial", request="a")
    results = (*trial[:1], replace(trial[1], request="b"), *probes(None, composition="workload", request="b"))
    needle = probes(None, composition="needle", request="a")
    plain = (probe(0, request="c"), replace(probe(0, request="d"), position=3), probe(1, request="e"))
    (found,) = gather(launches(Arm.BATCH_INVARIANT, (*results, *needle, *plain))).values()
    assert (len(found.compared), found.prompts) == (7, 4)


def test_how_many_prompts_the_workload_has_is_not_read_from_trials_which_may_have_others() -> None:
    prompts = [step(None, tokens, context, kind=StepKind.PREFILL) for tokens, context in ((3, 1), (2, 129))]
    results = (probe(0, composition="trial", sampled=True),)
    ended, probed = launches(Arm.BATCH_INVARIANT, (), results, steps=(*prompts, step(None), step("trial")))
    found = gather([replace(ended, trials=ended.trials[:1]), replace(probed, trials=probed.trials[:1])])
    assert found[Arm.BATCH_INVARIANT].workload_prompts == 5
    assert not found[Arm.BATCH_INVARIANT].census


def test_outputs_of_other_places_are_not_compared_between_launches() -> None:
    here, there = replace(probe(0), position=1, digest="a"), replace(probe(0), position=2, digest="b")
    assert gather(launches(Arm.BATCH_INVARIANT, (here,), (there,)))[Arm.BATCH_INVARIANT].launches_differing == 0


def test_a_prompt_counts_as_sampled_where_any_launch_came_to_it_in_its_turn() -> None:
    needed, drawn = ((probe(0, composition="trial", sampled=sampled),) for sampled in (False, True))
    found = gather(launches(Arm.BATCH_INVARIANT, needed, drawn))[Arm.BATCH_INVARIANT]
    assert found.sampled == (0, 1)
