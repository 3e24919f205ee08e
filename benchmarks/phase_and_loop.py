"""A phase beside the same work written by hand around `vllm.LLM`: initialisation, warm-up and trials.

    python benchmarks/phase_and_loop.py [--repeats 3]

Both run the workload of `experiment=cpu_demo` in the baseline arm, each in a fresh process with warm compile caches of
its own, alternating. The table shows medians over the repeats.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bi_experiments.config import ExperimentConfig, compose
from bi_experiments.experiment import run_single_phase
from bi_experiments.phase_environment import phase_environment
from bi_experiments.phase_spec import model_path
from bi_experiments.records import Arm
from bi_experiments.workload import build_workload


@dataclasses.dataclass(frozen=True)
class Times:
    """Wall times in seconds."""

    init_s: float
    warmup_s: float
    trials_s: float


def by_hand(path: Path) -> None:
    """The loop that one would write: run as a subprocess of this file with `--by-hand`; prints its times as JSON."""
    job = json.loads(path.read_text())
    from vllm import LLM, SamplingParams

    before = time.perf_counter()
    llm = LLM(**job["engine"])
    init_s = time.perf_counter() - before
    params = SamplingParams(**job["sampling"])
    before = time.perf_counter()
    llm.generate([job["needle"]], params, use_tqdm=False)
    llm.generate(max(job["batches"], key=len), params, use_tqdm=False)
    warmup_s = time.perf_counter() - before
    before = time.perf_counter()
    for batch in job["batches"]:
        llm.generate(batch, params, use_tqdm=False)
    print(json.dumps([init_s, warmup_s, time.perf_counter() - before]), flush=True)
    os._exit(0)


def run_by_hand(config: ExperimentConfig, folder: Path) -> Times:
    """Start the loop in a fresh process."""
    workload = build_workload(config.workload, config.seed)
    sampling = workload.sampling
    job = {
        "engine": {
            "model": model_path(config),
            "dtype": config.model.dtype,
            "max_num_seqs": config.workload.max_batch_size,
            "max_num_batched_tokens": config.backend.max_num_batched_tokens,
            "max_model_len": config.model.max_model_len,
            "enable_prefix_caching": False,
            "async_scheduling": False,
            "enforce_eager": config.backend.enforce_eager,
            "attention_config": {"backend": config.backend.attention},
        },
        "sampling": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "max_tokens": sampling.max_tokens,
            "ignore_eos": True,
        },
        "needle": workload.needle,
        "batches": [trial.prompts for trial in workload.trials],
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    environment = phase_environment(config, Arm.BASELINE, folder)
    command = [sys.executable, __file__, "--by-hand", str(path)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return Times(*json.loads(done.stdout.splitlines()[-1]))


def run_phase(config: ExperimentConfig) -> Times:
    """Run the same as a phase of this project."""
    result = run_single_phase(config, Arm.BASELINE)
    assert result.init_time_s is not None
    assert result.warmup_time_s is not None
    return Times(result.init_time_s, result.warmup_time_s, sum(trial.time_s for trial in result.trials))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--by-hand", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.by_hand:
        by_hand(arguments.by_hand)
    config = compose(["experiment=cpu_demo", "verify=off", "protocol.caches=user"])
    with tempfile.TemporaryDirectory() as name:
        os.environ["VLLM_CACHE_ROOT"] = f"{name}/vllm"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{name}/torchinductor"
        run_by_hand(config, Path(name))  # fills the compile caches
        times = [(run_by_hand(config, Path(name)), run_phase(config)) for _ in range(arguments.repeats)]
    print(f"{'':12} {'by hand':>10} {'phase':>10} {'ratio':>7}")
    for field in dataclasses.fields(Times):
        hand, phase = (
            statistics.median(getattr(column, field.name) for column in side) for side in zip(*times, strict=True)
        )
        print(f"{field.name.removesuffix('_s'):12} {hand:8.2f} s {phase:8.2f} s {phase / hand:7.3f}")


if __name__ == "__main__":
    main()
