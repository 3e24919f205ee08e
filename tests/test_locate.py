"""`python -m bi_experiments.locate`, with phases that have no engine."""

import json
from pathlib import Path

import msgspec
import pytest
from mlflow import MlflowClient

from bi_experiments.claim import held
from bi_experiments.config.compose import compose
from bi_experiments.errors import ExitCode
from bi_experiments.experiment import run_experiment
from bi_experiments.launch.location import differing_probe, levels
from bi_experiments.launch.progress import NoProgress
from bi_experiments.locate import main
from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.records import Arm, EngineSpec, ExperimentResult, PhaseSpec, ProbeResult, from_json, to_json
from bi_experiments.tracking.log import log_experiment, tracking_of
from tests import factories

CULPRIT = "model.layers.2.mlp.down_proj (RowParallelLinear, matrix multiplication)"


def probe(composition: str = "batch_8", equal: bool = False, first_difference: int | None = 1) -> ProbeResult:
    return ProbeResult(
        probe=0,
        composition=composition,
        batch=0,
        position=3,
        equal=equal,
        first_difference=None if equal else first_difference,
        tokens_equal=True,
        largest_logprob_difference=0.1,
        digest="d",
    )


@pytest.fixture
def experiment(tmp_path: Path, fake_python: Path) -> OutputFolder:
    """A finished experiment whose batch-invariant arm has a probe that differs."""
    settings = ["experiment=cpu_demo", "tracking=off", "protocol=single", f"runtime.python={fake_python}"]
    folder = OutputFolder(tmp_path / "out")
    result = run_experiment(compose(settings), folder, "python -m bi_experiments", NoProgress(), pages_from_s=1e9)
    write_probes(result, folder, Arm.BATCH_INVARIANT, probe(equal=True), probe())
    return folder


def write_probes(result: ExperimentResult, folder: OutputFolder, arm: Arm, *probes: ProbeResult) -> None:
    phases = tuple(msgspec.structs.replace(phase, probes=probes if phase.arm is arm else ()) for phase in result.phases)
    folder.result.write_bytes(to_json(msgspec.structs.replace(result, phases=phases)))


def make_compiled(folder: OutputFolder) -> None:
    """As if the experiment had not been eager."""
    for path in folder.root.glob("phases/*/spec.json"):
        spec = from_json(path.read_bytes(), PhaseSpec, path)
        engine = msgspec.structs.replace(spec.engine, enforce_eager=False)
        path.write_bytes(to_json(msgspec.structs.replace(spec, engine=engine)))


def passed(folder: OutputFolder, level: int) -> PhaseSpec:
    path = folder.location_phase(level).spec
    return from_json(path.read_bytes(), PhaseSpec, path)


def test_the_operator_is_named_and_stands_in_the_record_and_every_page(
    experiment: OutputFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(experiment.root)]) is ExitCode.DONE
    said = capsys.readouterr().out
    assert f"the first operator that differs is {CULPRIT}, at position 3" in said
    assert "from 6 prompt tokens of the neighbour on" in said
    assert str(experiment.reproduction) in said
    result = read_result(experiment.root)
    assert result.location is not None
    assert result.location.first is not None
    for page in (experiment.report_text, experiment.report_html, experiment.report_markdown):
        assert "down" in page.read_text(), page
        assert "matrix multiplication" in " ".join(page.read_text().split()), page


def test_the_page_has_the_table_of_modules_and_the_figure(experiment: OutputFolder) -> None:
    main([str(experiment.root)])
    page = experiment.report_html.read_text()
    assert "Where the probe's bits change" in page or "Where the probe&#39;s bits change" in page
    assert "model.layers.2.norm" in page
    assert experiment.figure("location").exists()


def test_the_run_in_mlflow_gets_the_new_files_and_stays_one(experiment: OutputFolder, tmp_path: Path) -> None:
    result = read_result(experiment.root)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    result.configuration["tracking"] |= {"enabled": True, "uri": uri}
    experiment.result.write_bytes(to_json(result))
    tracking = tracking_of(result, None)
    run_id = log_experiment(result, experiment.root, tracking)
    assert main([str(experiment.root)]) is ExitCode.DONE
    client = MlflowClient(tracking_uri=uri)
    assert "repro.py" in {one.path for one in client.list_artifacts(run_id)}
    assert log_experiment(read_result(experiment.root), experiment.root, tracking) == run_id


