"""Real engines with the CPU plugin: every bit of the logprobs, alone and among others, for several architectures.

Each case is an engine in a fresh process, which this file also is the program of; cases with like processes share one,
since importing vLLM takes longer than most of them.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cpu import HAS_BFLOAT16_MATMUL, needs_bfloat16

if TYPE_CHECKING:
    from vllm import LLM, CompletionOutput, SamplingParams

MOST_S = 1700
"""The first test of a shared process waits for all of its cases, on a busy machine as well."""
pytestmark = [pytest.mark.engine, pytest.mark.timeout(MOST_S + 100)]

REPOSITORY = Path(__file__).resolve().parents[2]
# Two layers are enough: each does what all do.
SMALL: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 1024,
    "vocab_size": 2048,
    "overrides": [],
}
QWEN3_EXPERTS = [["num_experts", 8], ["num_experts_per_tok", 2], ["moe_intermediate_size", 256]]
DEMO: dict[str, Any] = {}
# In bf16 a narrower model rounds so rarely that its baseline looks invariant too.
WIDE: dict[str, Any] = {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8}
# The longest is prefilled in chunks, and attention takes it in several blocks of keys.
PROBE_LENGTHS = (1, 40, 255, 700, 1500)
TOKENS_A_STEP = 512
# Begins the line of a case's output that has its outcome.
OUTCOME = "outcome: "


@dataclass(frozen=True)
class Case:
    """One engine.

    Attributes:
        architecture: `model_type` of the checkpoint.
        dtype: Type of its weights.
        spec: Other attributes of CheckpointSpec.
        eager: Without torch.compile.
        mode: Value of VLLM_BATCH_INVARIANT.
        threads: OpenMP threads.
        ranks: Ranks of tensor parallelism.
    """

    architecture: str
    dtype: str
    spec: dict[str, Any]
    eager: bool = True
    mode: str = "1"
    threads: int = 1
    ranks: int = 1


@dataclass(frozen=True)
class Outcome:
    """How many outputs were compared, how many differed in a bit, and the largest difference of a logprob."""

    compared: int
    differing: int
    largest_delta: float


HOLDS = {
    "demo-fp32-compiled": Case("qwen3", "float32", DEMO, eager=False, threads=2),
    "llama-fp32": Case("llama", "float32", {**SMALL, "num_key_value_heads": 4}),
    "gemma-fp32-two-threads": Case("gemma", "float32", {**SMALL, "num_key_value_heads": 2}, threads=2),
    "gpt2-fp32": Case("gpt2", "float32", SMALL),
    "mistral-window-fp32": Case("mistral", "float32", {**SMALL, "overrides": [["sliding_window", 300]]}),
    "qwen3-moe-fp32": Case("qwen3_moe", "float32", {**SMALL, "overrides": QWEN3_EXPERTS}),
}
MORE_HOLDS = {
    "opt-fp32-compiled": Case(
        "opt", "float32", {**SMALL, "overrides": [["ffn_dim", 1024], ["word_embed_proj_dim", 512]]}, eager=False
    ),
    "mixtral-fp32": Case("mixtral", "float32", {**SMALL, "overrides": [["num_local_experts", 4]]}),
}
"""A second model that is compiled, and a second one of experts."""
HOLDS_IN_BFLOAT16 = {
    "wide-bf16-compiled": Case("qwen3", "bfloat16", WIDE, eager=False, threads=2),
    "gemma-bf16-two-threads": Case("gemma", "bfloat16", {**SMALL, "num_key_value_heads": 2}, threads=2),
    "gpt2-bf16": Case("gpt2", "bfloat16", SMALL),
    "qwen3-moe-bf16": Case("qwen3_moe", "bfloat16", {**SMALL, "overrides": QWEN3_EXPERTS}),
}
ALL_HOLDS = HOLDS | MORE_HOLDS | HOLDS_IN_BFLOAT16
BASELINES = {
    "demo-fp32": Case("qwen3", "float32", DEMO, mode="0", threads=2),
    "wide-bf16": Case("qwen3", "bfloat16", WIDE, mode="0", threads=2),
}
TENSOR_PARALLEL = Case("llama", "float32", {**SMALL, "num_key_value_heads": 4}, ranks=2)
REFUSED = Case("gpt2", "float32", {**SMALL, "overrides": [["activation_function", "gelu_pytorch_tanh"]]})
WITHOUT_KERNEL = Case("llama", "bfloat16", SMALL)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("vllm", reason="needs the cpu extra")
    return tmp_path_factory.mktemp("checkpoints")


def run(cases: Sequence[Case], checkpoints: Path) -> "subprocess.CompletedProcess[str]":
    """One process with these cases one after the other; they agree in mode, threads and ranks."""
    case = cases[0]
    cores = sorted(os.sched_getaffinity(0))
    caches = checkpoints / f"caches-{case.mode}"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        "VLLM_BATCH_INVARIANT": case.mode,
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(case.ranks > 1)),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, cores[: case.ranks])) if case.ranks > 1 else "nobind",
        "OMP_NUM_THREADS": str(case.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "VLLM_CACHE_ROOT": str(caches / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
    }
    command = [sys.executable, __file__, json.dumps([asdict(case) for case in cases]), str(checkpoints)]
    # vLLM leaves the sockets of its ranks behind; the path of one has at most 107 characters.
    with tempfile.TemporaryDirectory() as temporary:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**environment, "TMPDIR": temporary},
            timeout=MOST_S,
            check=False,
        )


def outcomes(cases: Sequence[Case], checkpoints: Path) -> list[Outcome | str]:
    """What became of each case: its outcome, or why there is none."""
    done = run(cases, checkpoints)
    lines = [line.removeprefix(OUTCOME) for line in done.stdout.splitlines() if line.startswith(OUTCOME)]
    found: list[Outcome | str] = [Outcome(**json.loads(line)) for line in lines]
    missing = len(cases) - len(found)
    return found + [f"ended with {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}"] * missing


def outcome(case: Case, checkpoints: Path) -> Outcome:
    (found,) = outcomes([case], checkpoints)
    assert isinstance(found, Outcome), found
    return found


@pytest.fixture(scope="module")
def shared(checkpoints: Path) -> Callable[[str], Outcome]:
    """The outcome of a case by its name; the first of a process runs the others of it too."""
    known: dict[str, Outcome | str] = {}

    def find(name: str) -> Outcome:
        if name not in known:
            threads = ALL_HOLDS[name].threads
            names = [other for other, case in ALL_HOLDS.items() if case.threads == threads]
            names = [other for other in names if (other in MORE_HOLDS) == (name in MORE_HOLDS)]
            names = [other for other in names if HAS_BFLOAT16_MATMUL or other not in HOLDS_IN_BFLOAT16]
            try:
                ended = outcomes([ALL_HOLDS[other] for other in names], checkpoints)
            except subprocess.TimeoutExpired as expired:
                ended = [str(expired)] * len(names)
            known.update(zip(names, ended, strict=True))
        found = known[name]
        assert isinstance(found, Outcome), found
        return found

    return find


@pytest.mark.parametrize("name", [*HOLDS, *(pytest.param(name, marks=pytest.mark.thorough) for name in MORE_HOLDS)])
def test_every_bit_is_the_same_in_every_batch(name: str, shared: Callable[[str], Outcome]) -> None:
    found = shared(name)
    assert found.compared >= 5 * len(PROBE_LENGTHS)
    assert found.differing == 0


@needs_bfloat16
@pytest.mark.parametrize("name", HOLDS_IN_BFLOAT16)
def test_every_bit_is_the_same_in_every_batch_in_bfloat16(name: str, shared: Callable[[str], Outcome]) -> None:
    found = shared(name)
    assert found.compared >= 5 * len(PROBE_LENGTHS)
    assert found.differing == 0


@pytest.mark.parametrize("name", ["demo-fp32", pytest.param("wide-bf16", marks=needs_bfloat16)])
def test_the_baseline_differs(name: str, checkpoints: Path) -> None:
    found = outcome(BASELINES[name], checkpoints)
    assert found.differing > 0
    assert found.largest_delta > 0


def test_every_bit_is_the_same_over_two_ranks(checkpoints: Path) -> None:
    if not any(entry.name == "bi_experiments_cpu" for entry in entry_points(group="vllm.general_plugins")):
        pytest.skip("bi_experiments is not installed here, so that vLLM's workers do not find the plugin")
    if len(os.sched_getaffinity(0)) < TENSOR_PARALLEL.ranks:
        pytest.skip("needs two cores")
    assert outcome(TENSOR_PARALLEL, checkpoints).differing == 0


def test_an_uncovered_layer_is_refused_by_name(checkpoints: Path) -> None:
    done = run([REFUSED], checkpoints)
    assert done.returncode != 0
    assert "VLLM_BATCH_INVARIANT=1 does not cover the layer GELU (transformer.h.0.mlp.act)" in done.stderr


@pytest.mark.skipif(HAS_BFLOAT16_MATMUL, reason="oneDNN has a bfloat16 matmul on this CPU")
def test_a_type_without_a_kernel_is_refused(checkpoints: Path) -> None:
    done = run([WITHOUT_KERNEL], checkpoints)
    assert done.returncode != 0
    assert "VLLM_BATCH_INVARIANT=1 does not cover bfloat16" in done.stderr


Bits = list[tuple[tuple[int, ...], list[dict[int, float]]]]
"""A prompt's samples: their tokens, and at each token the returned logprobs by token."""


