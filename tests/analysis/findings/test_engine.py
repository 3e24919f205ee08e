"""Whatever vLLM reports of its engines and does not have in common in both arms is a finding with a remedy."""

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.engines import FIELDS, engine_differences
from bi_experiments.analysis.findings.engine import REMEDIES, engine
from bi_experiments.analysis.pairs import complete_pairs
from bi_experiments.records import Arm, ObservedEngine, PhaseResult
from bi_experiments.report.answer import sentences
from bi_experiments.tracking.runs import of_experiment
from tests import factories


def with_observed(arm: Arm, **changes: object) -> tuple[PhaseResult, ...]:
    """An experiment in which the engines of one arm report something else."""
    return tuple(
        replace(phase, observed=factories.observed(**{"batch_invariant": arm.batch_invariant, **changes}))
        if phase.arm is arm
        else phase
        for phase in factories.phases()
    )


def another(field: str) -> object:
    """A value that the engine of `factories.observed` does not report."""
    value = getattr(factories.observed(), field)
    return not value if isinstance(value, bool) else value * 2 if isinstance(value, int) else f"not {value}"


def test_every_field_but_the_mode_is_compared_and_has_a_remedy() -> None:
    assert set(FIELDS) == set(ObservedEngine.__struct_fields__) - {"batch_invariant"}
    assert set(REMEDIES) == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("arm", [Arm.BASELINE, Arm.BATCH_INVARIANT])
def test_a_field_that_differs_is_a_finding(field: str, arm: Arm) -> None:
    (finding,) = engine(complete_pairs(with_observed(arm, **{field: another(field)})))
    assert finding.kind == field
    assert field.replace("_", " ") in finding.message
    assert finding.remedy == REMEDIES[field]


def test_the_most_severe_comes_first_and_is_said_next_to_the_cost() -> None:
    changes = {"kv_cache_tokens": 4096, "compilation_mode": "VLLM_COMPILE", "dtype": "float32"}
    phases = with_observed(Arm.BASELINE, **changes)
    assert [one.field for one in engine_differences(complete_pairs(phases))] == [
        "dtype",
        "compilation_mode",
        "kv_cache_tokens",
    ]
    result = factories.whole_result(phases)
    assert sentences(result)[1] == (
        "vLLM also changed other settings between the arms (baseline → second arm): dtype (float32 → bfloat16), "
        "compilation mode (VLLM_COMPILE → NONE), kv cache tokens (4096 → 8192)."
    )
    assert of_experiment(result).tags["differs/compilation_mode"] == "VLLM_COMPILE -> NONE"


def test_of_a_value_that_continues_the_other_only_what_it_adds_is_said() -> None:
    phases = with_observed(Arm.BATCH_INVARIANT, all_reduce="Custom PyNccl ALGO=ring")
    phases = tuple(
        one if one.arm is Arm.BATCH_INVARIANT else replace(one, observed=factories.observed(all_reduce="Custom PyNccl"))
        for one in phases
    )
    (difference,) = engine_differences(complete_pairs(phases))
    assert difference.change == "in the second arm also ALGO=ring"


def test_a_setting_that_one_launch_alone_reports_otherwise_is_one_too() -> None:
    first, *others = factories.phases()
    phases = (replace(first, observed=factories.observed(threads=1)), *others)
    (difference,) = engine_differences(complete_pairs(phases))
    assert (difference.field, difference.baseline, difference.second) == ("threads", "1 or 2", "2")


def test_a_capacity_that_varies_between_launches_of_an_arm_is_none() -> None:
    phases = tuple(
        replace(phase, observed=factories.observed(kv_cache_tokens=8192 + 16 * (phase.index % 3)))
        for phase in factories.phases()
    )
    assert engine_differences(complete_pairs(phases)) == ()


@pytest.mark.parametrize(("share", "found"), [(0.996, []), (1.004, []), (0.98, ["kv_cache_tokens"])])
def test_a_kv_cache_that_is_a_little_smaller_in_one_arm_is_no_difference(share: float, found: list[str]) -> None:
    phases = with_observed(Arm.BATCH_INVARIANT, kv_cache_tokens=int(8192 * share))
    assert [one.field for one in engine_differences(complete_pairs(phases))] == found