def test_the_phase_is_eager_and_is_passed_the_probe_and_nothing_else_is_changed(experiment: OutputFolder) -> None:
    main([str(experiment.root)])
    spec = passed(experiment, 0)
    index = next(one.index for one in read_result(experiment.root).phases if one.arm is Arm.BATCH_INVARIANT)
    path = experiment.phase(index, Arm.BATCH_INVARIANT).spec
    before = from_json(path.read_bytes(), PhaseSpec, path)
    assert spec.locate is not None
    assert (spec.locate.composition, spec.locate.batch, spec.locate.position) == ("batch_8", 0, 3)
    assert spec.engine.enforce_eager
    assert (spec.arm, spec.probes, spec.workload_digest) == (before.arm, before.probes, before.workload_digest)
    assert not experiment.location_phase(1).root.exists()


def test_an_arm_in_which_nothing_differs_is_refused_with_the_one_to_ask_for(
    experiment: OutputFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(experiment.root), "--arm", "baseline"]) is ExitCode.CANNOT_RUN
    assert capsys.readouterr().err.count("\n") == 1
    write_probes(read_result(experiment.root), experiment, Arm.BATCH_INVARIANT, probe(equal=True))
    assert main([str(experiment.root)]) is ExitCode.CANNOT_RUN
    assert "none of 1 probe output of" in capsys.readouterr().err


