import pytest

from bi_experiments.config.checks import check
from bi_experiments.config.compose import compose, conf_folder, defaults_then, with_defaults
from bi_experiments.config.help import STUB
from bi_experiments.config.plain import recorded_configuration
from bi_experiments.config.schema import AttentionKind, ExperimentConfig, Interleave
from bi_experiments.errors import ConfigurationError

GROUPS = ("model", "backend", "workload", "protocol", "verify", "tracking", "runtime")


def options(group: str) -> list[str]:
    """The options of a group, without what they inherit from."""
    return [path.stem for path in sorted((conf_folder() / group).glob("*.yaml")) if not path.stem.startswith(STUB)]


OPTIONS = [(group, option) for group in GROUPS for option in options(group)]
PRESETS = options("experiment")


@pytest.fixture(autouse=True)
def no_benchmark_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "TP_SIZE", "BATCH_SIZE", "NUM_TRIALS", "MIN_PROMPT", "MAX_PROMPT", "MAX_TOKENS"):
        monkeypatch.delenv(f"VLLM_BENCH_{name}", raising=False)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_with_the_defaults(group: str, option: str) -> None:
    compose([f"{group}={option}"])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_and_passes_the_checks(preset: str) -> None:
    check(compose([f"experiment={preset}"]))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_first_comment_line_of_a_preset_is_the_command_that_uses_it(preset: str) -> None:
    # Hydra reads the package from the very first line only.
    package, command = (conf_folder() / "experiment" / f"{preset}.yaml").read_text().splitlines()[:2]
    assert package == "# @package _global_"
    assert command == f"# python -m bi_experiments experiment={preset}"


def test_every_group_has_options() -> None:
    assert {group for group, _ in OPTIONS} == set(GROUPS)


def settings(config: ExperimentConfig) -> dict[str, object]:
    """What the original benchmark prints of its configuration, under its names."""
    return {
        "model": config.model.name,
        "tp": config.tp,
        "batch": config.workload.max_batch_size,
        "trials": config.workload.num_trials,
        "words": (config.workload.min_prompt, config.workload.max_prompt),
        "tokens": config.workload.max_tokens,
        "temperature": config.workload.temperature,
        "memory": config.model.gpu_memory_utilization,
        "length": config.model.max_model_len,
        "backend": config.backend.attention,
    }


DEFAULT = {
    "model": "Qwen/Qwen3-1.7B",
    "tp": 1,
    "batch": 128,
    "trials": 5,
    "words": (1024, 2048),
    "tokens": 128,
    "temperature": 0.0,
    "memory": 0.4,
    "length": 5120,
    "backend": "FLASH_ATTN",
}
DEEPSEEK = {"model": "deepseek-ai/DeepSeek-V3", "tp": 8, "backend": "FLASH_ATTN_MLA", "memory": 0.9}
QUICK = {"trials": 2, "batch": 32, "tokens": 64}
LLAMA2 = {"model": "meta-llama/Llama-2-7b-hf", "memory": 0.8, "length": 4096, "words": (512, 1024)}
TRITON = {"backend": "TRITON_ATTN", "batch": 64}


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        ([], {}),
        (["experiment=default"], {}),
        (["model=deepseek", "tp=8"], DEEPSEEK),
        (["experiment=deepseek"], DEEPSEEK),
        (["workload=quick"], QUICK),
        (["experiment=quick"], QUICK),
        (["model=llama2", "workload.min_prompt=512", "workload.max_prompt=1024"], LLAMA2),
        (["experiment=llama2"], LLAMA2),
        (["backend=triton_attn", "workload.max_batch_size=64"], TRITON),
        (["experiment=triton"], TRITON),
    ],
)
def test_the_five_documented_uses_have_exactly_their_settings(overrides: list[str], changes: dict[str, object]) -> None:
    config = compose(overrides)
    check(config)
    assert settings(config) == DEFAULT | changes


def test_what_the_original_fixes_is_fixed_here() -> None:
    config = compose([])
    assert config.model.dtype == "bfloat16"
    assert config.backend.enable_prefix_caching is False
    assert config.workload.top_p == 0.95
    assert config.workload.sampling_seed == 20240919
    assert config.seed == 12345
    assert config.workload.needle == "There once was a "


