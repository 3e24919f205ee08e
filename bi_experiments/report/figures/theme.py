"""How every figure looks: colours that the colour-blind tell apart, with a second sign for each, and two outputs.

A figure is drawn once, in the light colours. Its PNG stands alone; in its SVG each colour becomes a CSS variable
(`--ink`, `--baseline`, ...), so that a page can show the same figure light, dark and printed. The figures are made with
matplotlib's object interface: there is no current figure and no backend to choose.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bi_experiments.records import Arm

DOTS_PER_INCH = 160
"""Of the PNG files."""
WIDE = 9.0
"""Width of a figure as wide as the page, in inches."""
NARROW = 5.6
"""Width of a figure that leaves room for another one next to it, in inches."""

INK = "#1c2127"
MUTED = "#59636e"
GRID = "#dde1e6"
SURFACE = "#fffffe"
BASELINE = "#0072b2"
OTHER = "#d55e00"
BAND = "#009e73"
DIFFERS = "#e69f00"
COLOURS = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SURFACE: "surface",
    BASELINE: "baseline",
    OTHER: "other",
    BAND: "band",
    DIFFERS: "differs",
}
"""Each colour's CSS variable; those that carry meaning are from M. Okabe and K. Ito, "Color Universal Design"."""


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn: colour, marker, line and hatch say the same."""

    colour: str
    marker: str
    line: str
    hatch: str


def arm_style(arm: Arm) -> ArmStyle:
    """The style of an arm; the control arm looks like the batch-invariant one that it replaces."""
    if arm is Arm.BASELINE:
        return ArmStyle(BASELINE, "o", "-", "")
    return ArmStyle(OTHER, "s", "--", "////")


_SETTINGS: dict[Any, Any] = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": SURFACE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "figure.facecolor": SURFACE,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "hatch.color": SURFACE,
    "hatch.linewidth": 1.2,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "bi_experiments",
    "text.color": INK,
    "text.parse_math": False,  # a model's name may hold a dollar sign
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9,
}


@contextmanager
def style() -> Iterator[None]:
    """The settings under which figures are made and written, whatever the user's own are."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        # A name in a script that the font lacks is drawn as boxes; which does not deserve a line on the terminal.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Nor is a name that leaves little room for the data.
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches; to be called within `style`."""
    return Figure(figsize=(width, height))


def read_along(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Leave grid lines where values are read, and take ticks and line from the other axis."""
    other: Literal["x", "y"] = "y" if axis == "x" else "x"
    axes.grid(visible=False, axis=other)
    axes.tick_params(axis=other, length=0)
    axes.spines["left" if axis == "x" else "bottom"].set_visible(False)


def logarithmic(axes: Axes, axis: Literal["x", "y"]) -> None:
    """A logarithmic scale with plain numbers: 1, 3, 10, ..."""
    axes.set_xscale("log") if axis == "x" else axes.set_yscale("log")
    scale = axes.xaxis if axis == "x" else axes.yaxis
    low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
    scale.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 1000 else (1.0,)))
    scale.set_minor_locator(NullLocator())
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def head(figure: Figure, title: str, *, legend: bool = True) -> None:
    """The title at the figure's left edge, and the legend of the only or first axes above them: never on the data."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    axes = figure.axes[0]
    labels = axes.get_legend_handles_labels()[1]
    if legend and labels:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=len(labels),
            borderaxespad=0.1,
            handletextpad=0.5,
        )


def lay_out(figure: Figure) -> None:
    """Place everything once, for both outputs."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def png(figure: Figure) -> bytes:
    """The figure as PNG, on white; to be called within `style`, after `lay_out`."""
    buffer = io.BytesIO()
    figure.set_dpi(DOTS_PER_INCH)
    # Not savefig, which draws everything twice to find out a layout that is known already.
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an `svg` element for a page with the variables of `COLOURS`; within `style`, after `lay_out`.

    Args:
        figure: The figure.
        name: Unique in the page: the element's ids start with it.
        label: Text for a reader who cannot see the figure.
    """
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, count=1, flags=re.DOTALL)
    referenced = set(re.findall(r"""(?:href="|url\()#([^")]+)""", text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in referenced else "", text)
    text = re.sub(r"""((?:href="|url\()#)""", rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"[ \t]*\n\s*", " ", text)
    label = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    size = figure.get_size_inches()
    head = f'<svg role="img" aria-label="{label}" viewBox="0 0 {72 * size[0]:g} {72 * size[1]:g}">'
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1).strip()
