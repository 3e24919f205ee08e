import re
from dataclasses import replace as changed
from itertools import product
from pathlib import Path

from msgspec.structs import replace

from bi_experiments.analysis.agreement import AloneDigest
from bi_experiments.records import Arm, Finding, Invariance
from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing, LeftOut
from bi_experiments.report.figures.several import draw_all
from bi_experiments.report.rows import Row, Summary
from bi_experiments.report.several import draw, render_html, settings_that_differ
from tests import factories

EVIL = "<script>alert(1)</script>"


def summary(change_pct: float | None = 7.4) -> Summary:
    throughput = factories.metric(-6.9, name="throughput", unit="tokens/s", baseline=46.55, second=43.3)
    comparison = factories.comparison(factories.metric(), throughput)
    base = Summary.of(factories.experiment_result(comparison=comparison, invariance=factories.invariance_report()))
    metric = None if change_pct is None else factories.metric(change_pct, change_pct - 1, change_pct + 1)
    return changed(base, total_time=metric)


def row(change_pct: float | None = 7.4, **settings: str) -> Row:
    name = " ".join(settings.values())
    return Row(f"run {name}", settings, "done", None, f"runs/{name or '0'}/report.html", summary(change_pct))


def sweep() -> list[Row]:
    """Two backends, three batch sizes."""
    return [
        row(2.0 + index, backend=backend, **{"workload.max_batch_size": size})
        for index, (backend, size) in enumerate(product(("FLASH_ATTN", "TRITON_ATTN"), ("8", "32", "128")))
    ]


def drawings(rows: list[Row]) -> dict[str, Drawing]:
    with theme.style():
        return {one.name: one for one in draw_all(rows) if isinstance(one, Drawing)}


def svg(drawing: Drawing) -> str:
    with theme.style():
        theme.lay_out(drawing.figure)
        return theme.svg(drawing.figure, "x", "")


