"""What the harness itself costs: the parent's CPU time while phases run, and the wall time beyond its phases.

    python benchmarks/harness.py [OVERRIDE ...]        (default: experiment=cpu_demo)

Runs one experiment and prints, from its record and from the operating system's accounting of the parent process:
the parent's CPU time as a share of one core over the wall time of the phases, and the whole command's wall time over
the sum of its phases' wall times. The phases run one after the other: the times of phases that take turns overlap.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bi_experiments.paths import OutputFolder, read_result


def main() -> None:
    """Run the experiment and print the two numbers."""
    overrides = [*(sys.argv[1:] or ["experiment=cpu_demo"]), "protocol.interleave=launch"]
    with tempfile.TemporaryDirectory() as name:
        folder = OutputFolder(Path(name) / "out")
        uri = f"tracking.uri=sqlite:///{name}/mlflow.db"
        before = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "bi_experiments", *overrides, uri, f"hydra.run.dir={folder.root}"],
            stdout=subprocess.DEVNULL,
        )
        while_phases = follow(process, folder)
        _, status = os.waitpid(process.pid, 0)
        wall_s = time.perf_counter() - before
        if status:
            sys.exit(f"the experiment failed: {status}")
        result = read_result(folder.root)
    phases_s = sum(phase.wall_time_s for phase in result.phases)
    print(f"parent's CPU time while a phase runs: {while_phases:.2%} of one core")
    print(f"wall time: {wall_s:.1f} s, of the phases {phases_s:.1f} s: {wall_s / phases_s - 1:+.1%}")


def follow(process: "subprocess.Popen[bytes]", folder: OutputFolder) -> float:
    """The parent's CPU time between the start of its first phase and the end of its last, as a share of that time."""
    first: tuple[float, float] | None = None
    last = (0.0, 0.0)
    while not folder.result.exists() and process.poll() is None:
        if any(folder.root.glob("phases/*/engine.log")):
            last = (time.perf_counter(), own_cpu_time_s(process.pid))
            first = first or last
        time.sleep(0.1)
    if first is None:
        sys.exit("the experiment ended without a phase")
    return (last[1] - first[1]) / (last[0] - first[0])


def own_cpu_time_s(pid: int) -> float:
    """User and system time of a process without its children (proc(5): fields 14 and 15 of `stat`), in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
