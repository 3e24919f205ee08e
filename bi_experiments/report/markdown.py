"""One experiment in GitHub's markdown, short enough to paste into a pull request."""

import re

from bi_experiments.config.plain import flatten
from bi_experiments.records import ExperimentResult
from bi_experiments.report import answer, profiles, tables
from bi_experiments.report.method import provenance, ran_on, resumed
from bi_experiments.report.planning import planning
from bi_experiments.report.tables import Table
from bi_experiments.wording import finding_name

LIMIT = 6000
"""Size in bytes up to which settings are listed. Nothing else is cut; all settings are in the record and the page."""


def render(result: ExperimentResult) -> str:
    """The text.

    Args:
        result: The record.
    """
    verdicts = " · ".join(f"{badge.what}: **{badge.verdict}**" for badge in answer.badges(result))
    first, *others = answer.sentences(result)
    parts = [
        f"**{escape(first)}**",
        escape(answer.subject(result)),
        *map(escape, others),
        escape(verdicts, keep="*"),
        *map(escape, answer.problems(result)),
    ]
    if result.comparison is not None:
        if result.comparison.trials:
            parts += [_table(tables.trial_costs(result)), escape(tables.trials_note(result))]
        parts += [_table(tables.metrics(result)), *map(escape, tables.withheld(result))]
    if result.invariance is not None:
        proof = [_table(_without_empty(tables.invariance(result.invariance)))]
        proof += map(escape, tables.first_differences(result.invariance))
        proof += map(escape, tables.proof_notes(result.invariance, result))
        ledger = tables.ledger(result.invariance)
        proof += [] if ledger is None else [_table(ledger), escape(tables.ledger_note(result.invariance))]
        parts += ["<details><summary>The proof, by composition</summary>", *proof, "</details>"]
    for section in profiles.sections(result)[:1]:  # the operations are in the page
        parts += [_table(section.table), escape(section.note)]
    if result.comparison is not None and result.comparison.findings:
        findings = (
            f"- **{escape(finding_name(one.kind))}**: {escape(one.message)} {escape(one.remedy)}"
            for one in result.comparison.findings
        )
        parts.append("\n".join(findings))
    parts += map(escape, planning(result))
    if engines := tables.engines(result.phases):
        parts += ["<details><summary>What the engines ran with</summary>", _table(engines), "</details>"]
    again = f" Resumed: {resumed(result)}." if result.taken_over else ""
    parts.append(escape(f"{result.name}. {ran_on(result)}. {provenance(result)}{again}"))
    command = _code(result.command)
    room = LIMIT - len("\n\n".join([*parts, command]).encode()) - 2
    return "\n\n".join([*parts, *_configuration(result, room), command]) + "\n"


def escape(text: str, keep: str = "") -> str:
    """Text as text: none of its characters starts markup, and a line break becomes a space.

    Args:
        text: The text.
        keep: Characters that are left as they are, for they are markup.
    """
    text = " ".join(text.split())
    special = "".join(character for character in r"\`*_[]|#~@$" if character not in keep)
    text = re.sub(f"([{re.escape(special)}])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _table(table: Table) -> str:
    rule = ["---" if column in table.left else "--:" for column in range(len(table.header))]
    lines = [map(escape, table.header), rule, *(map(escape, row) for row in table.rows)]
    return "\n".join(f"|{'|'.join(line)}|" for line in lines)


def _without_empty(table: Table) -> Table:
    """Without the columns that hold zeros or nothing alone: in a proof that holds, half of the table."""
    kept = [
        column
        for column in range(len(table.header))
        if column == 0 or "/" in table.rows[0][column] or any(row[column] not in {"", "0", "-"} for row in table.rows)
    ]
    rows = tuple(tuple(row[column] for column in kept) for row in table.rows)
    return Table(tuple(table.header[column] for column in kept), rows)


def _configuration(result: ExperimentResult, room: int) -> list[str]:
    """All settings as a collapsed block of code, or as many as there is room for."""
    lines = [f"{key}={' '.join(value.split())}" for key, value in flatten(result.configuration).items()]
    head, tail = "<details><summary>Configuration</summary>\n\n", "\n\n</details>"
    cut = "… the rest is in result.json"
    space = room - len((head + tail + _code(cut)).encode()) - 2
    taken: list[str] = []
    for line in lines:
        space -= len(line.encode()) + 1
        if space < 0:
            break
        taken.append(line)
    if len(taken) < len(lines):
        taken.append(cut)
    return [head + _code("\n".join(taken)) + tail] if len(taken) > 1 else []


def _code(text: str) -> str:
    """A block of code, fenced by more backticks than the text has in a row."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"