def table(html: str) -> list[list[str]]:
    """The cells of the table of experiments, as text."""
    body = html.partition("<tbody>")[2].partition("</tbody>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [re.sub(r"</t[hd]>", "\n", re.sub(r"<(?!/t[hd]>)[^>]*>", "", one)).split("\n")[:-1] for one in rows]


def test_a_summary_says_what_the_record_says() -> None:
    result = factories.whole_result()
    found = Summary.of(result)
    assert result.comparison is not None
    assert found.total_time == result.comparison.metric("total_time")
    assert found.throughput == result.comparison.metric("throughput")
    assert (found.pairs, found.invariance, found.differing, found.probed) == (3, Invariance.VIOLATED, 1, 24)
    assert found.vllm_version == "0.32.0"


def test_a_summary_of_a_failed_experiment_has_no_numbers() -> None:
    found = Summary.of(factories.whole_result([], comparison=None, invariance=None))
    assert (found.pairs, found.total_time, found.invariance) == (0, None, None)


def test_only_what_differs_in_the_measurement_is_a_setting() -> None:
    results = [
        factories.whole_result(None, f"workload.max_batch_size={size}", f"tracking.experiment=run{size}")
        for size in (8, 32)
    ]
    assert settings_that_differ(results) == [{"workload.max_batch_size": "8"}, {"workload.max_batch_size": "32"}]
    longer = replace(results[0], configuration=results[0].configuration | {"extra": 1})
    assert settings_that_differ([results[0], longer]) == [{"extra": "-"}, {"extra": "1"}]
    assert settings_that_differ([]) == []


def test_the_page_has_a_row_for_every_experiment_and_a_reason_for_every_failure() -> None:
    rows = [*sweep(), Row("run 7", {"backend": "X"}, "cannot run", "no such backend", None, None)]
    html = render_html("A sweep", rows, "python -m bi_experiments -m backend=a,b")
    cells = table(html)
    assert len(cells) == len(rows)
    first = ["+2.0 %", "[+1.0 %, +3.0 %]", "3", "slower", "violated 1/24"]
    assert cells[0] == ["run FLASH_ATTN 8", *first, "", "FLASH_ATTN", "8", "", "46.55", "43.30", "done"]
    assert cells[-1][:5] == ["run 7", "", "", "", "cannot run"]
    assert cells[-1][-1] == "cannot run: no such backend"
    assert html.count("<a href=") == len(sweep())
    assert '<a href="runs/FLASH_ATTN%208/report.html">' in html
    assert "7 experiments: 6 done, 1 cannot run" in html
    assert "python -m bi_experiments -m backend=a,b" in html
    assert html.index("Total time changes by +2.0 %") < html.index("Figures")
    assert "http://" not in html
    assert "https://" not in html


def test_what_the_experiments_ran_on_is_a_column_where_it_differs_and_a_sentence_where_it_does_not() -> None:
    rows = [row(1.0, backend="a"), row(2.0, backend="b"), Row("run c", {"backend": "c"}, "failed", None, None, None)]
    html = render_html("Two releases", rows, None)
    assert "Measured on Some CPU at 2.0 GHz with vLLM 0.32.0." in html
    assert "machine</th>" not in html
    assert rows[1].result is not None
    rows[1] = changed(rows[1], result=changed(rows[1].result, vllm_version="0.33.0"))
    html = render_html("Two releases", rows, None)
    assert "Measured on Some CPU at 2.0 GHz." in html
    assert ">vLLM</th>" in html
    assert [cells[7:9] for cells in table(html)] == [["a", "0.32.0"], ["b", "0.33.0"], ["c", ""]]


def test_a_long_value_is_cut_to_what_differs_and_kept_as_a_title() -> None:
    values = [f'{{"architecture": "{name}", {", ".join(f"{n}: {n}" for n in range(99))}}}' for name in ("qwen", "opt")]
    html = render_html("A sweep", [row(1.0, seeded=value) for value in values], None)
    shown = [cells[7] for cells in table(html)]
    assert len(set(shown)) == 2
    assert max(map(len, shown)) < 60
    assert html.count(' title="{&#34;architecture&#34;: &#34;qwen') == 1


def test_costs_without_an_interval_are_counted_and_not_ranked() -> None:
    single = row(-46.0, backend="single")
    assert single.result is not None
    alone = changed(single, result=changed(single.result, total_time=factories.metric(-46.0, None, None)))
    head = render_html("A sweep", [row(2.0, backend="a"), alone], None).partition("<table>")[0]
    assert "Total time changes by +2.0 % (run a)." in head
    assert "Without an interval: 1 experiment" in head
    assert "46.0" not in head
    assert "violated in 2" in head


def control(change_pct: float, **settings: str) -> Row:
    one = row(change_pct, **settings)
    assert one.result is not None
    return changed(one, result=changed(one.result, second_arm=Arm.CONTROL))


def test_two_baselines_are_no_cost_and_no_verdict_on_the_mode() -> None:
    rows = [row(2.0, kind="a"), row(9.0, kind="b"), control(0.3, kind="c")]
    html = render_html("Three", rows, None)
    head = html.partition("<table>")[0]
    assert "Total time changes by +2.0 % (run a) to +9.0 % (run b)." in head
    assert "A/A (two baselines): run c, +0.3 % [-0.7 %, +1.3 %]." in head
    assert "Invariance: violated in 2." in head
    assert [cells[5] for cells in table(html)] == ["violated 1/24", "violated 1/24", "A/A"]
    assert "from +2.0 % (a) to +9.0 % (b), median +5.5 %" in drawings(rows)["experiments_overhead"].description
    assert "second arm" in svg(drawings(rows)["experiments_throughput"])
    alone = render_html("Two", [rows[0], rows[2]], None).partition("<table>")[0]
    assert "before you call it the cheapest" not in alone
    only = render_html("None of the mode", [rows[2], control(-0.2, kind="d")], None).partition("<table>")[0]
    assert "Total time changes" not in only
    assert "Invariance:" not in only


def test_a_slow_down_on_purpose_is_said_with_its_size() -> None:
    one = control(3.0, kind="c")
    assert one.result is not None
    result = changed(one.result, configuration={"protocol": {"inject_pct": 3.0}})
    assert "run c, +3.0 % [+2.0 %, +4.0 %] with 3 % injected." in render_html("A", [changed(one, result=result)], None)


def test_nothing_of_a_row_is_markup() -> None:
    rows = [
        Row(EVIL, {EVIL: EVIL, "x": str(index)}, EVIL, EVIL, "javascript:alert(1)", summary(index)) for index in (1, 2)
    ]
    html = render_html(EVIL, rows, EVIL)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert 'href="javascript:' not in html


def test_only_pages_that_exist_are_linked_and_findings_are_a_count_with_a_link() -> None:
    found = row(backend="a")
    assert found.result is not None
    with_findings = changed(found, result=changed(found.result, findings=("drift", "clocks", "clocks")))
    html = render_html("A sweep", [with_findings, changed(with_findings, page=None)], None)
    assert html.count("<a href=") == 2
    assert '<a href="runs/a/report.html#findings" title="drift, clocks">3</a>' in html
    assert [cells[6] for cells in table(html)] == ["3", "3"]


def test_findings_of_one_kind_are_counted_one_by_one_as_on_the_page_of_the_experiment() -> None:
    finding = Finding(kind="clocks", message="M.", remedy="R.")
    result = factories.experiment_result(comparison=factories.comparison(findings=(finding, finding, finding)))
    assert Summary.of(result).findings == ("clocks",) * 3


def test_figures_against_a_setting_are_for_sweeps() -> None:
    html = render_html("Two folders", sweep(), None, sweep=False)
    assert "Overhead of total time by experiment" in html
    assert "Overhead against" not in html


def test_long_values_of_one_prefix_stay_apart_in_every_line_and_name() -> None:
    """Groups are of settings: a label is cut when it is drawn, and long names that begin alike are not cut alike."""
    model = "an-organisation/a-model-with-a-name-that-is-longer-than-forty-characters"
    rows = [
        row(float(index), **{"model.name": model, "backend": backend, "workload.max_batch_size": size})
        for index, (backend, size) in enumerate(product(("FLASH_ATTN_MLA", "TRITON_MLA"), ("8", "32")))
    ]
    other = [changed(one, settings=one.settings | {"model.name": f"{model}-2"}) for one in rows]
    lines = svg(drawings(rows + other)["overhead_by_workload.max_batch_size"])
    assert lines.count("TRITON") == lines.count("FLASH") == 2
    assert "characters-2" in lines


def test_the_cost_is_drawn_against_every_setting() -> None:
    found = drawings(sweep())
    assert list(found) == [
        "experiments_overhead",
        "overhead_by_backend",
        "overhead_by_workload.max_batch_size",
        "experiments_throughput",
    ]
    lines = svg(found["overhead_by_workload.max_batch_size"])
    for said in (">8<", ">32<", ">128<", ">FLASH_ATTN<", ">TRITON_ATTN<", "workload.max_batch_size", "[%]", "n = 6"):
        assert said in lines
    assert "8: median +3.5 % of 2" in found["overhead_by_workload.max_batch_size"].description
    assert "TRITON_ATTN · 128" in svg(found["experiments_overhead"])


def test_an_experiment_without_a_result_is_in_no_figure() -> None:
    rows = [
        *sweep(),
        Row("run 7", {"backend": "X"}, "failed", "it broke", "7/report.txt", None),
        row(None, backend="Y"),
    ]
    assert "n = 6 experiments" in svg(drawings(rows)["experiments_overhead"])


def test_one_result_is_not_compared() -> None:
    with theme.style():
        (only,) = draw_all([row(1.0, backend="a")])
    assert isinstance(only, LeftOut)
    assert "fewer than two experiments have a result" in render_html("One", [row(1.0, backend="a")], None)
    assert "fewer than two" in render_html("None", [], None)


def test_experiments_that_differ_in_nothing_are_told_apart_by_their_labels() -> None:
    rows = [changed(row(float(index)), label=f"folder {index}", settings={}) for index in range(3)]
    assert "folder 2" in svg(drawings(rows)["experiments_overhead"])


def test_a_thousand_experiments_make_a_page_of_limited_size() -> None:
    rows = [
        row(index % 40, model=f"m{index % 5}", seed=str(index // 100), backend=f"b{index % 7}") for index in range(1000)
    ]
    html = render_html("Many", rows, None)
    assert len(table(html)) == 1000
    assert len(html.encode()) < 3_000_000
    # No figure names them one by one: the table does.
    assert html.partition("</tbody>")[2].count("m1 · ") == 0


def test_the_figures_are_files_too(tmp_path: Path) -> None:
    written = draw(sweep(), tmp_path / "figures")
    assert written[0].name == "experiments_overhead.png"
    assert len(written) == 4
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert draw([], tmp_path) == ()


def test_a_setting_is_a_safe_file_name(tmp_path: Path) -> None:
    rows = [row(float(index), **{"../../etc/a b": str(index)}) for index in range(3)]
    for path in draw(rows, tmp_path):
        assert path.parent == tmp_path
        assert path.exists()


def test_settings_that_always_change_together_count_as_one() -> None:
    rows = [row(float(size), size=str(size), shape=f"shape {size}", seed="1") for size in (1, 2, 4)]
    assert list(drawings(rows)) == ["experiments_overhead", "overhead_by_size", "experiments_throughput"]


def test_a_comparison_has_one_column_for_settings_that_change_together_and_names_the_others() -> None:
    rows = [row(float(at), model=f"m{at}", heads=str(at), seed=str(at % 2)) for at in range(3)]
    html = render_html("Folders", rows, None, sweep=False)
    assert [cells[7:9] for cells in table(html)] == [["m0", "0"], ["m1", "1"], ["m2", "0"]]
    assert "With model change too: heads." in html
    assert "With model" not in render_html("A sweep", rows, None)


def test_a_setting_that_never_changes_alone_is_named_and_not_drawn() -> None:
    rows = [row(1.0, model="a", size="8"), row(2.0, model="b", size="8"), row(3.0, model="c", size="32")]
    with theme.style():
        missing = [one.title for one in draw_all(rows) if isinstance(one, LeftOut)]
    assert missing == ["Overhead against size"]


def test_whether_outputs_agree_between_the_experiments_is_said() -> None:
    def with_outputs(label: str, digest: str) -> Row:
        one = row()
        assert one.result is not None
        outputs = AloneDigest(probed="same", digest=digest)
        return changed(one, label=label, result=changed(one.result, alone=outputs))

    three = [with_outputs("tp=1", "a"), with_outputs("tp=2", "a"), with_outputs("tp=4", "a")]
    assert "Outputs agree: each probe alone gave the same bits in all 3 experiments." in render_html(
        "title", three, "command"
    )
    three[2] = with_outputs("tp=4", "b")
    said = "Outputs differ: probes alone gave other bits, 2 kinds of them: tp=1, tp=2; tp=4."
    assert said in render_html("title", three, "command")
