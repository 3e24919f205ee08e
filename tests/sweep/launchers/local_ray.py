"""A real Ray cluster of one node on this machine."""

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.conftest import REPOSITORY
from tests.processes import wait_for

MARK = "BI_EXPERIMENTS_TEST_RAY"
"""Variable that every process of the cluster has."""


def why_not() -> str | None:
    """Why there can be no Ray here; None when there can."""
    if shutil.which("setpriv") is None:
        return "not installed: setpriv"
    return None if importlib.util.find_spec("ray") else "the package ray is not installed"


def authentication() -> dict[str, str]:
    """Variables of a token of one's own: nobody else gets in, and none is put into the home folder."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def local_ray() -> Iterator[tuple[str, dict[str, str]]]:
    """Bring it up, give its address and the variables to reach it, and take it down whatever happens meanwhile."""
    # Not pytest's folder: the path of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Whatever ends the tests ends the cluster too.
    command = [
        "setpriv",
        "--pdeathsig=TERM",
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
    ]
    options = [f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false"]
    access = authentication()
    variables = {
        MARK: str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    log = folder / "start.log"
    try:
        with log.open("wb") as out:
            subprocess.Popen(
                [*command, *options, "--object-store-memory=100000000"],
                env=os.environ | variables | access,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        wait_for(lambda: "Ray runtime started" in log.read_text(), 60)
        yield f"127.0.0.1:{port}", access
    finally:
        for process in processes(folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        while processes(folder):
            time.sleep(0.1)
        shutil.rmtree(folder)


def processes(folder: Path) -> list[psutil.Process]:
    """The processes that have a folder in the variable `MARK`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(folder):
                found.append(process)
    return found
