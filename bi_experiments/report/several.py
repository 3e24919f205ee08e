"""Several experiments on one page: a sweep, or folders that are compared by hand.

rows = [Row(label=..., settings=..., status="done", reason=None, page="0/report.html", result=Summary.of(record)), ...]
page = render_html("Sweep of backends", rows, "python -m bi_experiments -m backend=flash_attn,triton_attn")
files = draw(rows, Path("figures"))
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from bi_experiments.analysis.agreement import outputs_alike
from bi_experiments.analysis.multiplicity import benjamini_hochberg
from bi_experiments.config.plain import decides, flatten, setting
from bi_experiments.files import write_atomically
from bi_experiments.records import Difference, ExperimentResult, Metric
from bi_experiments.report.answer import invariance_tone
from bi_experiments.report.labels import changing_keys, short_names
from bi_experiments.report.rows import Row, Summary
from bi_experiments.wording import (
    AA,
    NO_INTERVAL,
    band,
    count,
    finding_name,
    four_digits,
    invariance_word,
    signed,
    verdict_word,
)


class _Cell(NamedTuple):
    text: str
    kind: str = ""
    """CSS class: `number`, `reason` for what may be broken into lines, or the tone of a verdict."""
    whole: str = ""
    """What the text was cut from, where it was."""


class _Findings(NamedTuple):
    number: int
    kinds: str
    link: str | None
    """Where they stand."""


class _Line(NamedTuple):
    """A line of the table."""

    label: str
    link: str | None
    findings: _Findings
    first: list[_Cell]
    last: list[_Cell]


def settings_that_differ(
    results: Sequence[ExperimentResult | Summary],
    as_flat: Callable[[Mapping[str, Any]], dict[str, str]] = flatten,
) -> list[dict[str, str]]:
    """The settings that can change a result and are not all alike, one dictionary each, in the order of the results.

    Args:
        results: Records, or what was summed up of them.
        as_flat: Makes keys and texts of a configuration.

    Returns:
        Dotted key to value as text; every dictionary has the same keys. A key that one of them lacks is `-` there.
    """
    flat = [as_flat(result.configuration) for result in results]
    return differing([{key: text for key, text in one.items() if decides(key)} for one in flat])


def differing(texts: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Of texts by key those that are not all alike; a key that one of them lacks is `-` there."""
    keys = dict.fromkeys(key for one in texts for key in one)
    different = [key for key in keys if len({one.get(key) for one in texts}) > 1]
    return [{key: one.get(key, "-") for key in different} for one in texts]


def render_html(
    title: str, rows: Sequence[Row], command: str | None, cheapest: str | None = None, *, sweep: bool = True
) -> str:
    """The page: self-contained, no network, no script.

    Args:
        title: Heading of the page.
        rows: The experiments, in the order in which they are shown.
        command: The command line that regenerates all of it, if there is one.
        cheapest: What is to be said of the lowest cost, where it was measured again or should be.
        sweep: Whether settings were varied on purpose, so that the cost is drawn against each of them.
    """
    from bi_experiments.report import pages
    from bi_experiments.report.figures import theme
    from bi_experiments.report.figures.drawing import Drawing, LeftOut
    from bi_experiments.report.figures.several import draw_all

    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    beside: dict[str, list[str]] = {}
    if not sweep and rows:  # unlike experiments differ in more settings than a page is wide
        beside = changing_keys([row.settings for row in rows])
        keys = list(beside)
    where = _where(rows)
    columns = {key: [row.settings.get(key, "") for row in rows] for key in keys}
    columns |= {name: values for name, values in where.items() if len(_known(values)) > 1}
    settings = _settings_cells(columns.values())
    adjusted = _adjusted(rows)
    with theme.style():
        drawn = draw_all(rows, sweep=sweep)
        drawings = [one for one in drawn if isinstance(one, Drawing)]
        for one in drawings:
            theme.lay_out(one.figure)
        figures = pages.shown(drawings)
    return pages.render(
        "several.html.j2",
        title=title,
        counted=_counted(rows),
        sentences=[*_sentences(rows, cheapest), *_ran_on(where)],
        figures=figures,
        left_out=[one for one in drawn if isinstance(one, LeftOut)],
        header=[
            _Cell(text, "number" if text in _NUMBERS else "") for text in ("experiment", *_FIRST, *columns, *_LAST)
        ],
        rows=[
            _Line(
                label=row.label,
                link=quote(row.page) if row.page is not None else None,
                findings=_findings(row),
                first=_first_cells(row),
                last=[*(cells[at] for cells in settings), *_last_cells(row.result, adjusted.get(at)), _status(row)],
            )
            for at, row in enumerate(rows)
        ],
        note="cost: change of total time against the baseline, with its 95 % interval; pairs: of launches; verdict: by "
        "the interval of that row alone; invariance: the verdict on the second arm, and of its probe outputs those "
        "that changed with the batch; A/A: two baselines; adjusted p: that there is no change, over all rows together "
        "(Benjamini-Hochberg): of the rows below 0.05, 5 % at most are expected to show a change where there is none."
        + "".join(f" With {key} change too: {', '.join(others)}." for key, others in beside.items() if others),
        command=command,
    )


