"""A real Slurm with one node on this machine, from Debian's packages: no systemd, no cgroups, no accounts."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.processes import ticks, wait_for

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
KillWait=10
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why there can be no Slurm here; None when there can."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class OneNodeSlurm:
    """A running Slurm with two CPUs.

    Args:
        folder: Its files.
    """

    def __init__(self, folder: Path) -> None:
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf")}

    def ask(self, *command: str) -> str:
        """What a command of Slurm's says."""
        done = subprocess.run(command, env=os.environ | self.variables, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def jobs(self) -> list[str]:
        """The jobs that wait or run."""
        return self.ask("squeue", "--array", "--noheader", "--format=%i").split()

    def leftovers(self) -> list[psutil.Process]:
        """Processes of this Slurm and of its jobs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SLURM_CONF") == self.variables["SLURM_CONF"]:
                    found.append(process)
        return found


@contextlib.contextmanager
def one_node_slurm() -> Iterator[OneNodeSlurm]:
    """Bring it up, and take it down whatever happens meanwhile."""
    # Not pytest's folder: the path of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    slurm = OneNodeSlurm(folder)
    try:
        _start(folder, slurm)
        yield slurm
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            slurm.ask("scancel", "--user=root")
            for _ in ticks(15):
                if not slurm.jobs():
                    break
        for process in slurm.leftovers():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in slurm.leftovers():
            process.wait(10)
        shutil.rmtree(folder)


def _start(folder: Path, slurm: OneNodeSlurm) -> None:
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    configuration = Path(slurm.variables["SLURM_CONF"])
    configuration.write_text(CONFIGURATION.format(folder=folder, host=host, ports=_free_ports(2)))
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    files = {"key": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{option}={folder}/munge.{suffix}" for option, suffix in files.items()]
    for command in (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
        with (folder / f"{command[0]}.out").open("wb") as out:
            # Whatever ends the tests ends the daemons too.
            bound = ["setpriv", "--pdeathsig=KILL", *command]
            subprocess.Popen(bound, env=os.environ | slurm.variables, stdout=out, stderr=out, start_new_session=True)
        if command[0] == "munged":
            wait_for((folder / "munge.socket").exists)

    def idle() -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):  # the controller is not up yet
            return slurm.ask("sinfo", "--noheader", "--format=%T") == "idle"
        return False

    wait_for(idle)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
