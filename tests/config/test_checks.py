import importlib.util
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from bi_experiments.config.checks import NAMES, OWN_ENGINE_ARGUMENTS, check
from bi_experiments.config.compose import compose, conf_folder, from_hydra, one_line, register_schema
from bi_experiments.config.keys import alternatives, key_types, refuse_overrides
from bi_experiments.config.plain import setting
from bi_experiments.config.ranges import NUMBERS
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import ConfigurationError
from bi_experiments.launch import schedule
from bi_experiments.launch.spec import engine_spec, probe_plan
from bi_experiments.records import to_json
from bi_experiments.sweep.copies import Original


@cache
def _demo() -> Original:
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return Original.of(hydra_compose("config", overrides=["experiment=cpu_demo"]))


def composed(*overrides: str) -> ExperimentConfig:
    """The demo with values changed, by Hydra's own code without reading its files again: a hundredth of the time.

    Raises:
        ConfigurationError: It does not compose, or contradicts itself.
    """
    refuse_overrides(overrides)
    config: DictConfig = _demo().copy()
    try:
        ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(list(overrides)), config)
    except Exception as error:
        raise ConfigurationError(one_line(error)) from error
    result = from_hydra(config)
    check(result)
    return result


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        composed(*overrides)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("protocol.pairs=4",), "it requires protocol.caches=fresh"),
        (("protocol.pairs=5", "protocol.caches=fresh"), "protocol.pairs=5 must be a multiple of it"),
        (
            ("protocol.pairs=4", "protocol.caches=fresh", "protocol.max_pairs=8", "protocol.target_half_width_pct=1"),
            "leave out protocol.target_half_width_pct",
        ),
        (("protocol.pairs=2", "protocol.caches=fresh"), "an arm has one set of caches and no interval; use 4 or more"),
    ],
)
def test_launches_that_share_caches_make_whole_groups(settings: tuple[str, ...], said: str) -> None:
    assert said in refusal("protocol.launches_per_cache=2", *settings)
    composed("protocol.launches_per_cache=2", "protocol.pairs=4", "protocol.caches=fresh")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workload.min_prompt=3000"], "workload.min_prompt=3000 .*workload.max_prompt=2048"),
        (["workload.max_prompt=5000"], "model.max_model_len=5120 .*at least 5128 tokens"),
        (["workload.max_batch_size=0"], "workload.max_batch_size=0"),
        (["workload.num_trials=0"], "workload.num_trials=0"),
        (["workload.temperature=-0.1"], "workload.temperature=-0.1"),
        (["workload.top_p=0"], "workload.top_p=0"),
        (["tp=0"], "tp=0"),
        (["pp=-1"], "pp=-1"),
        (["protocol.pairs=0"], "protocol.pairs=0"),
        (["model.gpu_memory_utilization=1.5"], "model.gpu_memory_utilization=1.5"),
        (["protocol=rigorous", "protocol.max_pairs=4"], "protocol.max_pairs=4 .*protocol.pairs=8"),
        (["protocol.interleave=trial", "model.gpu_memory_utilization=0.5"], "protocol.interleave=trial .*1.00 of"),
        (["backend.attention=XFORMERS"], "XFORMERS does not exist: vLLM removed it in 0.12; use one of FLASH_ATTN,"),
        (["backend.attention=FLASH_ATTENTION"], "FLASH_ATTENTION is not known.*use one of FLASH_ATTN,"),
        (["model=deepseek", "backend=flash_attn"], "FLASH_ATTN cannot run deepseek.*use one of FLASH_ATTN_MLA"),
        (["model=qwen3", "backend=triton_mla"], "TRITON_MLA cannot run Qwen"),
        (["model.name=deepseek-ai/DeepSeek-R1"], "model.name=deepseek-ai/DeepSeek-R1 has multi-head latent"),
        (["verify.compositions=[batch_2,sideways]"], "verify.compositions has 'sideways'.*use one of"),
        (["verify.max_tokens=6000"], "verify.max_tokens=6000 .*model.max_model_len=5120"),
        (["experiment=cpu_demo", "backend.enforce_eager=false"], "would compile nothing.*TORCHDYNAMO_DISABLE=0 too"),
        (["backend=cpu", "backend.attention=FLASH_ATTN"], "FLASH_ATTN runs on cuda.*use one of CPU_ATTN"),
        (["backend.max_num_batched_tokens=64"], "at least workload.max_batch_size=128"),
        (["+backend.engine.max_logprobs=4"], "the proof asks for verify.logprobs=5"),
        (["protocol.pairs=1", "gate.max_overhead_pct=5"], "it needs an interval; use protocol.pairs=2"),
        (["protocol.inject_pct=5", "gate.max_overhead_pct=5"], "an injected delay is not a cost"),
        (["verify=off", "verify.locate=true"], "nothing is probed with verify.level=off"),
        (["verify=off", "verify.strict_launches=true"], "nothing is probed with verify.level=off"),
    ],
)
def test_contradictions_are_refused_with_what_to_type_instead(overrides: list[str], message: str) -> None:
    config = compose(overrides)
    with pytest.raises(ConfigurationError, match=message) as caught:
        check(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["protocol.pairs=1", "gate.max_overhead_pct=5"],
        ["verify=off", "verify.locate=true"],
        ["protocol.pairs=2", "protocol.caches=fresh", "protocol.launches_per_cache=2"],
    ],
)
def test_what_began_with_settings_that_decide_nothing_is_resumed(overrides: list[str]) -> None:
    check(compose([*overrides, "sweep.resume=true"]))


