"""How a located difference grows through the layers of the model."""

from bi_experiments.records import ExperimentResult
from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing
from bi_experiments.report.tables import modules


def location(result: ExperimentResult) -> tuple[Drawing, ...]:
    """The largest difference of every module from the first that differs on; nothing where none was located."""
    found = result.location
    if found is None or found.first is None:
        return ()
    of_rank = [one for one in modules(found) if one.rank == found.first.rank]
    shown = of_rank[of_rank.index(found.first) :]
    figure = theme.new_figure(theme.NARROW, 2.6)
    axes = figure.subplots()
    numbers = [number for number, one in enumerate(shown) if one.differing]
    axes.plot(numbers, [shown[number].largest_difference for number in numbers], "o-", color=theme.OTHER, markersize=3)
    axes.plot([0], [found.first.largest_difference], "s", color=theme.OTHER)
    if all(shown[number].largest_difference > 0 for number in numbers):
        theme.logarithmic(axes, "y")
    axes.set_xlim(-0.5, max(len(shown) - 0.5, 1))
    axes.set_xlabel("modules from the first that differs on, as they run")
    axes.set_ylabel("largest |difference|")
    theme.read_along(axes, "y")
    title = "How the difference grows through the layers"
    theme.head(figure, title)
    last = shown[numbers[-1]]
    return (
        Drawing(
            name="location",
            title=title,
            description=(
                f"Largest difference of the probe's rows: {found.first.largest_difference:.3g} in "
                f"{found.first.module}, the first that differs, {last.largest_difference:.3g} in {last.module}."
            ),
            caption=f"Square: the first operator that differs, {found.first.module}. Each point: a module, the probe's "
            "own rows alone.",
            figure=figure,
        ),
    )
