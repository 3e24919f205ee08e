"""One measure of batch-invariant mode taken out at a time, to see which compositions of the proof notice.

`python benchmarks/mutants.py FOLDER [SETTING ...]` on a GPU machine runs the second arm's phase once for each mutant,
and prints a table: differing probe outputs of all, by composition. What has run does not run again: FOLDER keeps it.

The mutants are made by a plugin of vLLM's that FOLDER gets for this purpose alone: vLLM loads it in every one of its
processes because its metadata is on PYTHONPATH, and it does nothing unless BI_EXPERIMENTS_MUTANT is set.
"""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "BI_EXPERIMENTS_MUTANT"
INVARIANT = "vllm.model_executor.determinism.batch_invariant"
"""vLLM's module with most measures of the mode (0.32, 0.33)."""
PLUGIN = "bi_experiments_mutants"


class OtherEnvs:
    """vLLM's variables as one module sees them: to it the mode is off.

    Args:
        envs: The module `vllm.envs`.
    """

    VLLM_BATCH_INVARIANT = False

    def __init__(self, envs: ModuleType) -> None:
        self._envs = envs

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever the variable is
        return getattr(self._envs, name)


def mode_off_in(*modules: str) -> None:
    """Have these modules believe that the mode is off."""
    for name in modules:
        module = import_module(name)
        vars(module)["envs"] = OtherEnvs(import_module("vllm.envs"))


def without_overrides(*operators: str) -> None:
    """Leave torch's own kernels for these operators, which the mode replaces."""
    import torch

    invariant = import_module(INVARIANT)
    enable = invariant.enable_batch_invariant_mode

    class Library(torch.library.Library):  # type: ignore[misc]
        def impl(self, name: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as torch's
            return None if name in operators else super().impl(name, *args, **kwargs)

    def enable_fewer() -> None:
        whole = torch.library.Library
        torch.library.Library = Library
        try:
            enable()
        finally:
            torch.library.Library = whole

    vars(invariant)["enable_batch_invariant_mode"] = enable_fewer


def with_split_k() -> None:
    """Let cuBLAS split a sum over many blocks again, and reduce in bf16."""
    import torch

    invariant = import_module(INVARIANT)
    enable = invariant.enable_batch_invariant_mode

    def enable_and_undo() -> None:
        enable()
        for variable in ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE"):
            os.environ.pop(variable, None)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True

    vars(invariant)["enable_batch_invariant_mode"] = enable_and_undo


def without_order_in_matmul() -> None:
    """Both measures for matrix multiplication: either may do where the other is missing."""
    MUTANTS["matmul"].apply()
    MUTANTS["split_k"].apply()


def without_all_reduce() -> None:
    """All-reduce by whatever kernel and algorithm suits the size; what else the mode sets in its processes stays."""
    invariant = import_module(INVARIANT)
    override = invariant.override_envs_for_invariance

    def override_others() -> None:
        names = ("VLLM_ALLREDUCE_USE_SYMM_MEM", "VLLM_CUSTOM_ALLREDUCE_ALGO")
        before = {name: os.environ[name] for name in names if name in os.environ}
        override()
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)

    vars(invariant).update(override_envs_for_invariance=override_others, pin_nccl_env=lambda pins: None)
    mode_off_in("vllm.distributed.device_communicators.cuda_communicator")


@dataclass(frozen=True)
class Mutant:
    """One measure that is missing.

    Attributes:
        what: In words.
        apply: Takes it out, in a process that has not begun to build its engine.
        devices: How many it takes to see it.
    """

    what: str
    apply: Callable[[], None]
    devices: int = 1


MUTANTS = {
    "none": Mutant("nothing: the mode itself", lambda: None),
    "matmul": Mutant(
        "matrix multiplication with tuned tiles of one order",
        lambda: mode_off_in("vllm.model_executor.layers.linear", "vllm.model_executor.layers.utils"),
    ),
    "split_k": Mutant("no splitting of sums in cuBLAS", with_split_k),
    "matmul_and_split_k": Mutant("both of these", without_order_in_matmul),
    "rms_norm": Mutant("RMSNorm in one order", lambda: mode_off_in("vllm.model_executor.layers.layernorm")),
    "softmax": Mutant(
        "softmax and log-softmax in one order",
        lambda: without_overrides("aten::_log_softmax", "aten::softmax", "aten::_softmax"),
    ),
    "mean": Mutant("mean in one order", lambda: without_overrides("aten::mean.dim")),
    "bmm": Mutant(
        "batched matrix multiplication in one order", lambda: without_overrides("aten::bmm", "aten::bmm.out")
    ),
    "attention": Mutant("attention without splits", lambda: mode_off_in("vllm.v1.attention.backends.flash_attn")),
    # A sum of two numbers has one order: two devices cannot show it.
    "all_reduce": Mutant("one order of all-reduce", without_all_reduce, devices=4),
}


def register() -> None:
    """Called by vLLM in every process of its own."""
    name = os.environ.get(VARIABLE)
    if name and os.environ.get("VLLM_BATCH_INVARIANT") == "1":
        MUTANTS[name].apply()
        sys.stderr.write(f"batch-invariant mode without: {MUTANTS[name].what}\n")


def write_plugin(folder: Path) -> Path:
    """A folder that makes vLLM load this file as a plugin, once it is on PYTHONPATH."""
    plugin = folder / "plugin"
    metadata = plugin / f"{PLUGIN}-1.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PLUGIN}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{PLUGIN} = {PLUGIN}:register\n")
    (plugin / f"{PLUGIN}.py").write_text(Path(__file__).read_text())
    return plugin


def run_mutant(name: str, folder: Path, settings: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Differing probe outputs and all of them, by composition, of one mutant's phase."""
    from bi_experiments.config.compose import compose
    from bi_experiments.experiment import run_single_phase
    from bi_experiments.records import Arm, PhaseResult, from_json, to_json

    kept = folder / f"{name}.json"
    if kept.exists():
        phase = from_json(kept.read_bytes(), PhaseResult, kept)
    else:
        phase = run_single_phase(compose([*settings, f"+backend.environment.{VARIABLE}={name}"]), Arm.BATCH_INVARIANT)
        kept.write_bytes(to_json(phase))
    if phase.error is not None:
        print(f"{name}: {phase.error}", flush=True)
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for result in phase.probes:
        differing, all_of_it = counts[result.composition]
        counts[result.composition] = (differing + (not result.equal), all_of_it + 1)
    return counts


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description="Which composition sees which measure missing?")
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*", default=[], help="of the experiment, as for python -m bi_experiments")
    parser.add_argument("--mutants", default=",".join(MUTANTS), help="names, with commas between them")
    parser.add_argument("--devices", type=int, default=1)
    arguments = parser.parse_intermixed_args()  # options may stand between the settings
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(write_plugin(folder)), os.environ.get("PYTHONPATH")]))
    chosen = [name for name in arguments.mutants.split(",") if MUTANTS[name].devices <= arguments.devices]
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name in chosen:
        found[name] = run_mutant(name, folder, arguments.settings)
        print(f"{name}: {sum(low for low, _ in found[name].values())} differ", flush=True)
    compositions = list(dict.fromkeys(each for counts in found.values() for each in counts))
    print("\t".join(["composition", *chosen]))
    for each in compositions:
        cells = ("{}/{}".format(*found[name][each]) if each in found[name] else "-" for name in chosen)
        print("\t".join([each, *cells]))


if __name__ == "__main__":
    main()