def test_prompts_that_are_shorter_than_asked_for_need_a_shorter_sequence() -> None:
    check(compose(["workload=vllm_script", "model.max_model_len=1024"]))


def test_fewer_logprobs_do_where_nothing_asks_for_them() -> None:
    check(compose(["+backend.engine.max_logprobs=4", "verify=off"]))
    check(compose(["+backend.engine.max_logprobs=-1"]))


def test_sampling_on_the_cpu_needs_whole_prompts() -> None:
    whole, short = "+backend.engine.enable_chunked_prefill=false", "backend.max_num_batched_tokens=1000"
    said = refusal("workload.temperature=0.7")
    assert said.startswith("workload.temperature=0.7 is not possible: vLLM fails on the CPU when it samples")
    assert said.endswith(f"set workload.temperature=0, or {whole}")
    assert refusal("workload.temperature=0.7", short).endswith(f"{whole} with backend.max_num_batched_tokens=1024")
    assert "workload.temperature" in refusal("workload.temperature=0.7", whole.replace("false", "true"))
    for sampled in (("workload.temperature=0", short), ("workload.temperature=0.7", whole)):
        composed(*sampled)
    check(compose(["workload.temperature=0.7"]))  # on a GPU


def test_a_threshold_splits_prompts_whether_or_not_chunked_prefill_is_off() -> None:
    whole, threshold = "+backend.engine.enable_chunked_prefill=false", "+backend.engine.long_prefill_token_threshold="
    for others in ((), (whole,)):
        said = refusal("workload.temperature=0.7", f"{threshold}64", *others)
        assert said.endswith(f"{whole} without backend.engine.long_prefill_token_threshold=64")
    short = refusal("workload.temperature=0.7", f"{threshold}64", "backend.max_num_batched_tokens=1000")
    assert short.endswith(
        "with backend.max_num_batched_tokens=1024 and without backend.engine.long_prefill_token_threshold=64"
    )
    for none in (0, 1024):  # as long as any prompt
        composed("workload.temperature=0.7", whole, f"{threshold}{none}")
    composed("workload.temperature=0", f"{threshold}64")


