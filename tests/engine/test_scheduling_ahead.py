"""An engine that schedules a step before it has the outputs of the one before has the same steps and the same bits.

vLLM switches that off on the CPU; here it is switched on again, though a step is computed as soon as it is scheduled.
"""

import pytest

from bi_experiments.config.compose import compose
from bi_experiments.experiment import run_single_phase
from bi_experiments.records import Arm, PhaseResult
from tests.engine.interpreter import in_place_of_the_phase

pytestmark = pytest.mark.engine

PROBED = ["arrivals", "batch_8", "chunked_prefill", "preempted", "trial"]


def phase(*settings: str) -> PhaseResult:
    config = compose(["experiment=cpu_demo", f"verify.compositions=[{','.join(PROBED)}]", *settings])
    return run_single_phase(config, Arm.BATCH_INVARIANT)


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> PhaseResult:
    folder = tmp_path_factory.mktemp("ahead")
    return phase(f"runtime.python={in_place_of_the_phase('scheduling_ahead.py', folder)}")


def test_its_steps_are_those_of_the_rule_and_none_in_flight_is_taken_for_a_piece_of_a_prompt(
    ahead: PhaseResult,
) -> None:
    assert ahead.observed is not None
    assert ahead.observed.async_scheduling
    assert {trial.ruled_pct for trial in ahead.trials} == {100.0}
    by_rule = sum(step.tokens for step in ahead.steps if step.composition is None and step.split)
    assert by_rule > 0
    assert sum(len(trial.split or ()) for trial in ahead.trials) == by_rule


def test_its_bits_are_those_of_an_engine_that_waits_for_each_step(ahead: PhaseResult) -> None:
    waiting = phase()
    assert waiting.observed is not None
    assert not waiting.observed.async_scheduling
    assert {probe.composition for probe in ahead.probes} >= set(PROBED)
    assert all(probe.equal for probe in ahead.probes)
    assert [probe.digest for probe in ahead.probes] == [probe.digest for probe in waiting.probes]
