"""What vLLM's log says of untuned paths is a finding, with the arm that it concerns and a remedy."""

from msgspec.structs import replace

from bi_experiments.analysis.findings.untuned import untuned
from bi_experiments.analysis.pairs import complete_pairs
from bi_experiments.records import Arm
from tests import factories

EXPERTS = "Using default MoE config. Performance might be sub-optimal! Config file not found at E=8,N=64.json"


def test_the_finding_says_which_arm_it_concerns() -> None:
    phases = tuple(
        replace(phase, untuned=(EXPERTS,)) if phase.arm is Arm.BASELINE else phase for phase in factories.phases()
    )
    (finding,) = untuned(complete_pairs(phases))
    assert finding.message == (
        f"vLLM's log says of the baseline arm alone, which the cost is measured against: {EXPERTS}."
    )
    assert "VLLM_TUNED_CONFIG_FOLDER" in finding.remedy
    second = tuple(replace(phase, untuned=(EXPERTS,)) for phase in factories.phases() if phase.arm is not Arm.BASELINE)
    baselines = tuple(phase for phase in factories.phases() if phase.arm is Arm.BASELINE)
    (finding,) = untuned(complete_pairs((*baselines, *second)))
    assert finding.message.startswith("vLLM's log says of the batch-invariant arm alone, ")
    both = tuple(replace(phase, untuned=(EXPERTS,)) for phase in factories.phases())
    (finding,) = untuned(complete_pairs(both))
    assert finding.message.startswith("vLLM's log says of both arms: Using default MoE config.")
    assert list(untuned(complete_pairs(factories.phases()))) == []
