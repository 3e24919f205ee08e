import re

from msgspec.structs import replace

from bi_experiments.records import Finding
from bi_experiments.report.markdown import LIMIT, escape, render
from bi_experiments.wording import change_text, metric_name
from tests import factories


def test_the_answer_is_first_then_tables_findings_configuration_command() -> None:
    finding = Finding(kind="warm_up", message="The first trial is slow.", remedy="Set protocol.warmup=2.")
    whole = factories.whole_result()
    assert whole.comparison is not None
    text = render(replace(whole, comparison=replace(whole.comparison, findings=(finding,))))
    parts = [
        f"**{escape(whole.comparison.sentence)}**",
        "Invariance is violated: 1 of 24 probes differed.",
        "invariance: **violated**",
        "|trial time \\[s\\]|2.692|2.894|+7.50|+6.26 .. +8.75|3|slower|",
        "|ragged|20/24|10|",
        "- **warm up**: The first trial is slow. Set protocol.warmup=2.",
        "Some CPU at 2.0 GHz; 2 CPUs",
        "<details><summary>Configuration</summary>",
        "workload.max_batch_size=",
        "</details>\n\n```\npython -m bi_experiments experiment=cpu_demo",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_its_settings_are_cut_where_they_would_make_it_long() -> None:
    whole = factories.whole_result()
    assert len(render(whole).encode()) < LIMIT
    configuration = whole.configuration | {"model": {f"key_{index}": "ä" * 60 for index in range(200)}}
    text = render(replace(whole, configuration=configuration))
    assert len(text.encode()) < LIMIT
    assert "the rest is in result.json" in text
    assert text.count("```") % 2 == 0
    assert "</details>" in text


def test_every_metric_is_a_row() -> None:
    result = factories.whole_result()
    assert result.comparison is not None
    text = render(result)
    for metric in result.comparison.metrics:
        row = next(line for line in text.splitlines() if line.startswith(f"|{metric_name(metric.name)} "))
        change = "-" if metric.change_pct is None else change_text(metric.change_pct)
        assert f"|{change}|" in row
        assert len(re.findall(r"(?<!\\)\|", row)) == 8


def test_nothing_of_the_record_is_markup() -> None:
    evil = "<script>alert(1)</script> | [x](y) *b* `c`"
    whole = factories.whole_result()
    assert whole.comparison is not None
    text = render(
        replace(
            whole,
            name=evil,
            command="python -m bi_experiments model.name='```'",
            comparison=replace(whole.comparison, sentence=evil),
        )
    )
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside
    assert not re.search(r"(?<!\\)[`\[]", outside)
    assert "\n````\npython" in text


def test_a_record_without_a_comparison_has_a_text_too() -> None:
    text = render(factories.whole_result([], comparison=None, invariance=None))
    assert text.startswith("**No comparison: no pair is complete.**")


def test_the_ledger_and_what_was_left_out_are_said() -> None:
    text = render(factories.whole_result(invariance=factories.proof_report()))
    assert "|1025 to 2048 tokens of context, 33 to 64 sequences, alongside a prefill|3.0|0|0 of 0|not probed|" in text
    assert "Not run: long\\_prompt, borders" in text
    assert "from launch to launch: **reproducible**" in text
