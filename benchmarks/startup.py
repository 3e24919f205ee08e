"""How long `--help` and `--cfg job` take against a bare Hydra application with the same configuration.

    python benchmarks/startup.py [--repeats 10]

The bare application has the same YAML files and no schema. Commands alternate in one run; the table shows medians.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BARE = """
import hydra

@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config):
    pass

main()
"""


def bare_application(folder: Path) -> Path:
    """A Hydra application with this project's YAML files, their references to the schema taken out."""
    shutil.copytree(REPOSITORY / "conf", folder / "conf")
    for path in (folder / "conf").rglob("*.yaml"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.strip().startswith("- base_")))
    application = folder / "bare.py"
    application.write_text(BARE)
    return application


def seconds(command: list[str]) -> float:
    """Wall time of a command that must succeed."""
    before = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    return time.perf_counter() - before


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        bare = [sys.executable, str(bare_application(Path(name)))]
        ours = [sys.executable, "-m", "bi_experiments"]
        print(f"{'':12} {'bare Hydra':>12} {'this project':>14} {'ratio':>7}")
        for arguments in (["--help"], ["--cfg", "job"]):
            times = [(seconds([*bare, *arguments]), seconds([*ours, *arguments])) for _ in range(repeats)]
            one, other = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{' '.join(arguments):12} {one:10.3f} s {other:12.3f} s {other / one:7.2f}")


if __name__ == "__main__":
    main()