def test_prompts_that_are_not_split_fit_into_a_step() -> None:
    whole = "+backend.engine.enable_chunked_prefill=false"
    said = refusal(whole, "backend.max_num_batched_tokens=1023")
    assert said.startswith("backend.max_num_batched_tokens=1023 is not possible: with backend.engine.enable_chunked_")
    assert said.endswith("use at least model.max_model_len=1024")
    for fits in ("1024", "null"):
        composed(whole, f"backend.max_num_batched_tokens={fits}")


def test_async_scheduling_is_refused_where_vllm_would_switch_it_off_without_reporting_it() -> None:
    said = refusal("backend.async_scheduling=true")
    assert said.startswith("backend.async_scheduling=true is not possible: vLLM switches it off on the CPU")
    assert said.endswith("leave it null")
    for possible in ("null", "false"):
        composed(f"backend.async_scheduling={possible}")


def test_one_prompt_a_batch_is_the_needle_which_is_then_as_long_as_others() -> None:
    said = refusal("workload.max_batch_size=1", "workload.needle=There once was")
    assert said.startswith("workload.max_batch_size=1 is not possible: it leaves room for the needle alone, of 3 words")
    assert said.endswith("of workload.min_prompt=136 words or more, or use 2")
    composed("workload.max_batch_size=2", "workload.needle=There once was")
    composed("workload.max_batch_size=1", "workload.needle=There once was", "workload.min_prompt=3")


# --- Numbers ----------------------------------------------------------------------------------------------------------

NUMERIC = [key for key, hint in key_types().items() if set(alternatives(hint)) & {int, float}]


def test_the_table_of_ranges_has_every_number_of_the_schema_and_nothing_else() -> None:
    assert sorted(NUMBERS) == sorted(NUMERIC)


@pytest.mark.parametrize("key", NUMERIC)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e300", "9" * 400, "-1e-300", "''", "[1]", "two"])
def test_no_number_takes_what_makes_no_sense(key: str, value: str) -> None:
    assert key in refusal(f"{key}={value}")


@pytest.mark.parametrize("key", NUMERIC)
def test_the_ends_of_a_range_are_as_the_message_says(key: str) -> None:
    numbers = NUMBERS[key]
    assert numbers.high in numbers
    assert math.nextafter(numbers.high, math.inf) not in numbers
    assert (numbers.low in numbers) is not numbers.above


# --- Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", NAMES)
def test_a_name_that_vllm_does_not_know_is_refused(key: str) -> None:
    assert f"{key}=bogus7 is not known to vLLM 0.32 or 0.33" in refusal(f"{key}=bogus7")
    typo = NAMES[key][-1] + "x"
    assert "did you mean" in refusal(f"{key}={typo}")


