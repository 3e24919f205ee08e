"""A phase against the same work written by hand around `vllm.LLM`: initialisation, warm-up and trials.

    python benchmarks/phase_and_loop.py [--repeats 8]

Both run the workload of `experiment=cpu_demo` in the baseline arm, each in a fresh process, in random order within a
repeat. Printed are medians, and the change against the loop with its 95 % interval over the repeats. Launches of
one and the same code differ by some per cent: for the trials alone, `trials_in_one_engine.py` sees more.
"""

import argparse
import dataclasses
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from by_turns import interval_line

from bi_experiments.config.compose import compose
from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.experiment import run_single_phase
from bi_experiments.launch.spec import model_path
from bi_experiments.launch.variables import phase_variables
from bi_experiments.records import Arm
from bi_experiments.workload import build_workload


@dataclasses.dataclass(frozen=True)
class Times:
    """Wall times in seconds, and the process's CPU time in the trials."""

    init_s: float
    warmup_s: float
    trials_s: float
    trials_cpu_s: float


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
    before, cpu_before = time.perf_counter(), time.process_time()
    for batch in job["batches"]:
        llm.generate(batch, params, use_tqdm=False)
    trials_s, trials_cpu_s = time.perf_counter() - before, time.process_time() - cpu_before
    print(json.dumps([init_s, warmup_s, trials_s, trials_cpu_s]), flush=True)
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
    variables = phase_variables(config, Arm.BASELINE, folder)
    command = [sys.executable, __file__, "--by-hand", str(path)]
    done = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
    return Times(*json.loads(done.stdout.splitlines()[-1]))


def run_phase(config: ExperimentConfig) -> Times:
    """Run the same as a phase of this project."""
    result = run_single_phase(config, Arm.BASELINE)
    assert result.init_time_s is not None
    assert result.warmup_time_s is not None
    return Times(
        result.init_time_s,
        result.warmup_time_s,
        sum(trial.time_s for trial in result.trials),
        sum(trial.cpu_time_s for trial in result.trials),
    )


def report(loop: list[Times], phase: list[Times]) -> None:
    """Print the medians of both sides, and the change from the loop to the phase."""
    for field in dataclasses.fields(Times):
        ours, theirs = ([getattr(times, field.name) for times in side] for side in (phase, loop))
        effects = [math.log(one / other) for one, other in zip(ours, theirs, strict=True)]
        medians = f"loop {statistics.median(theirs):.3f} s, phase {statistics.median(ours):.3f} s"
        print(interval_line(f"{field.name:12} {medians}, phase against loop", effects, "repeats"))


def main() -> None:
    """Print each repeat's trials as it ends, then the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--by-hand", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.by_hand:
        by_hand(arguments.by_hand)
    config = compose(["experiment=cpu_demo", "verify=off", "protocol.caches=user"])
    with tempfile.TemporaryDirectory() as name:
        os.environ["VLLM_CACHE_ROOT"] = f"{name}/vllm"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{name}/torchinductor"
        sides: dict[str, Callable[[], Times]] = {
            "loop": lambda: run_by_hand(config, Path(name)),
            "phase": lambda: run_phase(config),
        }
        run_phase(config)  # makes the checkpoint and fills the caches
        times: dict[str, list[Times]] = {side: [] for side in sides}
        for repeat in range(arguments.repeats):
            for side in random.sample(list(sides), len(sides)):
                times[side].append(sides[side]())
            last = ", ".join(f"{side} {taken[-1].trials_s:.2f} s" for side, taken in times.items())
            print(f"repeat {repeat}, trials: {last}", flush=True)
    report(times["loop"], times["phase"])


if __name__ == "__main__":
    main()
