"""A difference of compiled kernels alone is not found in eager, and said to be theirs."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from bi_experiments.analysis.location import describe
from bi_experiments.config.compose import compose
from bi_experiments.experiment import prepare, run_experiment
from bi_experiments.launch.progress import NoProgress
from bi_experiments.localisation import locate
from bi_experiments.paths import OutputFolder
from bi_experiments.records import Arm, ExperimentResult
from tests.engine.interpreter import in_place_of_the_phase

pytestmark = [pytest.mark.engine, pytest.mark.thorough]


def settings(interpreter: Path) -> Sequence[str]:
    return (
        "experiment=cpu_demo",
        "protocol=single",
        "protocol.warmup=0",
        "backend.enforce_eager=false",
        "backend.environment.TORCHDYNAMO_DISABLE=0",
        "+backend.environment.VLLM_USE_BREAKABLE_CUDAGRAPH=0",  # else the mode compiles nothing
        "model.seeded.num_hidden_layers=1",
        "workload.num_trials=1",
        "workload.max_tokens=2",
        "verify.compositions=[batch_16]",
        "verify.probes=1",
        "verify.max_tokens=2",
        "tracking=off",
        f"runtime.python={interpreter}",
    )


@pytest.fixture(scope="module")
def located(tmp_path_factory: pytest.TempPathFactory) -> ExperimentResult:
    """An experiment with the fault, and what was located in the mode."""
    folder = tmp_path_factory.mktemp("compiled")
    config = compose(settings(in_place_of_the_phase("compiled_fault.py", folder)))
    prepare(config)
    output = OutputFolder(folder / "out")
    run_experiment(config, output, "compiled", NoProgress(), pages_from_s=1e9)
    return locate(output, Arm.BATCH_INVARIANT)


def test_a_difference_of_compiled_kernels_alone_is_said_to_be_theirs(located: ExperimentResult) -> None:
    location = located.location
    assert location is not None
    assert location.level == "compiled without graphs"
    assert location.first_difference is not None
    assert "The difference comes from compiled kernels or graphs." in " ".join(describe(location))