def bits_of(sample: "CompletionOutput") -> tuple[tuple[int, ...], list[dict[int, float]]]:
    steps = [{token: found.logprob for token, found in step.items()} for step in sample.logprobs]
    return tuple(sample.token_ids), steps


class Probes:
    """The probe prompts on one engine: what they give alone, and whether they give the same elsewhere."""

    def __init__(self, llm: "LLM", sampling: "SamplingParams", vocab_size: int) -> None:
        self.llm = llm
        self.sampling = sampling
        self.random = random.Random(7)
        self.vocab_size = vocab_size
        self.prompts = [self.draw(length) for length in PROBE_LENGTHS]
        self.alone = [self.generate([prompt])[0] for prompt in self.prompts]
        self.deltas: list[float] = []
        self.differing = 0

    def draw(self, length: int) -> list[int]:
        return [self.random.randrange(1, self.vocab_size) for _ in range(length)]

    def generate(self, prompts: Sequence[list[int]]) -> list[Bits]:
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self.llm.generate(requests, self.sampling, use_tqdm=False)
        return [[bits_of(sample) for sample in output.outputs] for output in outputs]

    def compare(self, probes: Sequence[int], before: Sequence[int], after: Sequence[int]) -> None:
        """Generates the probes between other prompts of the given lengths and compares them with themselves alone."""
        batch = [*map(self.draw, before), *(self.prompts[probe] for probe in probes), *map(self.draw, after)]
        found = self.generate(batch)[len(before) : len(before) + len(probes)]
        for probe, bits in zip(probes, found, strict=True):
            self.differing += bits != self.alone[probe]
            self.deltas.append(largest_delta(self.alone[probe], bits))


