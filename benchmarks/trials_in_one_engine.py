"""What a phase adds to a trial: three kinds of trial of the same prompts, in random order in one engine.

    python benchmarks/trials_in_one_engine.py [--launches 4] [--rounds 24]

`loop` is `LLM.generate` between two readings of the clock, as one would write it; `metrics` the same with vLLM's
request metrics on, from which time to first token and its like come; `phase` is a phase's own code. No two engines are
equally fast, so one runs all three. Printed are the changes against `loop`, with intervals over all rounds and over
launches, and the tightest figure: what the metrics' own functions took of a trial.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from by_turns import interval_line

from bi_experiments.config.compose import compose
from bi_experiments.launch.spec import engine_spec, model_path
from bi_experiments.launch.variables import phase_variables
from bi_experiments.records import Arm
from bi_experiments.workload import build_workload

PRESET = ["experiment=cpu_demo", "protocol.caches=user", "workload.max_tokens=32"]
WARM_UP_ROUNDS = 2


class Stopwatch:
    """The time that is spent in functions, added up."""

    def __init__(self) -> None:
        self.total_s = 0.0

    def watch(self, owner: object, name: str) -> None:
        """Replace a function of a class or an object by one that is timed."""
        function = getattr(owner, name)

        def timed(*arguments: object, **named: object) -> object:
            started = time.perf_counter()
            result = function(*arguments, **named)
            self.total_s += time.perf_counter() - started
            return result

        setattr(owner, name, timed)


def launch(rounds: int) -> None:
    """One engine's process: prints the time of every trial by kind, and the metrics' share of one, as JSON."""
    from vllm.v1.metrics.stats import IterationStats

    from bi_experiments.phase import engine, trials

    config = compose(PRESET)
    workload = build_workload(config.workload, config.seed)
    llm: Any = engine.build_engine(engine_spec(config, model_path(config)))
    front, core = llm.llm_engine, llm.llm_engine.engine_core.engine_core
    params = engine.sampling_params(workload.sampling)
    largest = max(workload.trials, key=lambda trial: trial.batch_size)
    prompts = engine.token_prompts(llm, largest.prompts)
    engine.watch_compiles(llm)

    def switch(metrics: bool) -> None:
        for part in (front, front.output_processor, core, core.scheduler):
            part.log_stats = metrics

    def loop(metrics: bool) -> float:
        switch(metrics)
        started = time.perf_counter()
        llm.generate(list(prompts), params, use_tqdm=False)
        return time.perf_counter() - started

    def phase() -> float:
        switch(metrics=True)
        trial, _ = trials.run_trial(llm, 0, prompts, largest.needle_position, params, ())
        return trial.time_s

    kinds: dict[str, Callable[[], float]] = {
        "loop": lambda: loop(metrics=False),
        "metrics": lambda: loop(metrics=True),
        "phase": phase,
    }
    for _ in range(WARM_UP_ROUNDS):
        for trial in kinds.values():
            trial()
    taken_s: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in random.sample(list(kinds), len(kinds)):
            taken_s[kind].append(kinds[kind]())
    stopwatch = Stopwatch()
    stopwatch.watch(core.scheduler, "make_stats")
    for name in ("update_from_output", "update_from_finished_request"):
        stopwatch.watch(IterationStats, name)
    last_s = loop(metrics=True)
    print(json.dumps([taken_s, stopwatch.total_s / last_s]), flush=True)
    os._exit(0)


def main() -> None:
    """Print one line a launch and kind, then the changes over all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=4, help="fresh processes")
    parser.add_argument("--rounds", type=int, default=24, help="timed trials of each kind a launch")
    parser.add_argument("--launch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.launch:
        launch(options.rounds)
    command = [sys.executable, __file__, "--launch", f"--rounds={options.rounds}"]
    effects: dict[str, list[list[float]]] = {"metrics": [], "phase": []}
    for number in range(options.launches):
        with tempfile.TemporaryDirectory() as caches:
            variables = phase_variables(compose(PRESET), Arm.BASELINE, Path(caches))
            done = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
        taken_s, share = json.loads(done.stdout.splitlines()[-1])
        print(f"launch {number}: the metrics' functions took {100 * share:.2f} % of a trial", flush=True)
        for kind, of_launches in effects.items():
            of_launches.append([math.log(one / loop) for one, loop in zip(taken_s[kind], taken_s["loop"], strict=True)])
            print(f"  {interval_line(f'{kind} against loop', of_launches[-1], 'rounds')}", flush=True)
    for kind, of_launches in effects.items():
        print(interval_line(f"{kind} against loop", [effect for one in of_launches for effect in one], "rounds"))
        print(interval_line(f"{kind} against loop", [fmean(one) for one in of_launches], "launches"))


if __name__ == "__main__":
    main()
