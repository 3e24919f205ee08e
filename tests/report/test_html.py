import re
from html.parser import HTMLParser

import pytest
from msgspec.structs import replace

from bi_experiments.records import ClockReading, ExperimentResult, Finding, PhaseStatus
from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing
from bi_experiments.report.figures.experiment import draw
from bi_experiments.report.html import render
from bi_experiments.wording import change_text, four_digits, metric_name, shown_in
from tests import factories

LARGEST = 1_500_000
EVIL = "<script>alert('x')</script>"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """The page's elements and its text, and whether every element that is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.unclosed: list[str] = []
        self.wrongly_closed: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self.unclosed and self.unclosed[-1] == tag:
            self.unclosed.pop()
        else:
            self.wrongly_closed.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.unclosed or self.unclosed[-1] != "style":
            self.text += data


def html_of(result: ExperimentResult) -> str:
    with theme.style():
        drawn = draw(result)
        for one in drawn:
            if isinstance(one, Drawing):
                theme.lay_out(one.figure)
        return render(result, drawn)


@pytest.fixture(scope="module")
def whole() -> str:
    """The page of an experiment that has everything."""
    return html_of(factories.whole_result())


def page_of(result: ExperimentResult) -> Page:
    return Page(html_of(result))


def test_every_number_of_the_comparison_is_in_the_page(whole: str) -> None:
    result = factories.whole_result()
    assert result.comparison is not None
    text = Page(whole).text
    for metric in result.comparison.metrics:
        assert metric_name(metric.name) in text
        _, scale = shown_in(metric)
        numbers = [four_digits(scale * metric.baseline), four_digits(scale * metric.second)]
        numbers += [change_text(one) for one in (metric.change_pct, metric.low_pct) if one is not None]
        assert [number for number in numbers if number not in text] == []


def test_the_answer_is_first_and_the_command_last(whole: str) -> None:
    result = factories.whole_result()
    assert result.comparison is not None
    assert result.invariance is not None
    text = Page(whole).text
    parts = [
        result.comparison.sentence,
        result.invariance.sentence,
        "invariance violated",
        "Findings",
        "Figures",
        "Tables",
        "Phases in launch order",
        "How it was measured",
        "Environment",
        "Configuration",
        "How to run it again",
    ]
    # The planner's commands begin like the experiment's own, which is the last.
    places = [*(text.index(part) for part in parts), text.rindex(result.command)]
    assert places == sorted(places)


def test_the_page_needs_nothing_but_itself(whole: str) -> None:
    html = whole
    assert "http://" not in html
    assert "https://" not in html
    loads = [
        value
        for _, attributes in Page(html).elements
        for name, value in attributes.items()
        if name in {"src", "href", "xlink:href", "data", "action"} and value and not value.startswith("#")
    ]
    assert loads == []
    assert not re.search(r"url\((?!#)|@import", html)
    assert len(html.encode()) < LARGEST


def test_the_page_is_well_formed_and_accessible(whole: str) -> None:
    page = Page(whole)
    assert page.wrongly_closed == []
    assert page.unclosed == []
    tags = [tag for tag, _ in page.elements]
    attributes = dict(page.elements)
    assert attributes["html"]["lang"] == "en"
    assert tags.count("title") == tags.count("h1") == tags.count("main") == 1
    assert "script" not in tags
    for tag, found in page.elements:
        if tag == "svg":
            assert found["role"] == "img"
            assert found["aria-label"]
        if tag == "th":
            assert found["scope"] in {"row", "col"}
    assert tags.count("svg") == 7
    assert tags.count("table") == tags.count("caption") > 3
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert [found for tag, found in page.elements if tag == "meta" and found.get("name") == "viewport"]


def test_light_dark_and_print_define_every_colour_that_is_used(whole: str) -> None:
    html = whole
    used = set(re.findall(r"var\(--([a-z]+)\)", html))
    blocks = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert used <= set(re.findall(r"--([a-z]+):", block))
    assert "@media (prefers-color-scheme: dark)" in html
    assert "@media print" in html


def test_what_is_not_drawn_is_named() -> None:
    result = factories.whole_result(factories.phases([7.0]), "verify=off", invariance=None)
    text = page_of(result).text
    assert "Not drawn: Change of the metrics, with its interval: no interval, for there is one launch an arm." in text
    assert "Not drawn: Outputs that change with the batch: verify=off: nothing was compared." in text


def test_nothing_of_the_record_is_markup() -> None:
    whole = factories.whole_result()
    finding = Finding(kind="<b>", message=EVIL, remedy=EVIL)
    assert whole.comparison is not None
    result = replace(
        whole,
        name=f"{EVIL} CPU_ATTN",
        command=f"python -m bi_experiments model.name='{EVIL}'",
        configuration=whole.configuration | {"model": {"name": EVIL, EVIL: '"><img src=x onerror=alert(1)>'}},
        environment=factories.environment(cpu=EVIL, variables={EVIL: EVIL}),
        comparison=replace(whole.comparison, findings=(finding,), sentence=EVIL),
        invariance=factories.invariance_report(sentence=EVIL),
        stopped=EVIL,
    )
    html = html_of(result)
    page = Page(html)
    assert not {"script", "b", "img"} & {tag for tag, _ in page.elements}
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    assert page.text.count(EVIL) > 8
    assert page.wrongly_closed == page.unclosed == []


def test_a_composition_with_markup_in_its_name_stays_text_in_the_figure() -> None:
    report = factories.invariance_report()
    counts = tuple(replace(count, composition=EVIL) for count in report.compositions)
    page = page_of(factories.whole_result(invariance=replace(report, compositions=counts)))
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.unclosed == page.wrongly_closed == []


def test_a_failed_experiment_has_a_page_that_says_why() -> None:
    failed = factories.phase(status=PhaseStatus.FAILED, error="out of memory", init_time_s=None, trials=())
    result = factories.whole_result([failed], invariance=None, stopped="the baseline phase of pair 1 failed")
    text = page_of(result).text
    assert "No comparison: no pair is complete." in text
    assert "the baseline phase of pair 1 failed" in text
    assert (
        "Phase 1 (baseline) failed after 0 of 3 trials: out of memory; its log: phases/00-baseline/engine.log" in text
    )


def test_the_first_screen_says_what_it_is_about_and_leads_to_the_findings() -> None:
    finding = Finding(kind="warm_up", message="The first trial is slow.", remedy="Set protocol.warmup=2.")
    whole = factories.whole_result()
    assert whole.comparison is not None
    page = page_of(replace(whole, comparison=replace(whole.comparison, findings=(finding,) * 3)))
    text = " ".join(page.text.split())
    assert "Some CPU at 2.0 GHz · vLLM 0.32.0 · CPU_ATTN · tp 1 · 8 prompts of" in text
    assert "tokens · 14 Nov 2023" in text
    assert "3 things to know first" in text
    assert ("a", {"href": "#findings"}) in page.elements
    assert text.index("The first trial is slow.") < text.index("Figures")


def test_about_eight_metrics_stand_before_the_fold(whole: str) -> None:
    before, _, folded = whole.partition("more metrics</summary>")
    assert "TTFT p50 [ms]" in before
    assert "TTFT p99 [ms]" not in before.partition("<caption>Metrics")[2]
    assert "TTFT p99 [ms]" in folded


def test_compositions_and_verdicts_are_explained_where_they_stand() -> None:
    text = page_of(factories.whole_result(invariance=factories.proof_report())).text
    assert "the probe alone again: what differs here is not deterministic" in text
    assert "nothing changed in either arm" in text


def test_settings_method_and_environment_are_shown(whole: str) -> None:
    text = Page(whole).text
    for part in (
        "workload",
        "max_batch_size",
        "equivalence_pct",
        "Welch's t of two independent samples",
        "vllm 0.32.0",
    ):
        assert part in text
    assert "Some CPU at 2.0 GHz" in text
    assert "commit 0123456789ab" in text


def test_the_devices_clocks_are_a_table_where_they_were_read(whole: str) -> None:
    readings = (
        ClockReading(trial=0, device=0, sm_clock_mhz=1980, temperature_c=60, power_w=600.0, reasons=("power limit",)),
        ClockReading(trial=1, device=0, sm_clock_mhz=1880, temperature_c=None, power_w=500.0),
    )
    phases = [replace(phase, clocks=readings) for phase in factories.phases()]
    text = page_of(factories.whole_result(phases)).text
    assert "SM clock [MHz]" in text
    assert re.search(r"1,930\s*60\s*550\s*power limit 18 % of the time", text)
    assert "SM clock" not in Page(whole).text


def test_the_ledger_stands_under_the_verdicts_by_composition() -> None:
    page = page_of(factories.whole_result(invariance=factories.proof_report()))
    assert "1025 to 2048 tokens of context, 33 to 64 sequences, alongside a prefill" in page.text
    assert "Not run: long_prompt, borders: no phase got that far." in page.text
    assert "from launch to launch reproducible" in " ".join(page.text.split())
