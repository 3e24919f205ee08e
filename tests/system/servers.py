"""Real servers on this machine, up as long as a `with` block lasts."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

START_S = 90.0
"""Longest wait for a server to come up."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def mlflow_server(folder: Path, *arguments: str, **variables: str) -> Iterator[str]:
    """An MLflow server with one worker; yields its address."""
    port = free_port()
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment: Mapping[str, str] = {**os.environ, **settings, **variables}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "mlflow.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *arguments], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for_answer(f"http://127.0.0.1:{port}/health", process, folder / "mlflow.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def wait_for_answer(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, TimeoutError, ConnectionError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.1)
    pytest.fail(f"the server did not come up:\n{log.read_text()[-3000:]}")


@contextlib.contextmanager
def postgresql(password: str) -> Iterator[str]:
    """A PostgreSQL server with an empty database; yields its URI, password included.

    Skips the test where PostgreSQL is not installed. It refuses to run as root, and is then run as `postgres`.
    """
    programs = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None) or shutil.which("initdb")
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt install postgresql")
    programs = Path(programs).parent
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        try:
            pwd.getpwnam(user)
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    groups: list[str | int] | None = [] if user else None
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        if user:
            shutil.chown(name, user, user)
        password_file = Path(name, "password")
        password_file.write_text(password)
        password_file.chmod(0o644)
        data = f"{name}/data"
        initdb = [str(programs / "initdb"), "-D", data, "-U", "tests", "-A", "scram-sha-256", "--no-sync"]
        made = subprocess.run(
            [*initdb, f"--pwfile={password_file}"],
            user=user, group=user, extra_groups=groups, cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"PostgreSQL cannot make a database here: {made.stderr.strip()[-300:]}")
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={name}", "-c", "fsync=off"]
        process = subprocess.Popen(
            [str(programs / "postgres"), "-D", data, "-p", str(port), *settings],
            user=user, group=user, extra_groups=groups, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for_port(port, process)
            yield f"postgresql+psycopg2://tests:{password}@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(3)  # SIGQUIT: at once
            process.wait()


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    pytest.skip("PostgreSQL does not start here")