def draw(rows: Sequence[Row], folder: Path) -> tuple[Path, ...]:
    """Draw the figures of the page as PNG files.

    Args:
        rows: The experiments.
        folder: Where the files go; made if it does not exist.

    Returns:
        The files, in the order of the page; none where fewer than two experiments have a result.
    """
    from bi_experiments.report.figures import theme
    from bi_experiments.report.figures.drawing import Drawing
    from bi_experiments.report.figures.several import draw_all

    written = []
    with theme.style():
        for drawing in draw_all(rows):
            if isinstance(drawing, Drawing):
                path = folder / f"{drawing.name}.png"
                theme.lay_out(drawing.figure)
                write_atomically(path, theme.png(drawing.figure))
                written.append(path)
    return tuple(written)


_FIRST = ("cost", "95 % interval", "pairs", "verdict", "invariance", "findings")
"""What a reader came for, directly after the name."""
_LAST = ("adjusted p", "baseline tokens/s", "second arm tokens/s", "status")
_NUMBERS = frozenset({"cost", "95 % interval", "pairs", *_LAST[:3]})


def _counted(rows: Sequence[Row]) -> str:
    statuses = Counter(row.status for row in rows)
    return f"{count(len(rows), 'experiment')}: " + ", ".join(
        f"{number} {status}" for status, number in statuses.items()
    )


def _sentences(rows: Sequence[Row], cheapest: str | None) -> list[str]:
    """The range of the costs, what is said of the lowest, and whether invariance held everywhere."""
    said = []
    of_mode = [row for row in rows if not row.control]
    known = [(row.cost, row.label) for row in of_mode if row.cost is not None]
    costs = sorted(
        (one.change_pct, name) for one, name in known if one.change_pct is not None and one.low_pct is not None
    )
    if len(known) > len(costs):
        single = count(len(known) - len(costs), "experiment")
        said.append(f"Without an interval: {single}; one launch an arm does not say what the mode costs.")
    if costs:
        (low, lowest), (high, highest) = costs[0], costs[-1]
        to = "" if len(costs) == 1 else f" to {signed(high)} ({highest})"
        said.insert(0, f"Total time changes by {signed(low)} ({lowest}){to}.")
        if cheapest is not None:
            said.append(cheapest)
        elif len(costs) > 1:
            said.append(
                "The extremes of several measurements are extreme by luck too: measure the one that you choose again "
                "in fresh pairs, before you call it the cheapest."
            )
    if controls := [f"{row.label}, {_control(row)}" for row in rows if row.control]:
        said.append(f"A/A (two baselines): {'; '.join(controls)}.")
    verdicts = Counter(invariance_word(row.result.invariance) for row in of_mode if row.result)
    if verdicts:
        said.append("Invariance: " + ", ".join(f"{word} in {number}" for word, number in verdicts.items()) + ".")
    outputs = [
        (row.label, row.result.alone) for row in of_mode if row.result is not None and row.result.alone is not None
    ]
    return said + [alike.sentence for alike in outputs_alike(outputs)]


