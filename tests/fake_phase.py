"""A phase without an engine, for tests of what surrounds it: scheduling, failure, time limits, clean-up.

Started instead of the Python interpreter of the phases (`runtime.python`), with the interpreter's arguments. It
speaks the real protocol with the real pipes; what it does besides is set by the environment variable `FAKE_PHASE`, a
JSON object `{arm: behaviour}`; in a sweep over batch sizes `{"arm 8": behaviour}` is that of one size.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from bi_experiments import __version__
from bi_experiments.phase.architectures import architectures
from bi_experiments.phase.arguments import engine_arguments
from bi_experiments.phase.pipes import ParentPipes
from bi_experiments.records import (
    Arm,
    BatchRequest,
    Done,
    EngineReady,
    Failed,
    Located,
    Location,
    ModuleDifference,
    NeedleCheck,
    ObservedEngine,
    PhaseSpec,
    Profiled,
    SmallestBatch,
    Started,
    Trial,
    TrialDone,
    WarmedUp,
    Workload,
    from_json,
)
from tests import profiles

OBSERVED = ObservedEngine(
    batch_invariant=False,
    attention_backend="CPU_ATTN",
    compilation_mode="NONE",
    cudagraph_mode="NONE",
    enforce_eager=True,
    dtype="bfloat16",
    device="fake",
    kv_cache_tokens=1024,
    block_size=16,
    max_num_batched_tokens=512,
    max_num_seqs=8,
    async_scheduling=False,
    threads=1,
)


def main() -> None:
    """Act as `python -m bi_experiments.phase SPEC --events-fd=N --turns-fd=M`."""
    module, *arguments = sys.argv[2:]
    if module == "bi_experiments.phase.checkpoint":
        print("/nowhere/checkpoint")
        return
    if module == "bi_experiments.phase.versions":
        print(json.dumps({"vllm": os.environ.get("FAKE_VLLM", "0.32.0+fake")}))
        return
    if module == "bi_experiments.phase.arguments":
        print(json.dumps(engine_arguments()))
        return
    if module == "bi_experiments.phase.architectures":
        print(json.dumps(architectures()))
        return
    path = Path(arguments[0])
    events_fd, turns_fd = (int(argument.partition("=")[2]) for argument in arguments[1:])
    pipes = ParentPipes(events_fd, turns_fd)
    pipes.listen()
    spec = from_json(path.read_bytes(), PhaseSpec, path)
    behaviours = json.loads(os.environ.get("FAKE_PHASE", "{}"))
    run(spec, pipes, behaviours.get(f"{spec.arm} {spec.engine.max_num_seqs}", behaviours.get(spec.arm, "")))


def run(spec: PhaseSpec, pipes: ParentPipes, behaviour: str) -> None:
    """Report trials that took as long as a formula says."""
    if behaviour in AT_START:
        AT_START[behaviour](pipes)
    version = "0.0.1-other" if behaviour == "other_version" else __version__
    pipes.emit(Started(pid=os.getpid(), project_version=version, versions={"python": "3"}))
    if behaviour == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(os.environ["CHILD_PID"]).write_text(str(child.pid))
    mode = os.environ["VLLM_BATCH_INVARIANT"] == "1"
    observed = OBSERVED.__class__(
        **{
            **{name: getattr(OBSERVED, name) for name in OBSERVED.__struct_fields__},
            "batch_invariant": False if behaviour == "ignores_mode" else mode,
            "attention_backend": "OTHER_ATTN" if behaviour == "other_backend" else spec.engine.attention_backend or "X",
        }
    )
    hang_if(behaviour == "hangs_at_start")
    pipes.emit(EngineReady(init_time_s=2.0 if spec.launch == 0 else 1.0, import_time_s=0.1, observed=observed))
    if spec.locate is not None:
        hang_if(behaviour == "hangs_in_search")
        pipes.emit(Located(location=locate(spec, behaviour)))
        pipes.emit(Done(peak_memory_bytes=1 << 20, probe_time_s=0.0))
        return
    hang_if(behaviour == "hangs_in_warm_up")
    pipes.emit(WarmedUp(time_s=0.1, needle_token_ids=(1, 2, 3), step_sizes=4))
    workload = from_json(Path(spec.workload_path).read_bytes(), Workload, spec.workload_path)
    for number, index in enumerate(spec.trial_order or range(len(workload.trials))):
        batch = workload.trials[index]
        if spec.wait_for_turn:
            pipes.wait_for_turn()
        if behaviour == "fails" and number == 1:
            print("line that explains the failure")
            pipes.emit(Failed(error="RuntimeError: it broke"))
            sys.exit(1)
        if behaviour == "fails_twice" and number == 1:  # two threads that see the same engine die
            pipes.emit(Failed(error="RuntimeError: it broke"))
            pipes.emit(Failed(error="RuntimeError: and so it did"))
            sys.exit(1)
        if behaviour == "dies" and number == 1:
            os._exit(7)
        if behaviour == "one_trial_less" and number == 1:
            break
        if behaviour == "done_first" and number == 0:
            pipes.emit(Done(peak_memory_bytes=1, probe_time_s=0.0))
        hang_if(behaviour in {"hangs", "child", "setsid"} and number == 1)
        # The mode costs 10 %, a little more with every launch, so that intervals are narrow but not empty.
        time_s = 0.01 * (index + 1) * (1.1 + 0.001 * spec.launch if mode else 1.0)
        time.sleep(time_s)
        done = TrialDone(
            trial=Trial(
                index=index,
                batch_size=batch.batch_size,
                started_at=time.time() - time_s,
                time_s=0.0 if behaviour == "no_time" else time_s,
                cpu_time_s=time_s,
                prompt_tokens=10 * batch.batch_size,
                output_tokens=workload.sampling.max_tokens * batch.batch_size,
                needle=NeedleCheck(equal=True),
            )
        )
        for _ in range(2 if behaviour == "trials_twice" else 1):
            pipes.emit(done)
    if spec.wait_for_turn:
        pipes.wait_for_turn()
    hang_if(behaviour == "hangs_in_probes")
    end(spec, pipes, behaviour)


def hang_if(hangs: bool) -> None:
    """Go no further, if so."""
    if hangs:
        time.sleep(600)


def end(spec: PhaseSpec, pipes: ParentPipes, behaviour: str) -> None:
    """The last events, and what comes after them."""
    if spec.profiler is not None:
        hang_if(behaviour == "hangs_in_profile")
        pipes.emit(Profiled(profile=profiles.BASELINE if spec.arm is Arm.BASELINE else profiles.SECOND))
    pipes.emit(Done(peak_memory_bytes=1 << 20, probe_time_s=0.0))
    if behaviour == "dies_after_done":
        os._exit(3)
    hang_if(behaviour == "hangs_after_done")
    if behaviour == "leaves_a_child":
        leave_a_child(pipes)


def leave_a_child(pipes: ParentPipes, sleep_s: int = 600) -> None:
    """Start a process in a session of its own that holds the event pipe open."""
    child = subprocess.Popen(
        [sys.executable, "-c", f"import time; time.sleep({sleep_s})"],
        start_new_session=True,
        pass_fds=(pipes._events_fd,),
    )
    Path(os.environ["CHILD_PID"]).write_text(str(child.pid))


def fail_as_a_core(pipes: ParentPipes) -> NoReturn:
    """Fail as a phase does whose engine core failed: the cause stands in the log alone."""
    print(CORE_LOG)
    sys.stdout.flush()
    pipes.emit(Started(pid=os.getpid(), project_version=__version__, versions={}))
    pipes.emit(Failed(error=CORE_LOG.splitlines()[-1]))
    sys.exit(1)


def write_without_end(pipes: ParentPipes) -> NoReturn:
    """Fill the event pipe with something that never ends."""
    while True:
        os.write(pipes._events_fd, b"x" * 65536)


def write_a_wild_log(pipes: ParentPipes) -> NoReturn:
    """A long log with a line of 100 MB and escape sequences in it, then a failure."""
    print("\x1b[31mred\x1b[0m \x1b]0;title\x07\x08bell\x07")
    for _ in range(100):
        sys.stdout.write("y" * 1_000_000)
    print("\n" + "z" * 1000 + "\nthe end\x1b[2J")
    sys.stdout.flush()
    pipes.emit(Failed(error="RuntimeError: \x1b[31mit broke\nbadly"))
    sys.exit(1)


def say_untuned(_: ParentPipes) -> None:
    """What vLLM says of a mixture of experts that nobody tuned."""
    print("WARNING 11-25 12:00:00 [fused_moe.py:1164] Using default MoE config. Config file not found at", end=" ")
    print("/home/ada/configs/E=8,N=64.json", flush=True)


AT_START: dict[str, Callable[[ParentPipes], object]] = {
    "core_fails": fail_as_a_core,
    "endless_event": write_without_end,
    "wild_log": write_a_wild_log,
    "setsid": leave_a_child,
    "untuned": say_untuned,
}

CORE = "(EngineCore pid=4242) "
CORE_LOG = "\n".join(
    [
        f"{CORE}ERROR 11-25 12:00:00 [core.py:1107] EngineCore failed to start.",
        f"{CORE}ERROR 11-25 12:00:00 [core.py:1107] Traceback (most recent call last):",
        f'{CORE}ERROR 11-25 12:00:00 [core.py:1107]   File "kv_cache_utils.py", line 720, in check',
        f"{CORE}ERROR 11-25 12:00:00 [core.py:1107] ValueError: No available memory for the cache blocks. Try it",
        f"{CORE}ERROR 11-25 12:00:00 [core.py:1107] with more of it.",
        f"{CORE}Process EngineCore:",
        "Traceback (most recent call last):",
        '  File "core_client.py", line 1, in wait',
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
)


def locate(spec: PhaseSpec, behaviour: str) -> Location:
    """A linear layer differs; with `compiled_only` nothing does while the model is eager, or graphs are off.

    With `other_steps` the batch cannot be composed there.
    """
    plan = spec.locate
    assert plan is not None
    nothing = Location(
        arm=spec.arm,
        composition=plan.composition,
        batch=plan.batch,
        position=plan.position,
        sample=plan.sample,
        stopped="the probe's output is the same in the batch as alone",
        prompt_tokens=3,
        logprobs=5,
    )
    graphs = spec.engine.extra.get("compilation_config", {}).get("cudagraph_mode")
    if behaviour in {"compiled_only", "other_steps"} and (spec.engine.enforce_eager or graphs == "NONE"):
        return msgspec.structs.replace(nothing, composed=behaviour == "compiled_only")
    linear = ModuleDifference(
        rank=0,
        module="model.layers.2.mlp.down_proj",
        class_name="RowParallelLinear",
        kind="matrix multiplication",
        step=0,
        position=2,
        rows_alone=3,
        rows_in_batch=9,
        shape=(3, 64),
        elements=192,
        differing=64,
        largest_difference=0.5,
        inputs_equal=True,
    )
    norm = msgspec.structs.replace(linear, module="model.layers.2.norm", class_name="RMSNorm", kind="norm", differing=0)
    requests = tuple(
        BatchRequest(prompt=prompt, max_tokens=2, temperature=0.0, seed=None, samples=1)
        for prompt in ((5, 6, 7), (8, 9, 10, 11, 12, 13))
    )
    smallest = SmallestBatch(
        requests=requests,
        position=0,
        sample=plan.sample,
        first_difference=1,
        neighbours_before=7,
        tried=12,
        whole=True,
        first=linear if plan.observe else None,
        border_tokens=6,
        larger_differing=(7, 8, 12, 13),
    )
    return msgspec.structs.replace(
        nothing,
        stopped=None,
        first_difference=1,
        first=linear if plan.observe else None,
        layers=(norm, linear) if plan.observe else (),
        smallest=smallest,
    )


if __name__ == "__main__":
    main()
