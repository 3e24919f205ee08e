"""The sweep's own launcher against Hydra's."""

import re
from pathlib import Path

import yaml

from tests.sweep.conftest import Sweep

WHAT = ("workload.max_batch_size=2,3", "workload.needle='1e3'", "+hydra.job.env_set.MARK=set")


def test_an_experiment_finds_what_hydra_promises(sweep: Sweep) -> None:
    see = sweep.working_folder / "see"
    see.write_text(f'#!/bin/sh\necho "$MARK" >> marks\nexec {sweep.fake[1].partition("=")[2]} "$@"\n')
    see.chmod(0o755)
    written = {}
    for launcher in ("basic", "local"):
        (sweep.working_folder / "marks").unlink(missing_ok=True)
        place = f"hydra.sweep.dir=by_{launcher}"
        done = sweep(f"hydra/launcher={launcher}", place, f"runtime.python={see}", *WHAT, folder=False)
        assert done.returncode == 0, done.stderr
        assert set((sweep.working_folder / "marks").read_text().split()) == {"set"}
        written[launcher] = files_of_hydra(sweep.working_folder / f"by_{launcher}", launcher)
    assert len(written["local"]) == 6
    assert written["local"] == written["basic"]


def test_each_experiment_has_a_log_of_its_own(sweep: Sweep) -> None:
    done = sweep("workload.max_batch_size=2,3")
    assert done.returncode == 0, done.stderr
    assert [len(list((sweep.folder.root / str(number)).glob("*.log"))) for number in range(2)] == [1, 1]


def files_of_hydra(folder: Path, launcher: str) -> dict[str, object]:
    """What is written in `.hydra`, without the launcher that it names."""
    targets = "hydra._internal.core_plugins.basic_launcher.BasicLauncher|hydra_plugins.bi_experiments.LocalLauncher"
    own = re.compile(rf"{targets}|(?<=launcher[=:]){launcher}|(?<=launcher: ){launcher}|{folder.name}")
    return {
        str(path.relative_to(folder)): yaml.safe_load(own.sub("...", path.read_text()))
        for path in sorted(folder.glob("*/.hydra/*.yaml"))
    }
