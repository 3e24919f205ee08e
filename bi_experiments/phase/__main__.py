"""`python -m bi_experiments.phase SPEC --events-fd N --turns-fd M`: one phase, which only the parent starts."""

import argparse
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from bi_experiments import __version__
from bi_experiments.phase.pipes import ParentPipes
from bi_experiments.phase.versions import versions
from bi_experiments.phase.watch import EngineWatch
from bi_experiments.records import (
    Done,
    EngineReady,
    Failed,
    Located,
    ObservedEngine,
    PhaseSpec,
    Profiled,
    Started,
    Workload,
    from_json,
)

if TYPE_CHECKING:
    from vllm import LLM

MOST_CHARACTERS = 2000
"""Longest error that is reported."""


def main() -> int:
    """Run the phase and return the process's exit status."""
    parser = argparse.ArgumentParser(description="Run one phase of an experiment.")
    parser.add_argument("spec", type=Path)
    parser.add_argument("--events-fd", type=int, required=True)
    parser.add_argument("--turns-fd", type=int, required=True)
    arguments = parser.parse_args()
    pipes = ParentPipes(arguments.events_fd, arguments.turns_fd)
    pipes.listen()
    try:
        spec = from_json(arguments.spec.read_bytes(), PhaseSpec, arguments.spec)
        run_phase(spec, pipes, arguments.spec.parent)
    except BaseException as error:  # noqa: BLE001  whatever ends a phase is reported to the parent
        traceback.print_exc()
        pipes.emit(Failed(error=_one_line(error)))
        return 1
    return 0


def run_phase(spec: PhaseSpec, pipes: ParentPipes, folder: Path) -> None:
    """Build the engine, warm up, time the trials, run the probes.

    Args:
        spec: What to do.
        pipes: Where events go and turns come from.
        folder: The phase's folder.
    """
    pipes.emit(Started(pid=os.getpid(), project_version=__version__, versions=versions()))
    before = time.perf_counter()
    from vllm import LLM  # noqa: F401  its modules are loaded here, so that their import is timed apart from the engine

    imported = time.perf_counter()
    from bi_experiments.phase import engine, trials
    from bi_experiments.phase.profilers import PROFILERS, trial
    from bi_experiments.phase.proof import probes

    workload = timed = trials.read_workload(Path(spec.workload_path), spec.workload_digest)
    if spec.trials_path is not None and spec.trials_digest is not None:
        timed = trials.read_workload(Path(spec.trials_path), spec.trials_digest)
    started = time.perf_counter()
    profiler = PROFILERS[spec.profiler](folder / "profile") if spec.profiler is not None else None
    llm = engine.build_engine(spec.engine, profiler.engine_arguments if profiler is not None else None)
    init_time_s = time.perf_counter() - started
    watch = EngineWatch(pipes.emit)
    watch.start()
    try:
        observed = engine.observe(llm)
        pipes.emit(EngineReady(init_time_s=init_time_s, import_time_s=imported - before, observed=observed))
        if spec.locate is not None:
            emit_location(llm, spec, workload, observed, pipes)
            return
        if spec.probes is not None:
            probes.warm_up(llm, spec.probes)
        wait = pipes.wait_for_turn if spec.wait_for_turn else _start_at_once
        done = trials.run_workload(llm, timed, spec, pipes.emit, wait)
        wait()
        probed = time.perf_counter()
        if spec.probes is not None:
            probes.run_probes(
                llm,
                spec.probes,
                workload,
                max_num_batched_tokens=observed.max_num_batched_tokens,
                max_num_seqs=observed.max_num_seqs,
                max_model_len=spec.engine.max_model_len,
                emit=pipes.emit,
                keep_folder=folder if spec.probes.keep else None,
                time_s=None if spec.probes.trial_times is None else spec.probes.trial_times * done.time_s,
                timed=done.token_ids if timed.trials == workload.trials else {},
            )
        probe_time_s = time.perf_counter() - probed
        if profiler is not None:  # last, so that neither trials nor probes run in a process that was profiled
            pipes.emit(Profiled(profile=trial.profile_trial(llm, timed, profiler)))
        pipes.emit(Done(peak_memory_bytes=engine.peak_memory_bytes(llm), probe_time_s=probe_time_s))
    finally:
        watch.stop()
        engine.shut_down(llm)


def emit_location(
    llm: "LLM", spec: PhaseSpec, workload: Workload, observed: ObservedEngine, pipes: ParentPipes
) -> None:
    """Look for the operator behind one differing probe, instead of running trials and probes."""
    from bi_experiments.phase import engine
    from bi_experiments.phase.proof import localiser

    started = time.perf_counter()
    pipes.emit(Located(location=localiser.locate(llm, spec, workload, observed)))
    took_s = time.perf_counter() - started
    pipes.emit(Done(peak_memory_bytes=engine.peak_memory_bytes(llm), probe_time_s=took_s))


def _start_at_once() -> None:
    """Start the trial at once."""


def _one_line(error: BaseException) -> str:
    """All that an error says, in one line: the first of a pydantic error's says only that there is one."""
    lines = [line.strip() for line in str(error).splitlines() if "For further information visit" not in line]
    said = " ".join(line for line in lines if line)
    return f"{type(error).__name__}: {said[:MOST_CHARACTERS]}" if said else type(error).__name__


if __name__ == "__main__":
    # Threads of the engine may still hang: the process ends here whatever they do.
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
