from pathlib import Path

import pytest

from bi_experiments.config.compose import compose
from bi_experiments.launch.variables import phase_variables
from bi_experiments.records import Arm

CACHES = Path("/caches")
COMPILE_CACHES = ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")


@pytest.mark.parametrize(("arm", "mode"), [(Arm.BASELINE, "0"), (Arm.BATCH_INVARIANT, "1"), (Arm.CONTROL, "0")])
def test_the_arm_sets_the_mode_whatever_the_user_has_set(arm: Arm, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for users in ("0", "1"):
        monkeypatch.setenv("VLLM_BATCH_INVARIANT", users)
        assert phase_variables(compose([]), arm, CACHES)["VLLM_BATCH_INVARIANT"] == mode


def test_private_caches_are_in_the_folder_of_the_phase_and_the_model_hubs_is_the_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/users/cache")
    one, other = (phase_variables(compose([]), arm, CACHES / arm) for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT))
    for name in COMPILE_CACHES:
        assert one[name] != other[name]
        assert one[name].startswith("/caches/baseline")
    assert one["HF_HOME"] == other["HF_HOME"] == "/users/cache/huggingface"


def test_the_users_caches_are_left_alone_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/users/cache")
    environment = phase_variables(compose(["protocol.caches=user"]), Arm.BASELINE, CACHES)
    assert environment["XDG_CACHE_HOME"] == "/users/cache"
    assert "/caches" not in "".join(environment[name] for name in COMPILE_CACHES[:3] if name in environment)


def test_the_backends_variables_reach_the_phase() -> None:
    environment = phase_variables(compose(["backend=cpu", "+backend.environment.EXTRA=x"]), Arm.BASELINE, CACHES)
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert environment["EXTRA"] == "x"


def test_libraries_below_the_interpreters_prefix_are_preloaded(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libfound.so.1").write_bytes(b"\x7fELF")
    config = compose([f"runtime.python={tmp_path}/bin/python", "backend.preload=[lib/libfound.so*]"])
    assert phase_variables(config, Arm.BASELINE, CACHES)["LD_PRELOAD"] == f"{tmp_path}/lib/libfound.so.1"