def test_the_names_are_those_of_the_installed_vllm() -> None:
    """Read as text: the parent imports no vLLM."""
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.submodule_search_locations is not None
    root = Path(found.submodule_search_locations[0])
    files = {
        "model.dtype": ("config/model.py", "ModelDType"),
        "model.load_format": ("model_executor/model_loader/__init__.py", "LoadFormats"),
        "model.quantization": ("model_executor/layers/quantization/__init__.py", "QuantizationMethods"),
        "backend.distributed_executor_backend": ("config/parallel.py", "DistributedExecutorBackend"),
    }
    assert files.keys() == NAMES.keys()
    for key, (file, name) in files.items():
        literal = re.search(rf"{name} = Literal\[(.*?)\]", (root / file).read_text(), re.DOTALL)
        assert literal is not None
        assert set(re.findall(r'"(.+?)"', literal[1])) == set(NAMES[key])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("verify.level=bogus", "verify.level=bogus.*off, needle, standard, full"),
        ("verify.compositions=[]", "needs at least one composition"),
        ("verify.compositions=[batch_2,batch_2]", "more than once"),
        ("verify.compositions=[[batch_2]]", "each entry must be a text"),
        ("verify.compositions=[batch_99999999]", "use a number of at most 100000"),
        ("backend.preload=['']", "each entry must be a text"),
        ("backend.preload=[{a:b}]", "each entry must be a text"),
        ("tracking.experiment='a\nb'", r"tracking.experiment=a\\nb .*control characters"),
        ("model.name='a\x1b[31mb'", r"model.name=a\\x1b.*control characters"),
        ("workload.needle=''", "workload.needle= .*empty"),
        ("tracking.experiment=' '", "tracking.experiment= "),
        ("workload.num_trials=9999", "words"),
        ("tracking.experiment=..", "cannot be used as a name"),
        (f"tracking.experiment={'x' * 300}", "takes 300 characters; use at most 200"),
        (f"tracking.experiment='{'ä' * 50}'", "takes 300 characters"),  # as MLflow's folder is named
        (f"model.name={'x' * 300}", r"model.name=x{30}\.\.\. .*takes 300 characters"),
        (f"model.seeded.architecture={'x' * 300}", "takes 300 characters"),
        ("model.seeded.architecture=..", "cannot be used as a name"),
        ("model.seeded.vocab_size=1", "use a number from 257 to 1000000$"),
        ("workload.top_p=0.0", r"workload\.top_p=0\.0 is not possible: use a number above 0 and at most 1$"),
        ("+model.seeded.overrides.vocab_size=3", "use model.seeded.vocab_size"),
        ("+model.seeded.overrides.x=nan", "finite"),
    ],
)
def test_what_says_nothing_or_too_much_is_refused(setting: str, message: str) -> None:
    extra = ["workload.max_batch_size=60000"] if "num_trials" in setting else []
    assert re.search(message, refusal(setting, *extra))


@pytest.mark.parametrize(
    "name", ["", "/nowhere/model", "./nowhere", "a/b/c", "two words", "~/nowhere", "~nobody7/x", "x" * 300]
)
def test_a_model_that_is_neither_here_nor_on_the_hub_is_refused(name: str) -> None:
    assert "model.name=" in refusal("model.seeded=null", f"model.name='{name}'")


def test_a_model_is_a_folder_and_a_file_only_of_one_that_holds_all(tmp_path: Path) -> None:
    for name in ("notes.txt", "model.gguf"):
        (tmp_path / name).touch()
    assert "it is a file" in refusal("model.seeded=null", f"model.name='{tmp_path}/notes.txt'")
    composed("model.seeded=null", f"model.name='{tmp_path}/model.gguf'")


def test_a_model_folder_must_have_all_that_vllm_reads(tmp_path: Path) -> None:
    given_ = ("model.seeded=null", f"model.name='{tmp_path}'")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert "is not a model's folder" in refusal(*given_)
        (tmp_path / name).touch()
    composed(*given_)
    (tmp_path / "model.safetensors").unlink()
    assert "weights" in refusal(*given_)
    composed(*given_, "model.load_format=dummy")


# --- What is passed on to vLLM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN_ENGINE_ARGUMENTS)
def test_an_engine_argument_that_the_program_sets_is_refused_by_name(name: str) -> None:
    assert f"backend.engine.{name}=8 is not possible" in refusal(f"+backend.engine.{name}=8")


