"""What looks like a credential is in no file that a run leaves, and on no terminal."""

from pathlib import Path

import pytest

from bi_experiments.config.compose import compose
from bi_experiments.config.credentials import is_secret, masked
from bi_experiments.config.plain import recorded_configuration
from bi_experiments.errors import ConfigurationError
from tests.faults.conftest import Program, is_one_line

SECRET = "hunter2hunter2"
SETTINGS = [
    f"tracking.uri=http://ada:{SECRET}@host",
    f"tracking.uri=postgresql://ada:{SECRET}@host/db?x=1",
    f"tracking.uri=http://host?token={SECRET}",
    f"tracking.uri='http://host/?api_key={SECRET}'",
    f"tracking.uri='http://host/?a=b&access_token={SECRET}'",
    f"tracking.uri='http://host/#token={SECRET}'",
    f"tracking.uri='https://host/?X-Amz-Signature={SECRET}'",
    f"tracking.uri='postgresql://host/db?sslkey={SECRET}'",
    f"workload.needle='see https://host/?client_secret={SECRET}'",
    f"+backend.environment.HF_TOKEN={SECRET}",
    f"+backend.environment.AWS_SECRET_ACCESS_KEY={SECRET}",
    f"+backend.environment={{MY_PASSWORD:{SECRET}}}",
    f"+backend.engine.hf_token={SECRET}",
    f"+backend.engine.speculative_config={{api_key:{SECRET}}}",
    f"+hydra.job.env_set.HF_TOKEN={SECRET}",
    f"workload.needle=https://ada:{SECRET}@host/prompt",
]


def has_secret(program: Program) -> list[Path]:
    return [path for path in program.files() if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_credential_that_is_set_is_refused_and_repeated_by_nobody(setting: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compose(["experiment=cpu_demo", setting])
    assert SECRET not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_refused_credential_leaves_no_file(program: Program, sweep: list[str]) -> None:
    done = program(*sweep, *program.fake, SETTINGS[0], *(["seed=1,2"] if sweep else []))
    assert is_one_line(done)
    assert SECRET not in done.stderr + done.stdout
    assert program.files() == []


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_credential_in_a_users_own_file_is_refused_before_hydra_copies_it(program: Program, sweep: list[str]) -> None:
    own = program.folder / "own" / "backend"
    own.mkdir(parents=True)
    file = own / "mine.yaml"
    file.write_text(f"defaults:\n  - cpu\n  - _self_\nenvironment:\n  HF_TOKEN: {SECRET}\n")
    done = program(*sweep, "--config-dir", "own", *program.fake, "backend=mine")
    assert is_one_line(done)
    assert has_secret(program) == [file]


def test_a_credential_from_the_environment_is_used_and_written_nowhere(program: Program) -> None:
    """MLflow's URI with a password, and a variable of the phases by its name."""
    done = program(
        "-m",
        *(text for text in program.fake if text != "tracking=off"),
        "tracking=server",
        "+backend.environment.HF_TOKEN=${oc.env:SOME_VARIABLE}",
        "seed=1,2",
        MLFLOW_TRACKING_URI=f"sqlite:///mlflow.db?password={SECRET}",
        SOME_VARIABLE=SECRET,
    )
    assert "2 done" in done.stdout, done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert has_secret(program) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("workload.max_tokens", "40"),
        ("workload.needle", "see https://medium.com/@ada and mail ada@host"),
        ("backend.engine.max_num_tokens", "x"),
        ("backend.engine.tokenizer", "some/tokenizer"),
        ("backend.engine.num_key_value_heads", "8"),
        ("backend.environment.HF_TOKEN", "${oc.env:HF_TOKEN}"),
        ("tracking.uri", "http://host:5000"),
    ],
)
def test_what_is_no_credential_is_let_through(key: str, value: str) -> None:
    assert not is_secret(key, value)


def test_the_default_of_an_environment_variable_may_be_a_credential() -> None:
    assert is_secret("backend.environment.HF_TOKEN", "${oc.env:HF_TOKEN,hf_real}")
    assert not is_secret("backend.environment.HF_TOKEN", "${oc.env:HF_TOKEN,null}")


def test_what_a_record_keeps_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", SECRET)
    config = compose(["experiment=cpu_demo", "+backend.environment.HF_TOKEN=${oc.env:SOME_VARIABLE}"])
    assert config.backend.environment["HF_TOKEN"] == SECRET
    assert recorded_configuration(config)["backend"]["environment"]["HF_TOKEN"] == "***"
    assert masked({"a": [1, {"b": "http://u:p@host"}]}) == {"a": [1, {"b": "***"}]}
