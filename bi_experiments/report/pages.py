"""The HTML pages, made from their templates. What comes from a record is escaped; the figures' SVG is our own."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing


@dataclass(frozen=True)
class Shown:
    """A figure as it stands in a page."""

    drawing: Drawing
    svg: Markup


def shown(drawings: Iterable[Drawing]) -> list[Shown]:
    """The figures for a page; to be called within `theme.style`, after `theme.lay_out`."""
    return [Shown(one, Markup(theme.svg(one.figure, f"figure-{one.name}", one.description))) for one in drawings]


def render(template: str, **values: Any) -> str:  # noqa: ANN401  whatever the template shows
    """A page, from one of the package's templates."""
    environment = Environment(
        loader=PackageLoader("bi_experiments.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values).strip() + "\n"
