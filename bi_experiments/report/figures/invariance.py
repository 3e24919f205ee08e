"""Which batch compositions change output bits, in either arm."""

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from bi_experiments.config.plain import setting
from bi_experiments.records import Arm, ExperimentResult, Invariance, InvarianceReport
from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing, LeftOut
from bi_experiments.report.tables import in_order
from bi_experiments.wording import LABELS, invariance_word

_TONES = {
    Invariance.HOLDS: theme.BAND,
    Invariance.VIOLATED: theme.OTHER,
    Invariance.NOT_DETERMINISTIC: theme.OTHER,
}

STRONGEST = 0.75
"""Opacity of a cell in which every output differs: the number in it stays readable."""


def invariance(result: ExperimentResult) -> Drawing | LeftOut:
    """A cell for each composition and arm: outputs that differ, of all; the more differ, the stronger its colour."""
    title = "Outputs that change with the batch"
    report = result.invariance
    if report is None:
        level = setting(result.configuration, "verify.level")
        return LeftOut(title, "verify=off: nothing was compared" if level == "off" else "no phase got that far")
    arms = in_order(report.needle_total)
    rows = _rows(report, arms)
    figure = theme.new_figure(theme.NARROW, 1.0 + 0.29 * len(rows))
    axes = figure.subplots()
    for y, (_, cells) in enumerate(rows):
        for x, cell in enumerate(cells):
            _draw_cell(axes, x, y, cell)
    verdicts = {one.composition: one.verdict for one in report.compositions if one.verdict is not None}
    for y, (name, _) in enumerate(rows):
        if (verdict := verdicts.get(name)) is not None:
            word, tone = invariance_word(verdict), _TONES.get(verdict, theme.MUTED)
            axes.text(len(arms) - 0.45, y, word, va="center", fontsize=9, color=tone)
    axes.set_xlim(-0.5, len(arms) - (0.5 if not verdicts else -0.05))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xticks(range(len(arms)), [LABELS[arm] for arm in arms])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    probes = " and ".join(dict.fromkeys(str(verdict.total) for verdict in report.arms)) or "0"
    theme.head(figure, f"{title}, n = {probes} an arm")
    said = "; ".join(
        f"{name} {', '.join('not run' if cell is None else f'{cell[0]}/{cell[1]}' for cell in cells)}"
        for name, cells in rows
    )
    return Drawing(
        name="invariance",
        title=title,
        description=f"Outputs that differ of all outputs, {' and '.join(LABELS[arm] for arm in arms)}: {said}.",
        caption="In each cell: outputs that differ from the same prompt alone / outputs compared, over all launches. "
        "At the right: the verdict; no control: the baseline did not differ either, so that nothing is shown.",
        figure=figure,
        shape="tall",
    )


def _rows(report: InvarianceReport, arms: tuple[Arm, ...]) -> list[tuple[str, tuple[tuple[int, int] | None, ...]]]:
    counts = {(one.composition, one.arm): (one.differing, one.total) for one in report.compositions}
    rows = [
        (composition, tuple(counts.get((composition, arm)) for arm in arms))
        for composition in dict.fromkeys(one.composition for one in report.compositions)
    ]
    needles = tuple((report.needle_differing.get(arm, 0), report.needle_total[arm]) for arm in arms)
    return [*rows, ("needle in the trials", needles)]


def _draw_cell(axes: Axes, x: int, y: int, cell: tuple[int, int] | None) -> None:
    differing, total = cell or (0, 0)
    share = differing / total if total else 0.0
    box = (x - 0.48, y - 0.44), 0.96, 0.88
    axes.add_patch(Rectangle(*box, facecolor=theme.GRID, alpha=0.45, linewidth=0))
    if share:
        opacity = STRONGEST * (0.25 + 0.75 * share)
        axes.add_patch(Rectangle(*box, facecolor=theme.DIFFERS, alpha=opacity, linewidth=0))
    axes.text(
        x, y, f"{differing}/{total}" if total else "not run", ha="center", va="center", fontsize=9,
        fontweight="bold" if share else "normal", color=theme.INK if share else theme.MUTED,
    )  # fmt: skip
