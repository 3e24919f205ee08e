"""What the CPU plugin costs a whole engine: the demo model's trial times with the mode off and on, by turns.

    python benchmarks/plugin_overhead.py [--launches 3] [--trials 8] [--batch-size 32] [--eager] [--dtype bfloat16]

Each launch starts a fresh process an arm; both stay alive and run the same trials by turns, so that drift falls on
both. A launch's overhead is the mean of ln(on / off) over its trials; the interval (95 %, Student's t) is over
launches, since the trials of one launch are not independent. Each arm has compile caches of its own.
"""

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TextIO

from scipy.stats import t as student_t

ARMS = {"off": "0", "on": "1"}
SEED = 20240919
WARM_UP_TRIALS = 2


def main() -> None:
    """Print one line a trial and a summary."""
    parser = argparse.ArgumentParser(
        description="Trial times of the demo model with the batch-invariant mode off and on."
    )
    parser.add_argument("--launches", type=int, default=3, help="fresh processes an arm")
    parser.add_argument("--trials", type=int, default=8, help="timed trials a launch")
    parser.add_argument("--batch-size", type=int, default=32, help="prompts a trial")
    parser.add_argument("--min-prompt", type=int, default=24, help="shortest prompt, in tokens")
    parser.add_argument("--max-prompt", type=int, default=200, help="longest prompt, in tokens")
    parser.add_argument("--max-tokens", type=int, default=32, help="output tokens a prompt")
    parser.add_argument("--dtype", default="bfloat16", help="torch name of the weights' type")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument(
        "--cache-dir", type=Path, help="folder for the checkpoint and the compile caches; default: a temporary one"
    )
    parser.add_argument("--worker", type=int, metavar="FD", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        cache_dir = options.cache_dir or Path(temporary)
        effects = [run_launch(launch, options.trials, cache_dir) for launch in range(options.launches)]
    overhead = math.exp(mean(effects)) - 1
    if len(effects) == 1:
        print(f"overhead {overhead:+.1%} (one launch an arm: no interval)")
        return
    half = student_t.ppf(0.975, len(effects) - 1) * stdev(effects) / math.sqrt(len(effects))
    low, high = (math.exp(mean(effects) + side * half) - 1 for side in (-1, 1))
    print(f"overhead {overhead:+.1%}, 95 % interval {low:+.1%} to {high:+.1%} over {len(effects)} launches an arm")


@dataclass
class Worker:
    """One arm's process, which runs a trial for each line it is sent and answers with the seconds it took."""

    process: "subprocess.Popen[str]"
    answers: TextIO

    def trial_s(self, trial: int) -> float:
        """Runs one trial and returns its time in seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{trial}\n")
        self.process.stdin.flush()
        answer = self.answers.readline()
        if not answer:
            sys.exit(f"an arm's process ended with {self.process.wait()}; its output is above")
        return float(answer)


def run_launch(launch: int, trials: int, cache_dir: Path) -> float:
    """Runs both arms' trials by turns and returns the mean of ln(on / off)."""
    workers = {arm: start_worker(arm, cache_dir) for arm in ARMS}
    effects = []
    for trial in range(-WARM_UP_TRIALS, trials):
        order = list(ARMS) if (launch + trial) % 2 == 0 else list(ARMS)[::-1]
        taken_s = {arm: workers[arm].trial_s(trial) for arm in order}
        if trial >= 0:
            effects.append(math.log(taken_s["on"] / taken_s["off"]))
            print(
                f"launch {launch} trial {trial}: off {taken_s['off']:.3f} s, on {taken_s['on']:.3f} s, "
                f"ratio {taken_s['on'] / taken_s['off']:.3f}",
                flush=True,
            )
    for worker in workers.values():
        worker.process.communicate()
    return mean(effects)


def start_worker(arm: str, cache_dir: Path) -> Worker:
    """Starts one arm's process."""
    readable, writable = os.pipe()
    environment = os.environ | {
        "VLLM_BATCH_INVARIANT": ARMS[arm],
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CACHE_ROOT": str(cache_dir / arm / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache_dir / arm / "inductor"),
    }
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", str(writable), "--cache-dir", str(cache_dir)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, pass_fds=[writable], text=True)
    os.close(writable)
    return Worker(process, os.fdopen(readable))


def work(options: argparse.Namespace) -> None:
    """An arm's process: loads the engine, then runs the trial of each line on stdin."""
    from dataclasses import replace

    from vllm import LLM, SamplingParams

    from bi_experiments.phase.checkpoint import CheckpointSpec, ensure_checkpoint
    from bi_experiments.vllm_cpu import register

    register()
    spec = replace(CheckpointSpec(), dtype=options.dtype)
    llm = LLM(
        str(ensure_checkpoint(spec, options.cache_dir)),
        dtype=options.dtype,
        max_model_len=2048,
        enforce_eager=options.eager,
        enable_prefix_caching=False,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=options.max_tokens, ignore_eos=True)
    with os.fdopen(options.worker, "w", buffering=1) as answers:
        for line in sys.stdin:
            generator = random.Random(SEED + int(line))
            prompts = [
                {"prompt_token_ids": [generator.randrange(1, spec.vocab_size) for _ in range(length)]}
                for length in (
                    generator.randint(options.min_prompt, options.max_prompt) for _ in range(options.batch_size)
                )
            ]
            start = time.perf_counter()
            llm.generate(prompts, sampling, use_tqdm=False)
            answers.write(f"{time.perf_counter() - start}\n")


if __name__ == "__main__":
    main()