def _control(row: Row) -> str:
    """By how much two baselines differ, and what was injected into one of them on purpose."""
    assert row.result is not None
    injected = setting(row.result.configuration, "protocol.inject_pct") or 0
    on_purpose = f" with {injected:g} % injected" if injected else ""
    if row.cost is None or row.cost.change_pct is None:
        return f"not compared{on_purpose}"
    return f"{signed(row.cost.change_pct)} {_interval(row.cost) or f'({NO_INTERVAL})'}{on_purpose}"


def _interval(cost: Metric) -> str:
    return "" if cost.low_pct is None or cost.high_pct is None else band(cost.low_pct, cost.high_pct)


def _first_cells(row: Row) -> list[_Cell]:
    """The answer, without the findings, which are a link; of an experiment without one, why."""
    result = row.result
    if result is None:
        return [_Cell("", "number")] * 3 + [_Cell(row.status), _Cell("")]
    cost = result.total_time
    change = cost.change_pct if cost is not None else None
    interval = _interval(cost) if cost is not None else ""
    word, tone = invariance_word(result.invariance), invariance_tone(result.invariance)
    bits = _Cell(f"{word} {result.differing}/{result.probed}" if result.probed else word, tone)
    decided = bool(interval) and cost is not None and cost.verdict is not Difference.INCONCLUSIVE
    return [
        _Cell("" if change is None else signed(change), "number strong" if decided else "number"),
        _Cell(interval, "number"),
        _Cell(str(result.pairs), "number"),
        _Cell(verdict_word(cost) if cost is not None else ""),
        _Cell(AA) if row.control else bits,
    ]


def _findings(row: Row) -> _Findings:
    """How many findings there are, what kinds they are of, and where they stand."""
    kinds = row.result.findings if row.result is not None else ()
    on_page = row.page is not None and row.page.endswith(".html")
    return _Findings(
        number=len(kinds),
        kinds=", ".join(map(finding_name, dict.fromkeys(kinds))),
        link=f"{quote(row.page)}#findings" if row.page is not None and on_page else None,
    )


def _status(row: Row) -> _Cell:
    return _Cell(row.status) if row.reason is None else _Cell(f"{row.status}: {row.reason}", "reason")


def _settings_cells(columns: Iterable[Sequence[str]]) -> list[list[_Cell]]:
    """The columns of settings, cut to what distinguishes their values: a whole mapping is taller than the screen."""
    return [
        [
            _Cell(short, "reason" if len(short) > 30 else "", "" if short == whole else whole)
            for short, whole in zip(short_names(column), column, strict=True)
        ]
        for column in columns
    ]


def _where(rows: Sequence[Row]) -> dict[str, list[str]]:
    """What every experiment ran on, one column each; empty text where that is not known."""
    results = [row.result for row in rows]
    return {
        "machine": [result.device if result else "" for result in results],
        "vLLM": [(result.vllm_version or "") if result else "" for result in results],
    }


def _known(values: Sequence[str]) -> set[str]:
    return set(values) - {""}


def _ran_on(where: Mapping[str, Sequence[str]]) -> list[str]:
    """What all experiments with a result ran on, as far as it does not differ."""
    said = [
        f"{'on' if name == 'machine' else f'with {name}'} {known.pop()}"
        for name, values in where.items()
        if len(known := _known(values)) == 1
    ]
    return [f"Measured {' '.join(said)}."] if said else []


def _last_cells(result: Summary | None, adjusted: float | None) -> list[_Cell]:
    throughput = result.throughput if result is not None else None
    return [
        _Cell("" if adjusted is None else "< 0.001" if adjusted < 0.001 else f"{adjusted:.3f}", "number"),
        _Cell(four_digits(throughput.baseline) if throughput else "", "number"),
        _Cell(four_digits(throughput.second) if throughput else "", "number"),
    ]


def _adjusted(rows: Sequence[Row]) -> dict[int, float]:
    """Position of a row to the p value of its cost, adjusted over all rows (Benjamini and Hochberg)."""
    tested = [(at, row.cost.p_value) for at, row in enumerate(rows) if row.cost and row.cost.p_value is not None]
    return dict(zip([at for at, _ in tested], benjamini_hochberg([p_value for _, p_value in tested]), strict=True))
