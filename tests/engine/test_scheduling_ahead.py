"""An engine that schedules a step while another one is computed has the same steps and the same bits.

vLLM switches that off on the CPU; here it is switched on again.
"""

import pytest

from bi_experiments.config.compose import compose
from bi_experiments.experiment import run_single_phase
from bi_experiments.records import Arm, PhaseResult
from tests.engine.interpreter import in_place_of_the_phase

pytestmark = pytest.mark.engine

PROBED = ["arrivals", "batch_8", "chunked_prefill", "preempted", "trial"]


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> PhaseResult:
    folder = tmp_path_factory.mktemp("ahead")
    settings = f"runtime.python={in_place_of_the_phase('scheduling_ahead.py', folder)}"
    config = compose(["experiment=cpu_demo", f"verify.compositions=[{','.join(PROBED)}]", settings])
    return run_single_phase(config, Arm.BATCH_INVARIANT)


def test_its_steps_are_those_of_the_rule_and_none_in_flight_is_taken_for_a_piece_of_a_prompt(
    ahead: PhaseResult,
) -> None:
    assert ahead.observed is not None
    assert ahead.observed.async_scheduling
    assert {trial.ruled_pct for trial in ahead.trials} == {100.0}
    by_rule = sum(step.tokens for step in ahead.steps if step.composition is None and step.split)
    assert by_rule > 0
    assert sum(len(trial.split or ()) for trial in ahead.trials) == by_rule


def test_every_composition_that_it_can_make_is_invariant(ahead: PhaseResult) -> None:
    assert {probe.composition for probe in ahead.probes} >= set(PROBED)
    assert all(probe.equal for probe in ahead.probes)
