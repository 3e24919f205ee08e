"""The commands and links of the README and of docs/, as they stand there."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bi_experiments.config.checks import check
from bi_experiments.config.compose import compose
from bi_experiments.paths import OutputFolder
from bi_experiments.report.compositions import meaning
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
PAGES = {path.relative_to(REPOSITORY): path.read_text() for path in sorted((REPOSITORY / "docs").rglob("*.md"))}
PAGES |= {Path("README.md"): README, Path("CONTRIBUTING.md"): (REPOSITORY / "CONTRIBUTING.md").read_text()}
COMMAND = re.compile(
    r"(?:python -m bi_experiments|bi-experiments)((?: +(?:-m|'[^']+'|[\w@.+/-]+=[^\s<>`|)]+)(?=[\s`)]))*)"
)
COMMANDS = sorted({found for page in PAGES.values() for found in COMMAND.findall(page)})


@pytest.mark.parametrize("arguments", COMMANDS)
def test_every_command_composes_and_passes_the_checks(arguments: str) -> None:
    # What is Hydra's own is the business of the sweeps' and the launchers' tests.
    overrides = [word for word in shlex.split(arguments) if word != "-m" and not word.startswith("hydra")]
    for override in one_job(overrides):
        check(compose(override))


SETTING = re.compile(
    r"(?<!\S)\+?(?:(?:model|backend|workload|protocol|verify|profile|gate)[.\w]*|tp|pp)=[\w./{:}-]+(?!\S)"
)
SETTINGS = sorted(
    {found for page in PAGES.values() for code in re.findall(r"`([^`\n]+)`", page) for found in SETTING.findall(code)}
)
NEEDED = {
    "backend.environment.OMP_WAIT_POLICY=ACTIVE": "backend=cpu",
    "backend=flash_attn_mla": "model=deepseek_lite",
    "backend=triton_mla": "model=deepseek_lite",
    "protocol.launches_per_cache=2": "protocol.caches=fresh",
}
"""What a setting does not pass the checks without."""


@pytest.mark.parametrize("setting", [one for one in SETTINGS if "=/path/to/" not in one and "=my_" not in one])
def test_every_setting_that_is_named_composes_and_passes_the_checks(setting: str) -> None:
    check(compose([setting, *([NEEDED[setting]] if setting in NEEDED else [])]))


OTHER = re.compile(r"python -m bi_experiments\.(\w+)([^`\n|]*)")
OTHERS = sorted(
    {(name, *re.findall(r" (--[\w-]+)", rest)) for page in PAGES.values() for name, rest in OTHER.findall(page)}
)


@pytest.mark.parametrize("command", OTHERS, ids=" ".join)
def test_every_other_command_exists_with_the_options_that_are_named(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command
    module = importlib.import_module(f"bi_experiments.{'report.__main__' if name == 'report' else name}")
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    assert set(options) <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))


@pytest.mark.parametrize("name", sorted({name for name, *_ in OTHERS}))
def test_what_another_command_does_not_know_is_an_error_of_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"bi_experiments.{'report.__main__' if name == 'report' else name}")
    with pytest.raises(SystemExit, match="2"):
        module.main(["--nothing-of-the-kind"])
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1


def one_job(overrides: list[str]) -> list[list[str]]:
    """The jobs of a sweep over at most one key; one job without a sweep."""
    if globbed := [override for override in overrides if "=glob(" in override]:
        (key, pattern) = re.fullmatch(r"(\w+)=glob\((.+)\)", globbed[0]).groups()  # type: ignore[union-attr]
        options = sorted((REPOSITORY / "conf" / key).glob(f"{pattern}.yaml"))
        rest = [override for override in overrides if override not in globbed]
        return [[f"{key}={one.relative_to(REPOSITORY / 'conf' / key).with_suffix('')}", *rest] for one in options]
    swept = [override for override in overrides if "," in override]
    if not swept:
        return [overrides]
    key, _, values = swept[0].partition("=")
    fixed = [override for override in overrides if override not in swept]
    return [[*fixed, f"{key}={value}"] for value in values.split(",")]


def test_there_are_commands_to_test() -> None:
    assert len(COMMANDS) > 20
    assert len(SETTINGS) > 20
    assert {name for name, *_ in OTHERS} == {"compare", "locate", "operations", "plan", "report", "track"}


LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)?(?:#([\w-]+))?\)")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere_and_every_picture_is_described(page: Path) -> None:
    for picture, text, target, anchor in LINK.findall(PAGES[page]):
        if target.startswith("http"):
            continue
        there = (REPOSITORY / page.parent / target).resolve() if target else REPOSITORY / page
        assert there.exists(), target
        assert not picture or len(text) > 20, f"{target}: what a reader sees where the picture is not shown"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, anchor


def test_the_readme_stays_short_enough_to_read() -> None:
    assert len(README.splitlines()) < 230


def targets(page: str) -> set[str]:
    return {target for _, _, target, _ in LINK.findall(page)}


def test_every_page_of_the_docs_can_be_found_from_the_readme() -> None:
    linked = targets(README)
    behind = {f"docs/{target}" for path in PAGES if str(path) in linked for target in targets(PAGES[path])}
    assert {str(path) for path in PAGES} - {"README.md"} <= linked | behind


def test_the_workflow_of_the_docs_runs_a_command_that_is_possible_and_reads_files_that_are_written() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGES[Path("docs/ci.md")], re.DOTALL)
    steps = yaml.safe_load(text)["jobs"]["measure"]["steps"]
    (command,) = (one["run"] for one in steps if "bi-experiments" in one.get("run", ""))
    _, *overrides = shlex.split(command)
    check(compose([word for word in overrides if not word.startswith("hydra")]))
    (dashboard,) = (one["with"] for one in steps if "github-action-benchmark" in one.get("uses", ""))
    assert dashboard["tool"] == "customSmallerIsBetter"
    assert Path(dashboard["output-file-path"]).name == OutputFolder(Path()).benchmark.name


def test_every_composition_of_a_proof_is_explained() -> None:
    page = PAGES[Path("docs/reading-a-report.md")]
    explained = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
    for name in compose(["verify=full"]).verify.compositions:
        assert meaning(name) in {explained.get(name), explained.get(re.sub(r"[0-9]+$", "N", name))}, name


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([\w.-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(PAGES.values())
    named = set(re.findall(r"`make ([\w.-]+)`", text)) | set(re.findall(r"^make (\w+)", text, re.MULTILINE))
    assert named
    assert named <= targets


def python_block(word: str) -> str:
    """The block of Python that has a word in it."""
    text = "\n".join(PAGES.values())
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if word in block)
    return str(block)


@pytest.mark.engine
def test_the_script_that_shows_batch_invariance_prints_the_same_bits_in_the_mode(tmp_path: Path) -> None:
    (tmp_path / "invariance.py").write_text(python_block("logprob_bits"))
    (exported,) = re.findall(r"^export (VLLM_.*)", README, re.MULTILINE)
    variables = dict(word.split("=") for word in exported.split()) | {"VLLM_BATCH_INVARIANT": "1"}
    printed = subprocess.run(
        [sys.executable, "invariance.py"],
        cwd=tmp_path,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    alone, in_a_batch = re.findall(r"^(?:alone|in a batch) +((?: ?[0-9a-f]{8}){4})$", printed, re.MULTILINE)
    assert alone == in_a_batch


@pytest.mark.engine
def test_the_python_example_runs() -> None:
    example = python_block("run_benchmark_with_batch_invariant")
    names: dict[str, object] = {}
    exec(example, names)
    result = names["result"]
    assert isinstance(result, dict)
    assert set(result) == {
        "init_time",
        "avg_time",
        "min_time",
        "max_time",
        "total_tokens",
        "total_prompts",
        "throughput",
        "prompts_per_sec",
        "trial_times",
    }
    assert len(result["trial_times"]) == 2
    assert result["total_tokens"] == 8 * result["total_prompts"]
    assert result["throughput"] == pytest.approx(result["total_tokens"] / sum(result["trial_times"]))
    assert result["min_time"] <= result["avg_time"] <= result["max_time"]
