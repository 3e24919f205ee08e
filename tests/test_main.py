"""The program as it is run: exit codes and what stands on the terminal."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, as_on_a_terminal
from tests.processes import gone, wait_for


class Program:
    """`python -m bi_experiments` in an empty folder."""

    def __init__(self, folder: Path, fake_python: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self.fake = (
            "experiment=cpu_demo",
            f"runtime.python={fake_python}",
            "workload.num_trials=2",
            "workload.max_batch_size=2",
            "protocol.pairs=2",
            "verify=off",
            "tracking=off",
            "hydra.run.dir=out",
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "bi_experiments", *arguments]

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def program(tmp_path: Path, fake_python: Path) -> Program:
    folder = tmp_path / "work"
    folder.mkdir()
    return Program(folder, fake_python)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra.run.dir=${nope}"], "hydra.run.dir cannot be resolved: Interpolation key 'nope' not found"),
        (["-m", "hydra.sweep.dir=${oc.env:NOPE7}", "seed=1,2"], "Environment variable 'NOPE7' not found"),
    ],
)
def test_a_folder_whose_name_cannot_be_resolved_is_refused_in_one_line(
    program: Program, arguments: list[str], said: str
) -> None:
    done = program(*arguments, "experiment=cpu_demo")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert list(program.folder.iterdir()) == []


def test_a_run_prints_the_report_and_ends_with_0(program: Program) -> None:
    done = program(*program.fake)
    assert done.returncode == 0, done.stderr
    headings = [
        "VLLM BATCH INVARIANCE BENCHMARK",
        "PHASE 1: Running",
        "PHASE 2: Running",
        "COMPARISON: Batch Invariance vs Baseline",
        "Initialization Time:",
        "Average Trial Time:",
        "Throughput (tokens/s):",
    ]
    positions = [done.stdout.index(heading) for heading in headings]
    assert positions == sorted(positions)
    assert done.stdout.count("COMPARISON: Batch Invariance vs Baseline") == 1
    assert (program.folder / "out" / "result.json").is_file()


def test_the_terminal_ends_with_what_the_report_file_opens_with(program: Program) -> None:
    done = program(*program.fake)
    report = (program.folder / "out" / "report.txt").read_text()
    assert done.stdout.strip() == as_on_a_terminal(report).strip()


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense=1",),
        ("tp=two",),
        ("workload.max_batch_size=0",),
        ("backend=xformers",),
        ("model=deepseek", "backend=flash_attn", "tp=8"),
        ("workload.min_prompt=3000",),
        ("sweep.resume=true",),
    ],
)
def test_a_wrong_configuration_ends_with_2_and_one_line(program: Program, arguments: tuple[str, ...]) -> None:
    done = program(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(program.folder.iterdir()) == [], "a refusal leaves nothing"


def test_a_sweep_that_is_refused_leaves_nothing(program: Program) -> None:
    done = program("-m", "nonsense=1,2")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert list(program.folder.iterdir()) == []


def test_without_a_gpu_the_refusal_names_what_runs_there(program: Program) -> None:
    done = program("model=deepseek", "tp=8", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert list(program.folder.iterdir()) == []
    assert "experiment=cpu_demo" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_failed_phase_ends_with_1_and_shows_the_end_of_its_log(program: Program) -> None:
    done = program(*program.fake, FAKE_PHASE=json.dumps({"batch_invariant": "fails"}))
    assert done.returncode == 1
    assert "RuntimeError: it broke" in done.stdout
    assert "line that explains the failure" in done.stderr


@pytest.mark.parametrize(("limit", "code"), [("20", 0), ("5", 4)])
def test_the_gate_decides_the_exit_code(program: Program, limit: str, code: int) -> None:
    """The phases without an engine cost exactly 10 %."""
    assert program(*program.fake, f"gate.max_overhead_pct={limit}").returncode == code


def test_a_gate_without_an_interval_is_undecided(program: Program) -> None:
    one_pair = "protocol.pairs=2", "protocol.time_budget_min=1e-9"
    assert program(*program.fake, *one_pair, "gate.max_overhead_pct=5").returncode == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_with_130_and_a_report(program: Program, number: signal.Signals) -> None:
    child = program.folder / "child"
    # A suite that was itself started in the background ignores SIGINT, and would hand that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        program.command(*program.fake),
        cwd=program.folder,
        env={**program.environment, "FAKE_PHASE": json.dumps({"baseline": "child"}), "CHILD_PID": str(child)},
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: has_timed_a_trial(program.folder), limit_s=60)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in output
    assert gone(int(child.read_text()))


def has_timed_a_trial(folder: Path) -> bool:
    """Whether a baseline has written a trial: the arm that then waits for ever."""
    return any('"trial"' in path.read_text() for path in folder.glob("out/phases/*-baseline/events.jsonl"))


def test_help_names_the_groups_and_needs_no_engine(program: Program) -> None:
    done = program("--help")
    assert done.returncode == 0
    for option in ("qwen3", "deepseek", "flash_attn", "cpu_demo", "rigorous"):
        assert option in done.stdout
    assert "base_" not in done.stdout, "what options inherit from is not an option"
    assert "A complete run on a machine without a GPU" in done.stdout, "the first sentence of a preset"
    assert "workload.num_trials=5  Timed trials in each phase." in done.stdout, "a key, its value and its meaning"


def test_help_shows_the_values_that_a_command_line_gives_its_keys(program: Program) -> None:
    assert "workload.num_trials=2 " in program("--help", "workload=quick").stdout


def test_the_version_is_this_projects_and_vllms_and_imports_neither(program: Program) -> None:
    done = program("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"bi_experiments \S+\nvllm .+\n", done.stdout)
    wrong = program("--version", "runtime.python=/nowhere/python")
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_a_mistyped_option_is_answered_with_what_was_meant(program: Program) -> None:
    done = program("--hlep")
    assert (done.returncode, done.stderr) == (2, "error: --hlep is not an option: did you mean --help?\n")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """`bi-experiments` as pip writes it for the entry point."""
    path = tmp_path / "bin" / "bi-experiments"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom bi_experiments.__main__ import main\nsys.exit(main())\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("line", "completed"),
    [("bi-experiments protocol=", "protocol=rigorous"), ("bi-experiments workload.num_t", "workload.num_trials=")],
)
def test_bash_completes_options_and_keys(program: Program, script: Path, line: str, completed: str) -> None:
    """As a shell does it: install, then ask the function that was installed."""
    typed = (
        f'eval "$(bi-experiments -sc install=bash)"; COMP_LINE="{line}" COMP_POINT={len(line)} COMP_CWORD=1; '
        'hydra_bash_completion; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", typed],
        cwd=program.folder,
        env={**program.environment, "PATH": f"{script.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed in done.stdout.split()
    assert "base_" not in done.stdout


def test_a_users_own_folder_adds_options(program: Program) -> None:
    folder = program.folder / "mine" / "model"
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text("defaults:\n  - qwen3\n  - _self_\nname: me/tiny\n")
    done = program("--config-dir", "mine", "model=tiny", "--cfg", "job", "--package", "model.name")
    assert done.stdout.strip() == "me/tiny"


def test_the_parent_imports_neither_torch_nor_vllm(program: Program) -> None:
    code = (
        "import sys; import bi_experiments.__main__, bi_experiments.experiment, bi_experiments.report.live, "
        "bi_experiments.tracking, bi_experiments.analysis.outcome\n"
        "print([name for name in ('torch', 'vllm', 'transformers', 'mlflow', 'scipy', 'matplotlib') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=program.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