def largest_delta(one: Bits, other: Bits) -> float:
    """Largest difference between the logprobs that both have."""
    steps = [pair for (_, a), (_, b) in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    return max((abs(a[token] - b[token]) for a, b in steps for token in a.keys() & b.keys()), default=0.0)


def measure(case: Case, checkpoints: Path) -> Outcome:
    """Builds the case's engine and compares its probes."""
    from vllm import LLM, SamplingParams

    from bi_experiments.phase.checkpoint import CheckpointSpec, ensure_checkpoint

    overrides = {"overrides": tuple(map(tuple, case.spec["overrides"]))} if "overrides" in case.spec else {}
    spec = CheckpointSpec(**{**case.spec, **overrides, "architecture": case.architecture, "dtype": case.dtype})
    llm = LLM(
        str(ensure_checkpoint(spec, checkpoints)),
        dtype=case.dtype,
        max_model_len=2048,
        max_num_batched_tokens=TOKENS_A_STEP,
        enforce_eager=case.eager,
        enable_prefix_caching=False,
        tensor_parallel_size=case.ranks,
    )
    every = range(len(PROBE_LENGTHS))
    found = []
    for settings in ({"temperature": 0.0}, {"temperature": 0.6, "top_p": 0.95, "seed": 11, "n": 2}):
        # Seeded sampling of prompts in chunks ends the engine where the plugin is not active.
        if settings["temperature"] and case.mode == "0":
            continue
        sampling = SamplingParams(**settings, max_tokens=6, logprobs=5, ignore_eos=True)
        probes = Probes(llm, sampling, spec.vocab_size)
        probes.compare(every, [], [])
        probes.compare([4, 2, 0, 3, 1], [30] * 11, [5, 120, 64])
        for step_tokens in (255, 256, 257):
            probes.compare([1], [step_tokens - PROBE_LENGTHS[1]], [])
        probes.compare([0], [3] * 70, [])
        found.append(probes)
    deltas = [delta for probes in found for delta in probes.deltas]
    return Outcome(len(deltas), sum(probes.differing for probes in found), max(deltas))


def main() -> None:
    """Runs the cases that the first argument lists and prints the outcome of each."""
    from vllm.distributed import cleanup_dist_env_and_memory

    from bi_experiments.vllm_cpu import register

    register()
    for case in json.loads(sys.argv[1]):
        found = measure(Case(**case), Path(sys.argv[2]))
        print(f"{OUTCOME}{json.dumps(asdict(found))}", flush=True)
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()
