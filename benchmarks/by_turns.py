"""Engines of the demo model, each in a process of its own, that run a trial on request: for benchmarks in turn.

An engine's process is this file, started with the job as JSON and the file descriptor that answers go to.
"""

import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Self, TextIO

from bi_experiments.analysis.estimates import paired_estimate
from bi_experiments.config.compose import compose

SEED = 20240919
WARM_UP_TRIALS = 2


def backend_variables() -> dict[str, str]:
    """The variables of `backend=cpu`."""
    return dict(compose(["backend=cpu"]).backend.environment)


@dataclass(frozen=True)
class Job:
    """What an engine is and what a trial of it does."""

    cache_dir: str
    """Folder of the checkpoint, and of compile caches of the engine's own."""
    name: str
    """Of the engine: its caches' folder."""
    batch_invariant: bool = False
    engine: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `vllm.LLM`."""
    variables: dict[str, str] = field(default_factory=backend_variables)
    """Variables of its process apart from the mode and the caches."""
    dtype: str = "bfloat16"
    batch_size: int = 32
    """Prompts a trial."""
    min_prompt: int = 24
    """Shortest prompt, in tokens."""
    max_prompt: int = 200
    max_tokens: int = 32
    """Output tokens a prompt."""


class Engine:
    """One engine's process; trial k is the same prompts in all of them."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> Self:
        job = self._job
        readable, writable = os.pipe()
        caches = Path(job.cache_dir) / job.name
        variables = os.environ | {
            "VLLM_BATCH_INVARIANT": str(int(job.batch_invariant)),
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_CACHE_ROOT": str(caches / "vllm"),
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            **job.variables,
        }
        self._log = (Path(job.cache_dir) / f"{job.name}.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asdict(job)), str(writable)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=variables,
            pass_fds=[writable],
            text=True,
        )
        os.close(writable)
        self._answers: TextIO = os.fdopen(readable)
        self._answer()
        return self

    def trial_s(self, trial: int) -> float:
        """Run one trial and return its time in seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{trial}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        answer = self._answers.readline()
        if not answer:
            sys.exit(f"an engine's process ended with {self.process.wait()}: see {self._log.name}")
        return answer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate()
        self._answers.close()
        self._log.close()


def launch_effect(engines: Mapping[str, Engine], launch: int, trials: int) -> float:
    """Run the trials of two engines in turn and return the mean of ln(second / first), one line a trial printed.

    Args:
        engines: The two, by the name that is printed.
        launch: Number of this launch; decides, with the trial, which engine goes first.
        trials: Timed trials; a few more come before them.
    """
    first, second = engines
    effects = []
    for trial in range(-WARM_UP_TRIALS, trials):
        order = (first, second) if (launch + trial) % 2 == 0 else (second, first)
        taken_s = {name: engines[name].trial_s(trial) for name in order}
        if trial >= 0:
            effects.append(math.log(taken_s[second] / taken_s[first]))
            print(
                f"launch {launch} trial {trial}: {first} {taken_s[first]:.3f} s, {second} {taken_s[second]:.3f} s, "
                f"ratio {taken_s[second] / taken_s[first]:.3f}",
                flush=True,
            )
    return fmean(effects)


def compare_by_turns(jobs: Sequence[Job], launches: int, trials: int) -> None:
    """Launch both engines several times and print the change from the first to the second with its interval.

    A launch's effect is the mean of ln(second / first) over its trials; the interval is over launches, since the
    trials of one launch are not independent.
    """
    effects = []
    for launch in range(launches):
        with Engine(jobs[0]) as first, Engine(jobs[1]) as second:
            effects.append(launch_effect({jobs[0].name: first, jobs[1].name: second}, launch, trials))
    print(interval_line(f"{jobs[1].name} against {jobs[0].name}", effects, "launches an arm"))


def interval_line(what: str, effects: Sequence[float], unit: str) -> str:
    """The change that log ratios stand for, with its 95 % interval."""
    estimate = paired_estimate(effects)
    if estimate.low_pct is None or estimate.high_pct is None:
        return f"{what}: {estimate.change_pct:+.1f} % (one of the {unit}: no interval)"
    return (
        f"{what}: {estimate.change_pct:+.1f} %, 95 % interval {estimate.low_pct:+.1f} to {estimate.high_pct:+.1f} %, "
        f"{len(effects)} {unit}"
    )


def work(job: Job, answers: TextIO) -> None:
    """An engine's process: loads it, says so, then runs the trial of each line on stdin."""
    generate = load(job)
    answers.write("ready\n")
    for line in sys.stdin:
        generator = random.Random(SEED + int(line))
        lengths = [generator.randint(job.min_prompt, job.max_prompt) for _ in range(job.batch_size)]
        prompts = [[generator.randrange(1, 8000) for _ in range(length)] for length in lengths]
        start = time.perf_counter()
        generate(prompts)
        answers.write(f"{time.perf_counter() - start}\n")


def load(job: Job) -> Callable[[list[list[int]]], object]:
    """The engine's `generate`, for prompts of token ids."""
    from dataclasses import replace

    from vllm import LLM, SamplingParams

    from bi_experiments.phase.checkpoint import CheckpointSpec, ensure_checkpoint
    from bi_experiments.vllm_cpu import register

    register()
    spec = replace(CheckpointSpec(), dtype=job.dtype)
    llm = LLM(
        str(ensure_checkpoint(spec, Path(job.cache_dir))),
        dtype=job.dtype,
        max_model_len=2048,
        enable_prefix_caching=False,
        **job.engine,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=job.max_tokens, ignore_eos=True)
    return lambda prompts: llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w", buffering=1) as channel:
        work(Job(**json.loads(sys.argv[1])), channel)
