"""What people see in a browser: the MLflow UI on the store of two experiments, and the report of one.

Screenshots go to the folder that SCREENSHOTS names; without it, to pytest's own temporary folder. Those that the
documentation shows, `report.png` and `mlflow-compare.png`, are of records in docs/results.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from bi_experiments.records import ExperimentResult, from_json
from bi_experiments.tracking.store import COST_VIEW
from tests.conftest import REPOSITORY, write_fake_python
from tests.system.servers import mlflow_server

pytestmark = pytest.mark.system

SHOWN = (
    "0.33_async_flash_attn",
    "0.33_async_flex_attention_trials",
    "0.33_async_eager",
    "0.33_async_mixture_of_experts",
    "0.33_async_control",
    "0.33_triton_mla",
    "0.32_async_triton_attn",
    "0.32_async_flex_attention_pairs",
    "0.32_async_fp8",
    "0.32_flash_attn",
)
"""Records of docs/results whose times mean something."""
WAIT_MS = 60_000
"""The UI is several megabytes of JavaScript; on busy cores it takes its time."""


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    with sync_playwright() as playwright:
        # Only root's browser needs --no-sandbox; nothing but this machine is reached.
        launched = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        context = launched.new_context(viewport={"width": 1400, "height": 900})
        context.set_default_timeout(WAIT_MS)
        expect.set_options(timeout=WAIT_MS)
        yield context
        launched.close()


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which two experiments were run, without an engine, in output folders `a` and `b`."""
    folder = tmp_path_factory.mktemp("work")
    fake_python = write_fake_python(folder)
    for name, pairs in (("a", 2), ("b", 3)):  # the fake phases cost a little more with every pair
        command = (
            f"experiment=cpu_demo runtime.python={fake_python} hydra.run.dir={name} workload.num_trials=2 "
            f"workload.max_batch_size=2 protocol.pairs={pairs}"
        )
        subprocess.run(
            [sys.executable, "-m", "bi_experiments", *command.split()],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return folder


@pytest.fixture(scope="module")
def recorded(work: Path) -> list[Path]:
    """Output folders of some records of docs/results, reported, and logged beside the two experiments."""
    folders = []
    for name in SHOWN:
        packed = REPOSITORY / "docs" / "results" / f"h200_vllm_{name}.result.json.gz"
        folder = work / name
        folder.mkdir()
        (folder / "result.json").write_bytes(gzip.decompress(packed.read_bytes()))
        folders.append(folder)
    for program in ("report", "track"):
        names = [folder.name for folder in folders]
        command = [sys.executable, "-m", f"bi_experiments.{program}", *names]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        subprocess.run(command, cwd=work, env=environment, capture_output=True, check=True)
    return folders


@pytest.fixture(scope="module")
def client(work: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{work}/mlflow.db")


@pytest.fixture(scope="module")
def ui(work: Path) -> Iterator[str]:
    """The address of the MLflow UI, as `make ui` starts it."""
    with mlflow_server(work, "--backend-store-uri=sqlite:///mlflow.db") as uri:
        yield f"{uri}/#"


def result(folder: Path) -> ExperimentResult:
    path = folder / "result.json"
    return from_json(path.read_bytes(), ExperimentResult, path)


def overhead_pct(folder: Path) -> float:
    comparison = result(folder).comparison
    assert comparison is not None
    metric = comparison.metric("total_time")
    assert metric is not None
    assert metric.change_pct is not None
    return metric.change_pct


def experiments(client: MlflowClient) -> list[str]:
    experiment_id = client.get_experiment_by_name("bi_experiments").experiment_id
    runs = client.search_runs([experiment_id], "tags.kind = 'experiment'")
    return [run.info.run_id for run in runs]


def phases(client: MlflowClient, run_id: str) -> list[str]:
    experiment_id = client.get_run(run_id).info.experiment_id
    return [run.info.run_id for run in client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")]


def test_runs_are_listed_and_the_most_expensive_is_first(ui: str, work: Path, page: Page, screenshots: Path) -> None:
    page.set_viewport_size({"width": 2300, "height": 900})  # columns beyond the edge are not drawn
    page.goto(f"{ui}/experiments/1/runs?viewStateShareKey={COST_VIEW}&workflowType=machine_learning")
    names = page.get_by_role("link", name="demo CPU_ATTN tp1 needle")
    expect(names).to_have_count(2)
    page.screenshot(path=screenshots / "mlflow-runs.png")
    expect(page.get_by_text("batch", exact=True).first).to_be_visible()
    # What is written there is the metric as JavaScript prints it.
    shown = {name: f"{overhead_pct(work / name):.4g}"[:4] for name in "ab"}
    cells = [page.get_by_text(re.compile(rf"^{re.escape(shown[name])}")).first for name in "ab"]
    heights = [cell.bounding_box() for cell in cells]
    assert overhead_pct(work / "a") < overhead_pct(work / "b")
    assert heights[0] is not None
    assert heights[1] is not None
    assert heights[1]["y"] < heights[0]["y"]


def test_a_run_opens_with_its_description_its_series_and_its_files(
    ui: str, client: MlflowClient, page: Page, screenshots: Path
) -> None:
    run_id = experiments(client)[0]
    page.goto(f"{ui}/experiments/1/runs/{run_id}")
    expect(page.get_by_text("Batch invariance costs").first).to_be_visible()
    expect(page.get_by_text("overhead/trial_time_pct", exact=True).first).to_be_visible()
    page.screenshot(path=screenshots / "mlflow-run.png")

    page.goto(f"{ui}/experiments/1/runs/{run_id}/artifacts")
    expect(page.get_by_text("result.json").first).to_be_visible()
    page.get_by_text("figures", exact=True).click()
    with page.expect_response(re.compile(r"/get-artifact\?.*overhead\.png"), timeout=WAIT_MS) as figure:
        page.get_by_text("overhead.png").first.click()
    assert figure.value.ok
    page.wait_for_timeout(1000)  # for the screenshot: it is being drawn
    page.screenshot(path=screenshots / "mlflow-artifacts.png")

    phase = phases(client, run_id)[0]
    page.goto(f"{ui}/experiments/1/runs/{phase}/system-metrics")
    expect(page.get_by_text("cpu_utilization_percentage").first).to_be_visible()
    expect(page.locator(".main-svg").first).to_be_visible()  # the chart is drawn
    page.screenshot(path=screenshots / "mlflow-system-metrics.png")


def test_two_experiments_are_compared(ui: str, client: MlflowClient, page: Page, screenshots: Path) -> None:
    page.goto(f"{ui}/compare-runs?runs={json.dumps(experiments(client))}&experiments={json.dumps(['1'])}")
    expect(page.get_by_text("Comparing 2 Runs")).to_be_visible()
    expect(page.get_by_text("demo CPU_ATTN tp1 needle")).to_have_count(2)
    # What differs between the two is drawn without being asked for; metrics have the same names in both.
    expect(page.get_by_text("protocol.pairs").first).to_be_visible()
    expect(page.get_by_text("baseline/init_time").first).to_be_visible()
    expect(page.locator(".main-svg").first).to_be_visible()


def test_the_records_of_the_results_are_compared(
    ui: str, client: MlflowClient, recorded: list[Path], page: Page, screenshots: Path
) -> None:
    runs = [run_id for run_id in experiments(client) if "demo" not in str(client.get_run(run_id).info.run_name)]
    page.goto(f"{ui}/compare-runs?runs={json.dumps(runs)}&experiments={json.dumps(['1'])}")
    expect(page.get_by_text(f"Comparing {len(recorded)} Runs")).to_be_visible()
    expect(page.get_by_text("backend.attention").first).to_be_visible()
    expect(page.locator(".main-svg").first).to_be_visible()
    page.screenshot(path=screenshots / "mlflow-compare.png")


def test_the_report_opens_without_errors_and_shows_the_numbers_of_the_record(work: Path, page: Page) -> None:
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(request.url))
    page.goto((work / "a" / "report.html").as_uri())
    comparison = result(work / "a").comparison
    assert comparison is not None
    text = " ".join(page.inner_text("body").split())
    assert comparison.sentence in text
    assert f"{overhead_pct(work / 'a'):.1f}" in text
    assert errors == []


TEXT_PX = """[...document.querySelectorAll("figure svg text")].map(text => {
    const scale = text.getScreenCTM();
    return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(scale.a, scale.b);
})"""
"""How large the text of every figure is on the screen, in pixels."""


@pytest.mark.parametrize("width", [390, 1400])
def test_figures_are_legible_and_no_page_is_wider_than_the_screen(
    width: int, work: Path, recorded: list[Path], page: Page, screenshots: Path
) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    pages = [next(each / "report.html" for each in recorded if name in each.name) for name in ("mla", "0.32_flash")]
    for shown in (work / "comparison.html", *pages):
        page.goto(shown.as_uri())
        assert min(page.evaluate(TEXT_PX)) > 10
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert max(page.evaluate("[...document.querySelectorAll('tr')].map(row => row.offsetHeight)")) < 100
    expect(page.get_by_text("Batch invariance costs 32.5 % total time here").first).to_be_visible()
    expect(page.get_by_text("Batch invariance holds").first).to_be_visible()
    page.screenshot(path=screenshots / f"report{'' if width > 1000 else '-phone'}.png")