VARIABLES = {
    "VLLM_BENCH_MODEL": ("model", "Qwen/Qwen3-4B", "Qwen/Qwen3-4B", "model.name=x/y", "x/y"),
    "VLLM_BENCH_TP_SIZE": ("tp", "2", 2, "tp=4", 4),
    "VLLM_BENCH_BATCH_SIZE": ("batch", "16", 16, "workload.max_batch_size=8", 8),
    "VLLM_BENCH_NUM_TRIALS": ("trials", "9", 9, "workload.num_trials=3", 3),
    "VLLM_BENCH_MIN_PROMPT": ("words", "100", (100, 2048), "workload.min_prompt=200", (200, 2048)),
    "VLLM_BENCH_MAX_PROMPT": ("words", "1500", (1024, 1500), "workload.max_prompt=1600", (1024, 1600)),
    "VLLM_BENCH_MAX_TOKENS": ("tokens", "32", 32, "workload.max_tokens=16", 16),
    "VLLM_BENCH_TEMPERATURE": ("temperature", "0.7", 0.7, "workload.temperature=0.9", 0.9),
    "VLLM_BENCH_GPU_MEMORY_UTILIZATION": ("memory", "0.6", 0.6, "model.gpu_memory_utilization=0.7", 0.7),
    "VLLM_BENCH_MAX_MODEL_LEN": ("length", "8192", 8192, "model.max_model_len=9000", 9000),
    "VLLM_BENCH_BACKEND": (
        "backend",
        "TRITON_ATTN",
        "TRITON_ATTN",
        "backend.attention=FLEX_ATTENTION",
        "FLEX_ATTENTION",
    ),
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_replaces_the_default_and_the_command_line_replaces_both(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, text, from_variable, override, from_command_line = VARIABLES[variable]
    monkeypatch.setenv(variable, text)
    assert settings(compose([])) == DEFAULT | {name: from_variable}
    assert settings(compose([override])) == DEFAULT | {name: from_command_line}


def test_a_preset_on_the_command_line_replaces_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BENCH_BATCH_SIZE", "7")
    monkeypatch.setenv("VLLM_BENCH_MIN_PROMPT", "99")
    assert settings(compose(["experiment=quick"])) == DEFAULT | QUICK | {"words": (99, 2048)}


def test_a_variable_of_the_wrong_type_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BENCH_TP_SIZE", "two")
    with pytest.raises(ConfigurationError, match=r"VLLM_BENCH_TP_SIZE.*'two'"):
        compose([])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nonsense=1"], "nonsense"),
        (["workload.nonsense=1"], "nonsense"),
        (["tp=two"], "tp=two"),
        (["model.seeded.seed=3"], "a key below model.seeded is set, which is null here"),
        (
            ["model=demo", "model.seeded.overrides={a: 1}"],
            "takes its entries one by one",
        ),
        (["protocol.order=sideways"], "balanced, baseline_first, random"),
        (["model=gpt5"], "use one of deepseek, deepseek_h100, deepseek_lite,"),
        (["backend=xformers"], "removed it in 0.12.*use one of auto, cpu, flash_attn,"),
    ],
)
def test_what_does_not_compose_is_said_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        compose(overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", options("model"))
def test_every_model_option_brings_a_backend_that_runs_it(option: str) -> None:
    config = compose([f"model={option}", "workload.min_prompt=8", "workload.max_prompt=16"])
    check(config)
    assert (config.model.attention is AttentionKind.mla) == str(config.backend.attention).endswith("MLA")


@pytest.mark.parametrize(
    ("overrides", "interleave"),
    [
        ([], Interleave.trial),
        (["experiment=cpu_demo"], Interleave.launch),
        (["model.gpu_memory_utilization=0.5"], Interleave.launch),
        (["protocol.interleave=launch"], Interleave.launch),
        (["protocol=single"], Interleave.launch),
    ],
)
def test_phases_take_turns_on_a_gpu_where_two_engines_fit(overrides: list[str], interleave: Interleave) -> None:
    assert compose(overrides).protocol.interleave is interleave


def test_a_recorded_command_is_given_the_defaults_that_were_others_then_and_an_impossible_one_none() -> None:
    command = "python -m bi_experiments experiment=cpu_demo seed=7"
    then = recorded_configuration(compose(["experiment=cpu_demo", "seed=7", "backend.async_scheduling=false"]))
    assert defaults_then(command, then) == ("backend.async_scheduling=false",)
    assert defaults_then(f"{command} backend.async_scheduling=false", then) == ()
    assert defaults_then(f"{command} nonesuch=1", then) == ()


def test_what_a_record_lacks_is_as_by_default_and_what_it_has_stays() -> None:
    whole = recorded_configuration(compose(["experiment=cpu_demo", "seed=7"]))
    assert with_defaults(whole) == whole
    lacking = {key: value for key, value in whole.items() if key != "gate"}
    lacking["workload"] = {key: value for key, value in whole["workload"].items() if key != "fresh_prompts"}
    assert with_defaults(lacking) == whole
    assert with_defaults({**whole, "workload": None}) == {**whole, "workload": None}
