"""The plugin's entry: nothing happens with the mode off or on another platform, and twice is as good as once."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs the cpu extra")

REPOSITORY = Path(__file__).resolve().parents[2]
# Each script runs in an interpreter of its own, since the plugin changes vLLM.
SHOW = """
def show():
    import vllm.model_executor.layers.utils as utils
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
    print(utils.dispatch_cpu_unquantized_gemm.__module__, CPUAttentionBackend.supports_batch_invariance())
"""
MODE_OFF = (
    SHOW
    + """
import sys
from bi_experiments.vllm_cpu import register
register()
print([name for name in sys.modules if name.startswith("bi_experiments.vllm_cpu.")], "scipy" in sys.modules)
show()
"""
)
MODE_ON = (
    SHOW
    + """
from vllm.platforms import current_platform
from bi_experiments.vllm_cpu import register
type(current_platform).is_cpu = lambda self: False
register()
show()
del type(current_platform).is_cpu
register()
register()
show()
from vllm.model_executor.model_loader.base_loader import BaseModelLoader as loader
print(loader.load_model.__module__, loader.load_model.__closure__[0].cell_contents.__module__)
from vllm.model_executor.determinism.batch_invariant import init_batch_invariance
init_batch_invariance()
from vllm import envs
print(envs.VLLM_CPU_ATTN_SPLIT_KV)
"""
)
UNTOUCHED = "vllm.model_executor.layers.utils False"


def run(script: str, mode: str, **environment: str) -> list[str]:
    variables = {**os.environ, "VLLM_BATCH_INVARIANT": mode, "PYTHONPATH": str(REPOSITORY), **environment}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_with_the_mode_off_nothing_is_imported_and_vllm_is_as_it_was() -> None:
    imported, installed = run(MODE_OFF, "0")[-2:]
    assert imported == "[] False"
    assert installed == UNTOUCHED


def test_with_the_mode_on_the_kernels_are_installed_once_and_only_for_the_cpu() -> None:
    elsewhere, installed, loader, split = run(MODE_ON, "1")[-4:]
    assert elsewhere == UNTOUCHED
    assert installed == "bi_experiments.vllm_cpu.linear True"
    assert loader == "bi_experiments.vllm_cpu.loading vllm.model_executor.model_loader.base_loader"
    assert split == "False"


def test_vllm_finds_the_plugin() -> None:
    found = [entry for entry in entry_points(group="vllm.general_plugins") if entry.name == "bi_experiments_cpu"]
    if not found:
        pytest.skip("bi_experiments is not installed here")
    from bi_experiments.vllm_cpu import register

    assert found[0].load() is register
