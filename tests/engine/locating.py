"""Plants one fault after the other into an engine and locates each.

`python locating.py CHECKPOINT MODE RANKS FAULT ...` writes a file for each fault: the located difference. The fault
`none` plants nothing; of several ranks of tensor parallelism, the last has it.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bi_experiments.phase import engine
from bi_experiments.phase.proof import localiser, probes
from bi_experiments.records import (
    Arm,
    EngineSpec,
    LocatePlan,
    PhaseSpec,
    ProbeDone,
    ProbePlan,
    ProbeResult,
    to_json,
)
from tests.engine.faults import plant
from tests.phase.proof.fake_engine import WORKLOAD

if TYPE_CHECKING:
    from vllm import LLM

ARGUMENTS = EngineSpec(
    model="",
    dtype="float32",
    tensor_parallel_size=1,
    pipeline_parallel_size=1,
    max_model_len=512,
    gpu_memory_utilization=0.4,
    max_num_seqs=8,
    max_num_batched_tokens=512,
    attention_backend="CPU_ATTN",
    enforce_eager=True,
    enable_prefix_caching=False,
    async_scheduling=False,
    load_format="auto",
    trust_remote_code=False,
    quantization=None,
    distributed_executor_backend=None,
)
PLAN = ProbePlan(
    level="standard", compositions=("batch_8",), probes=3, max_tokens=3, logprobs=5, seed=12345, keep=False
)


def main(checkpoint: str, mode: str, ranks: int, faults: list[str]) -> None:
    """Locate every fault on one engine."""
    arm = Arm.BATCH_INVARIANT if mode == "1" else Arm.BASELINE
    arguments = msgspec.structs.replace(ARGUMENTS, model=checkpoint, tensor_parallel_size=ranks)
    llm = engine.build_engine(arguments)
    observed = engine.observe(llm)
    Path("observed.json").write_bytes(to_json(observed))
    executor = llm.llm_engine.engine_core.engine_core.model_executor
    for fault in faults:
        executor.collective_rpc(plant_in_worker, args=(fault, ranks - 1))
        differing = [result for result in probe(llm) if not result.equal]
        chosen = min(differing, key=lambda result: result.first_difference or 0)
        spec = PhaseSpec(
            project_version="",
            index=0,
            pair=0,
            arm=arm,
            launch=0,
            engine=arguments,
            workload_path="",
            workload_digest="",
            warmup_batches=0,
            wait_for_turn=False,
            probes=PLAN,
            locate=LocatePlan(
                composition=chosen.composition,
                batch=chosen.batch,
                position=chosen.position,
                sample=chosen.sample,
                observe=True,
                shrink_time_s=60.0,
            ),
        )
        location = localiser.locate(llm, spec, WORKLOAD, observed)
        executor.collective_rpc(take_out_of_worker)
        Path(f"{fault}.json").write_bytes(to_json(location))


def plant_in_worker(worker: Any, fault: str, rank: int) -> None:  # noqa: ANN401  vLLM's
    """Plant a fault into the model of one rank."""
    worker.take_out = plant(worker.model_runner.model, fault if worker.rank == rank else "none")


def take_out_of_worker(worker: Any) -> None:  # noqa: ANN401  vLLM's
    """Take it out again."""
    worker.take_out()


def probe(llm: "LLM") -> list[ProbeResult]:
    """The results of the plan's probes."""
    found: list[ProbeResult] = []

    def emit(done: ProbeDone) -> None:
        found.extend(done.results)

    probes.run_probes(llm, PLAN, WORKLOAD, 512, 8, 512, emit, None, None)
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