def test_an_experiment_without_a_proof_has_nothing_to_locate_on_any_machine(
    experiment: OutputFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    result = read_result(experiment.root)
    phases = tuple(msgspec.structs.replace(phase, probes=()) for phase in result.phases)
    on_a_gpu = {**result.configuration, "backend": {**result.configuration["backend"], "platform": "cuda"}}
    experiment.result.write_bytes(to_json(msgspec.structs.replace(result, phases=phases, configuration=on_a_gpu)))
    for arm in ([], ["--arm", "baseline"]):
        assert main([str(experiment.root), *arm]) is ExitCode.CANNOT_RUN
        assert capsys.readouterr().err == (
            "error: nothing was probed, so that there is nothing to locate: run it again\n"
        )


def test_a_folder_that_an_experiment_writes_into_is_refused(
    experiment: OutputFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = experiment.result.read_bytes()
    with held(experiment):
        assert main([str(experiment.root)]) is ExitCode.CANNOT_RUN
    assert "another experiment writes into" in capsys.readouterr().err
    assert experiment.result.read_bytes() == before


def test_a_folder_that_was_moved_is_located_in_with_prompts_of_every_pair_too(experiment: OutputFolder) -> None:
    for path in experiment.root.glob("phases/*/spec.json"):
        spec = from_json(path.read_bytes(), PhaseSpec, path)
        moved = msgspec.structs.replace(spec, trials_path="/nowhere/00.json", trials_digest="0")
        path.write_bytes(to_json(moved))
    assert main([str(experiment.root)]) is ExitCode.DONE
    assert passed(experiment, 0).trials_path is None


@pytest.mark.parametrize("missing", ["result.json", "spec.json"])
def test_a_folder_that_lacks_what_is_needed_is_refused_in_one_line(
    missing: str, experiment: OutputFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in experiment.root.rglob(missing):
        path.unlink()
    assert main([str(experiment.root)]) is ExitCode.CANNOT_RUN
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_phase_that_fails_leaves_the_record_alone(
    experiment: OutputFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = experiment.result.read_bytes()
    monkeypatch.setenv("FAKE_PHASE", json.dumps({"batch_invariant": "ignores_mode"}))
    assert main([str(experiment.root)]) is ExitCode.PHASE_FAILED
    assert "VLLM_BATCH_INVARIANT" in capsys.readouterr().err
    assert experiment.result.read_bytes() == before


def test_a_difference_of_compiled_models_alone_is_looked_for_level_by_level(
    experiment: OutputFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_compiled(experiment)
    monkeypatch.setenv("FAKE_PHASE", json.dumps({"batch_invariant": "compiled_only"}))
    assert main([str(experiment.root)]) is ExitCode.DONE
    assert "compiled with piecewise graphs, output token 2 differs" in capsys.readouterr().out
    asked = [passed(experiment, level).engine.extra.get("compilation_config") for level in range(3)]
    assert asked == [None, {"cudagraph_mode": "NONE"}, {"cudagraph_mode": "PIECEWISE"}]
    assert not experiment.location_phase(3).root.exists()
    locates = [passed(experiment, level).locate for level in range(3)]
    assert [one.observe for one in locates if one] == [True, False, False]


def test_a_batch_that_cannot_be_composed_eager_is_looked_for_compiled_and_nothing_is_claimed_of_eager(
    experiment: OutputFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_compiled(experiment)
    monkeypatch.setenv("FAKE_PHASE", json.dumps({"batch_invariant": "other_steps"}))
    assert main([str(experiment.root)]) is ExitCode.PHASE_FAILED
    said = capsys.readouterr().out
    assert (
        "compiled with piecewise graphs, output token 2 differs, and whether it also differs in eager mode is unknown"
        in said
    )
    assert "same as alone" not in said


def test_the_batch_is_composed_with_the_steps_of_the_experiment(experiment: OutputFolder) -> None:
    result = read_result(experiment.root)
    sizes = {"graph_sizes": (1, 2, 4), "borders": (1, 2, 4, 64)}
    phases = tuple(msgspec.structs.replace(phase, **sizes) for phase in result.phases)
    experiment.result.write_bytes(to_json(msgspec.structs.replace(result, phases=phases)))
    main([str(experiment.root)])
    plan = passed(experiment, 0).locate
    assert plan is not None
    assert (plan.graph_sizes, plan.borders) == ((1, 2, 4), (1, 2, 4, 64))


def test_nothing_found_in_an_eager_experiment_is_said_and_no_success(
    experiment: OutputFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PHASE", json.dumps({"batch_invariant": "compiled_only"}))
    assert main([str(experiment.root)]) is ExitCode.PHASE_FAILED
    assert "nothing to locate" in capsys.readouterr().out
    assert not experiment.reproduction.exists()


def test_the_probe_that_differs_soonest_in_a_batch_of_several_is_chosen() -> None:
    probes = (probe("prefill", first_difference=0), probe("batch_2", first_difference=5), probe("step_255"))
    result = factories.experiment_result([factories.phase(probes=probes)])
    assert differing_probe(result, Arm.BASELINE)[1].composition == "step_255"
    of_prompt = msgspec.structs.replace(probe("prompt_logprobs", first_difference=7), prompt_positions=9)
    result = factories.experiment_result([factories.phase(probes=(*probes[:2], of_prompt))])
    assert differing_probe(result, Arm.BASELINE)[1].composition == "prompt_logprobs"


@pytest.mark.parametrize(
    ("own", "kept"), [({"level": 3}, {"level": 3}), (3, {"mode": 3}), (0, {"mode": 0}), (None, {})]
)
def test_the_settings_of_the_experiment_stay_when_graphs_are_taken_away(
    own: object, kept: dict[str, object], experiment: OutputFolder
) -> None:
    path = next(experiment.root.glob("phases/*/spec.json"))
    spec = from_json(path.read_bytes(), PhaseSpec, path)
    extra = {"compilation_config": own, "seed": 1}
    engine: EngineSpec = msgspec.structs.replace(spec.engine, enforce_eager=False, extra=extra)
    tried = list(levels(engine))
    assert tried[1][1].extra == {"compilation_config": {**kept, "cudagraph_mode": "NONE"}, "seed": 1}
    assert tried[-1][1] == engine


def test_of_timed_outputs_alone_nothing_is_looked_for(
    experiment: OutputFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    result = read_result(experiment.root)
    phases = tuple(
        msgspec.structs.replace(
            phase,
            probes=tuple(
                one if one.equal else msgspec.structs.replace(one, composition="timed") for one in phase.probes
            ),
        )
        for phase in result.phases
    )
    experiment.result.write_bytes(to_json(msgspec.structs.replace(result, phases=phases)))
    assert main([str(experiment.root)]) is ExitCode.CANNOT_RUN
    assert "only tokens of timed outputs differ" in capsys.readouterr().err
