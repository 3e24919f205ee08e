"""The rules of an experiment are the same by its protocol and by its record, however old that is."""

import pytest

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.pairs import complete_pairs
from bi_experiments.config.compose import compose
from bi_experiments.config.plain import recorded_configuration
from tests import factories


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("protocol.interleave=trial", "protocol.equivalence_pct=3"),
        ("protocol.caches=user",),
        ("protocol.caches=fresh", "protocol.pairs=4", "protocol.launches_per_cache=2"),
        ("protocol.target_half_width_pct=2", "protocol.pairs=3", "protocol.max_pairs=9"),
    ],
)
def test_a_record_has_the_rules_of_its_protocol(overrides: tuple[str, ...]) -> None:
    config = compose(["experiment=cpu_demo", *overrides])
    phases = factories.phases()
    result = factories.experiment_result(phases, configuration=recorded_configuration(config))
    assert Design.recorded(result) == Design.of(config.protocol, complete_pairs(phases))


def test_an_experiment_that_ended_in_its_first_stage_has_no_second_one() -> None:
    config = compose(["protocol.target_half_width_pct=2", "protocol.pairs=3", "protocol.max_pairs=9"])
    of_two, of_three = (complete_pairs(factories.phases(costs)) for costs in ((7.0, 7.5), (7.0, 7.5, 8.0)))
    assert Design.of(config.protocol, of_two).first_stage is None
    assert Design.of(config.protocol, of_three).first_stage == 3


def test_what_an_older_record_lacks_is_as_it_was_then() -> None:
    def recorded(**protocol: object) -> Design:
        return Design.recorded(factories.experiment_result(factories.phases(), configuration={"protocol": protocol}))

    assert Design.recorded(factories.experiment_result(factories.phases(), configuration={})) == Design(1.0)
    assert recorded(interleave="launch", order="of another time") == Design(1.0, paired=False)
    assert recorded(caches="fresh") == Design(1.0, launches_per_cache=1)
    assert recorded(target_half_width_pct=2, pairs=3) == Design(1.0, first_stage=3)
