"""What a figure is to the pages and files that show it."""

from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """One figure."""

    name: str
    """Name of its file, without suffix."""
    title: str
    description: str
    """What it shows, for a reader who cannot see it."""
    caption: str
    """What is to be known to read it."""
    figure: Figure
    shape: Literal["wide", "tall"] | None = None
    """Whether it takes the page's whole width, or the height of two others next to it."""


@dataclass(frozen=True)
class LeftOut:
    """A figure whose data do not exist."""

    title: str
    reason: str
    """One clause: why there is nothing to draw."""