def test_every_engine_argument_that_the_program_sets_is_refused() -> None:
    fields = set(engine_spec(composed(), "demo").__struct_fields__) - {"extra"}
    assert fields <= OWN_ENGINE_ARGUMENTS.keys()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("+backend.engine.data_parallel_size=2", "data_parallel_size=2"),
        ("+backend.engine.speculative_config={method:ngram,num_speculative_tokens:3}", "speculative_config"),
        ("+backend.engine.attention_config={backend:FLASH_ATTN}", "use backend.attention"),
        ("+backend.engine.attention_config=7", "attention_config=7"),
        ("+backend.environment.VLLM_BATCH_INVARIANT='1'", "each arm has its own"),
        ("+backend.environment.LD_PRELOAD=x", "use backend.preload"),
        ("+backend.environment={1A:x}", "not the name of an environment variable"),
        ("+backend.engine.x=nan", "finite"),
        ("+backend.engine.tokenizer=/nowhere", "neither a folder here"),
        ("+backend.engine.tokenizer='~nobody7/x'", "neither a folder here"),
        (f"+backend.engine.tokenizer={'x' * 300}", "neither a folder here"),
        ("+backend.engine.tokenizer=7", "neither a folder here"),
        ("tp=${nope}", "tp cannot be resolved: Interpolation key 'nope' not found"),
        ("+backend.engine.hf_overrides={a:[{b:inf}]}", "finite"),
        ("+backend.environment.PYTHONHOME=/tmp", "use runtime.python"),
        ("backend.environment.VLLM_CPU_KVCACHE_SPACE=-5", "a whole number of GiB"),
        ("+backend.environment.TMPDIR=/tmp", "each phase has a folder of its own"),
        ("+backend.environment.VLLM_RPC_BASE_PATH=/tmp", "each phase has a folder of its own"),
        ("+backend.environment.CUDA_VISIBLE_DEVICES='0'", "export it"),
        ("+backend.environment.CUDA_DEVICE_ORDER=FASTEST_FIRST", "as NVML counts"),
    ],
)
def test_what_cannot_be_passed_on_is_refused(setting: str, message: str) -> None:
    assert message in refusal(setting)


def test_a_folder_for_compile_caches_is_refused_where_the_arms_have_their_own() -> None:
    setting = "+backend.environment.TRITON_CACHE_DIR=/tmp/t"
    assert "arms have folders of their own" in refusal(setting, "protocol.caches=private")
    composed(setting, "protocol.caches=user")


def test_speculative_decoding_can_be_measured_without_the_mode() -> None:
    composed("+backend.engine.speculative_config={method:ngram}", "protocol.control=true")


# --- Anything ---------------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none().map(lambda _: "null"),
    st.integers().map(str),
    st.integers(-3, 70).map(str),
    st.floats().map(repr),
    st.booleans().map(lambda value: str(value).lower()),
    st.sampled_from(["", "auto", "off", "standard", "[]", "{}", "[1,2]", "{a:1}", "MISSING", "'???'", "1e9"]),
    st.text(max_size=20).map(lambda text: '"' + text.replace("\\", "").replace('"', "") + '"'),
    st.text(max_size=10),
)
SIGNS = st.sampled_from(["", "", "", "", "+", "++", "~"])
KEYS = st.one_of(
    st.sampled_from(sorted(key_types())),
    st.sampled_from(sorted(key_types())).map(lambda key: key[:-1]),
    st.sampled_from(["backend.engine.seed", "backend.environment.X", "nonsense", "model.nonsense"]),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.tuples(SIGNS, KEYS, VALUES), min_size=1, max_size=3))
def test_any_overrides_give_a_valid_plan_or_one_line(drawn: list[tuple[str, str, str]]) -> None:
    overrides = [f"{sign}{key}" if sign == "~" else f"{sign}{key}={value}" for sign, key, value in drawn]
    try:
        config = composed(*overrides)
    except ConfigurationError as error:
        said = str(error)
    else:
        assert_is_a_plan(config)
        return
    assert len(said.splitlines()) == 1, said
    assert len(said) < 2000, said


def assert_is_a_plan(config: ExperimentConfig) -> None:
    """What the launcher makes of a configuration can be made, and written down."""
    for key, numbers in NUMBERS.items():
        value: Any = setting(config, key)
        assert value is None or value in numbers
    json.loads(to_json(engine_spec(config, config.model.name)))
    if (probes := probe_plan(config)) is not None:
        json.loads(to_json(probes))
    protocol = config.protocol
    slots = schedule.plan(protocol.pairs, protocol.order, protocol.seed or 0, protocol.control)
    assert len(slots) == protocol.pairs
