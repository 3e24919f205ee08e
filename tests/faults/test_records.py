"""Nothing is lost: the record is there whatever becomes of the program, its terminal or its disk."""

import json
import os
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from bi_experiments.config.compose import compose
from bi_experiments.errors import PhaseError
from bi_experiments.experiment import analysed
from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.records import Arm, to_json
from tests.factories import experiment_result, invariance_report
from tests.faults.conftest import Program, is_one_line
from tests.processes import heed_signals, wait_for
from tests.test_locate import probe, write_probes


def start(program: Program, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        program.command(*program.fake, *arguments),
        cwd=program.folder,
        env={**program.variables, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,  # noqa: PLW1509
    )


def hangs(program: Program) -> dict[str, str]:
    return {"FAKE_PHASE": json.dumps({"batch_invariant": "hangs"})}


def waits_in_the_mode(program: Program) -> bool:
    """Whether a phase of the arm that never ends has timed its first trial."""
    return any('"trial"' in path.read_text() for path in program.folder.glob("out/phases/*-batch*/events.jsonl"))


def run_statuses(database: Path) -> set[str]:
    """Of all runs in an MLflow store."""
    with closing(sqlite3.connect(database)) as connection:
        return {status for (status,) in connection.execute("select status from runs")}


def test_a_killed_run_is_read_by_every_program_and_resumed(program: Program) -> None:
    arguments = ("hydra.run.dir=out", "protocol.order=baseline_first", "protocol.caches=user")
    process = start(program, *arguments, **hangs(program))
    wait_for(lambda: waits_in_the_mode(program), limit_s=60)
    process.kill()
    process.communicate(timeout=180)
    assert "killed" in str(read_result(program.folder / "out").stopped)
    for module, arguments_of_it in (
        ("report", ("out",)),
        ("compare", ("out", "out", "--anyway")),
        ("track", ("out", "--uri", "sqlite:///later.db")),
    ):
        read = program(*arguments_of_it, module=f"bi_experiments.{module}")
        assert read.returncode in {0, 2}, read.stderr
        assert "Traceback" not in read.stderr
        assert read.returncode == 0 or is_one_line(read), module
    assert run_statuses(program.folder / "later.db") <= {"FINISHED", "FAILED", "KILLED"}
    done = program(*program.fake, *arguments, "sweep.resume=true")
    assert done.returncode == 0, done.stderr
    result = read_result(program.folder / "out")
    assert result.stopped is None
    assert "sweep.resume" not in result.command  # which is for running it again
    assert len(result.phases) == 4
    assert result.taken_over == 1


def test_an_interrupted_search_does_not_hide_what_the_experiment_found(program: Program) -> None:
    arguments = ("hydra.run.dir=out", "protocol=single", "verify=standard", "verify.locate=true")
    assert program(*program.fake, *arguments).returncode == 0
    folder = OutputFolder(program.folder / "out")
    write_probes(read_result(folder.root), folder, Arm.BATCH_INVARIANT, probe())
    folder.result.write_bytes(to_json(replace(read_result(folder.root), invariance=invariance_report())))
    behaviour = json.dumps({"batch_invariant": "hangs_in_search"})
    process = start(program, *arguments, "sweep.resume=true", FAKE_PHASE=behaviour)
    wait_for(folder.location_phase(0).spec.exists, limit_s=60)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=60)
    assert process.returncode == 130
    assert invariance_report().sentence in " ".join(said.split())
    assert "python -m bi_experiments.locate names the operator" in complained


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGHUP,),
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGINT, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
    ],
)
def test_signals_end_it_in_order(program: Program, numbers: tuple[signal.Signals, ...]) -> None:
    process = start(program, "hydra.run.dir=out", **hangs(program))
    wait_for(lambda: waits_in_the_mode(program), limit_s=60)
    for number in numbers:
        process.send_signal(number)
    process.communicate(timeout=180)
    assert process.returncode == 130
    assert read_result(program.folder / "out").stopped == "it was interrupted"
    assert not (program.folder / "out" / "caches").exists()
    assert program.left() == []


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, proc_pid_status(5)."""
    lines = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return bool(int(lines["SigCgt"], 16) >> (number - 1) & 1)


def test_a_signal_while_the_program_is_still_imported_ends_it_without_output(program: Program) -> None:
    process = start(program, "hydra.run.dir=out")
    wait_for(lambda: catches(process.pid, signal.SIGHUP))
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=180)
    assert (process.returncode, said, errors) == (130, "", "")


@pytest.mark.parametrize("where", ["/dev/full", "head"])
def test_a_terminal_that_goes_away_costs_no_record(program: Program, where: str) -> None:
    command = program.command(*program.fake, "hydra.run.dir=out")
    if where == "head":
        reading, out = os.pipe()
        os.close(reading)
    else:
        out = os.open(where, os.O_WRONLY)
    done = subprocess.run(
        command, cwd=program.folder, env=program.variables, stdout=out, stderr=subprocess.PIPE, check=False
    )
    os.close(out)
    assert done.returncode == 0, done.stderr
    assert read_result(program.folder / "out").stopped is None


def test_two_runs_at_once_have_a_folder_each(program: Program) -> None:
    both = [start(program, f"seed={seed}") for seed in (1, 2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert len(list(program.folder.glob("outputs/*/*/result.json"))) == 2


def test_a_folder_in_use_is_refused(program: Program) -> None:
    process = start(program, "hydra.run.dir=out", **hangs(program))
    wait_for(lambda: waits_in_the_mode(program), limit_s=60)
    second = program(*program.fake, "hydra.run.dir=out")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=180)
    assert is_one_line(second)
    assert "another experiment writes into" in second.stderr


def test_a_failure_that_concerns_both_arms_starts_one_phase(program: Program) -> None:
    done = program(
        *program.fake,
        "hydra.run.dir=out",
        FAKE_PHASE=json.dumps({"baseline": "core_fails", "batch_invariant": "core_fails"}),
    )
    assert done.returncode == 1
    assert "No available memory for the cache blocks" in done.stdout
    assert len(read_result(program.folder / "out").phases) == 1
    assert program.left() == []


@pytest.mark.skipif(os.getuid() != 0, reason="a small disk is mounted")
def test_a_full_disk_is_one_line_that_names_what_is_kept(program: Program) -> None:
    disk = program.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        done = program(*program.fake, "hydra.run.dir=disk")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("folder", ["/proc/nope", "x" * 300, "file", "file/below"])
def test_a_folder_that_cannot_be_is_one_line(program: Program, folder: str) -> None:
    (program.folder / "file").touch()
    assert is_one_line(program(*program.fake, f"hydra.run.dir={folder}"))


def test_a_sweeps_folder_that_cannot_be_is_one_line_that_names_its_setting(program: Program) -> None:
    done = program("-m", *program.fake, "seed=1,2", "hydra.sweep.dir=/proc/nope")
    assert is_one_line(done)
    assert "/proc/nope" in done.stderr
    assert "hydra.sweep.dir=FOLDER" in done.stderr


@pytest.mark.parametrize(
    "uri", ["ftp://nowhere", "./mlruns", "postgresql://", "sqlite://", "http://", "sqlite:////proc/x"]
)
def test_a_store_that_cannot_be_logged_to_is_said_before_the_first_phase(program: Program, uri: str) -> None:
    settings = [text for text in program.fake if text != "tracking=off"]
    done = program(*settings, "hydra.run.dir=out", f"tracking.uri='{uri}'")
    assert is_one_line(done)
    assert "tracking.uri=" in done.stderr
    assert not (program.folder / "out" / "phases").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("seed=1", "-m", "tp=1"),
        ("--nonsense",),
        ("quick",),
        ("seed=1,2",),
        ("--cfg", "x"),
        ("--cfg", "job", "--package", "nope"),
        ("--experimental-rerun", "x"),
        ("hydra.searchpath=[nowhere]",),
        ("model.name=${oc.env:NOPE,}",),
        ("+backend.engine.nonsense=1",),
        ("+backend.engine.compilation_config={cudagraph_mod:NONE}",),
    ],
)
def test_an_invalid_command_line_is_one_line(program: Program, arguments: tuple[str, ...]) -> None:
    assert is_one_line(program(*program.fake, *arguments))


@pytest.mark.parametrize(
    "setting",
    ["seed=range(0,1,0)", "seed=interval(1,2)", "model=glob(zzz*)", "hydra.sweeper=null", "tracking.uri=ftp://x"],
)
def test_an_invalid_sweep_is_one_line(program: Program, setting: str) -> None:
    settings = [text for text in program.fake if text != "tracking=off"]
    done = program("-m", *settings, setting)
    assert is_one_line(done)
    assert done.stdout == ""


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "has an experiment already"),
        (("seed=2", "sweep.resume=true"), "has another experiment (seed 1 -> 2)"),
    ],
)
def test_an_experiment_is_not_written_over(program: Program, settings: tuple[str, ...], said: str) -> None:
    short = (*program.fake, "hydra.run.dir=out", "protocol.pairs=1", "seed=1")
    assert program(*short).returncode == 0
    before = contents(program.folder / "out")
    done = program(*short, *settings)
    assert is_one_line(done)
    assert said in done.stderr
    assert contents(program.folder / "out") == before


def test_a_complete_experiment_is_reported_again_and_runs_nothing(program: Program) -> None:
    short = (*program.fake, "hydra.run.dir=out", "protocol.pairs=1", "protocol.caches=private")
    assert program(*short).returncode == 0
    out = OutputFolder(program.folder / "out")
    kept = {path: data for path, data in contents(out.root).items() if "phases" in path.parts}
    record, report = out.result.read_bytes(), out.report_text.read_bytes()
    out.report_text.unlink()  # as a program leaves it that is killed once the record is whole
    out.caches.mkdir()
    done = program(*short, "sweep.resume=true")
    assert done.returncode == 0, done.stderr
    assert "Results:" in done.stdout
    assert (out.result.read_bytes(), out.report_text.read_bytes()) == (record, report)
    assert not out.caches.exists()
    assert {path: data for path, data in contents(out.root).items() if path in kept} == kept


def test_a_record_that_lacks_a_setting_of_today_is_resumed(program: Program) -> None:
    short = (*program.fake, "hydra.run.dir=out", "protocol.pairs=1")
    assert program(*short).returncode == 0
    path = program.folder / "out" / "result.json"
    record = json.loads(path.read_bytes())
    del record["configuration"]["workload"]["fresh_prompts"], record["configuration"]["profile"]
    path.write_text(json.dumps(record))
    done = program(*short, "sweep.resume=true")
    assert done.returncode == 0, done.stderr
    done = program(*short, "sweep.resume=true", "workload.fresh_prompts=true")
    assert "has another experiment (workload.fresh_prompts false -> true)" in done.stderr


@pytest.mark.parametrize("content", ["garbage", "{}", '{"version": 99}'])
def test_a_record_that_cannot_be_read_is_not_resumed(program: Program, content: str) -> None:
    program.damaged = True
    (program.folder / "out").mkdir()
    (program.folder / "out" / "result.json").write_text(content)
    assert is_one_line(program(*program.fake, "hydra.run.dir=out", "sweep.resume=true"))


def test_a_server_that_does_not_answer_is_said_and_logged_to_later(program: Program) -> None:
    settings = [text for text in program.fake if text not in {"tracking=off", "protocol.pairs=2"}]
    done = program(*settings, "protocol.pairs=1", "hydra.run.dir=out", "tracking.uri=http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    warnings = done.stderr.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith("warning: ") and "bi_experiments.track" in line for line in warnings)
    later = program("out", "--uri", "sqlite:///later.db", module="bi_experiments.track")
    assert later.returncode == 0, later.stderr
    assert run_statuses(program.folder / "later.db") == {"FINISHED"}
    assert program.left() == []


def test_numbers_that_cannot_be_analysed_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("bi_experiments.experiment.compare_experiment", fails)
    folder = OutputFolder(tmp_path)
    with pytest.raises(PhaseError, match="cannot be analysed") as caught:
        analysed(experiment_result(), compose(["experiment=cpu_demo"]), folder)
    assert str(folder.result) in str(caught.value)
