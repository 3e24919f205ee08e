"""A phase that answers at once, without an engine and without this project: what is left is what the parent costs.

Started instead of the phases' Python interpreter; see `benchmarks/sweep.py`.
"""

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Act as `python -m bi_experiments.phase SPEC --events-fd=N --turns-fd=M`, and as what is asked for its answer."""
    module, *arguments = sys.argv[2:]
    if module == "bi_experiments.phase.versions":
        print(json.dumps({"vllm": "0.0"}))
    elif module == "bi_experiments.phase.checkpoint":
        print("/nowhere")
    else:
        spec = json.loads(Path(arguments[0]).read_text())
        trials = json.loads(Path(spec["workload_path"]).read_text())["trials"]
        batches = [len(trial["prompts"]) for trial in trials]
        events = "".join(json.dumps(event) + "\n" for event in answer(spec, batches))
        os.write(int(arguments[1].partition("=")[2]), events.encode())


def answer(spec: dict[str, object], batches: list[int]) -> list[dict[str, object]]:
    """All events of the phase; the mode costs 10 %."""
    engine = spec["engine"]
    assert isinstance(engine, dict)
    invariant = spec["arm"] == "batch_invariant"
    observed = {
        "batch_invariant": invariant,
        "attention_backend": engine["attention_backend"],
        "compilation_mode": "NONE",
        "cudagraph_mode": "NONE",
        "enforce_eager": True,
        "dtype": "bfloat16",
        "device": "none",
        "kv_cache_tokens": 1024,
        "block_size": 16,
        "max_num_batched_tokens": 512,
        "max_num_seqs": 8,
        "async_scheduling": False,
        "threads": 1,
    }
    trials: list[dict[str, object]] = [
        {
            "type": "trial",
            "trial": {
                "index": index,
                "batch_size": size,
                "started_at": time.time(),
                "time_s": 1.1 if invariant else 1.0,
                "cpu_time_s": 1.0,
                "prompt_tokens": 10 * size,
                "output_tokens": size,
                "needle": {"equal": True},
            },
        }
        for index, size in enumerate(batches)
    ]
    return [
        {"type": "started", "pid": os.getpid(), "project_version": spec["project_version"], "versions": {}},
        {"type": "engine_ready", "init_time_s": 1.0, "import_time_s": 1.0, "observed": observed},
        {"type": "warmed_up", "time_s": 1.0, "needle_token_ids": [1]},
        *trials,
        {"type": "done", "peak_memory_bytes": 1, "probe_time_s": 0.0},
    ]


if __name__ == "__main__":
    main()
