"""The shared libraries that phases preload. The loader only mentions one that it does not find, and starts anyway."""

import os
import shutil
from glob import glob
from pathlib import Path

from bi_experiments.config.schema import ExperimentConfig
from bi_experiments.errors import MachineError
from bi_experiments.machine.interpreter import interpreter


def preloads(config: ExperimentConfig) -> list[str]:
    """The library of every entry of `backend.preload`: a pattern of a path, below the interpreter's prefix or whole.

    Raises:
        MachineError: An entry names no library here.
    """
    python = interpreter(config)
    prefix = Path(shutil.which(python) or python).parent.parent
    return [_library(entry, prefix) for entry in config.backend.preload]


def _library(entry: str, prefix: Path) -> str:
    paths = glob(str(prefix / entry))  # noqa: PTH207  pathlib takes no pattern of a whole path
    found = [path for path in sorted(paths) if _is_library(path)]
    if not found:
        raise MachineError(
            f"backend.preload has {entry}, and there is no such library in {prefix}: name a file below it "
            "(lib/libtcmalloc.so.4), or a whole path"
        )
    if " " in found[0] or ":" in found[0]:
        raise MachineError(f"backend.preload has {entry}: LD_PRELOAD cannot name {found[0]}, which has a space or a :")
    return found[0]


def check_inherited() -> None:
    """Refuse an exported `LD_PRELOAD` that names a file which is no library here.

    Raises:
        MachineError: Naming the first one.
    """
    for entry in os.environ.get("LD_PRELOAD", "").replace(":", " ").split():
        if "/" in entry and not _is_library(entry):  # names without a folder are looked for by the loader alone
            raise MachineError(f"LD_PRELOAD={entry} is exported, and there is no such library: unset LD_PRELOAD")


def _is_library(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except (OSError, ValueError):
        return False
