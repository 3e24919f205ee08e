"""Where the time of the profiled trials goes, by class."""

from bi_experiments.analysis.operation_classes import OperationClass
from bi_experiments.analysis.profiles import ClassTime, profiled, seconds
from bi_experiments.records import ExperimentResult
from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing
from bi_experiments.wording import LABELS


def profile(result: ExperimentResult) -> tuple[Drawing, ...]:
    """A bar for each class and arm, with the difference next to them; nothing without a profile of both arms."""
    comparison = profiled(result)
    if comparison is None:
        return ()
    classes = [one for one in comparison.differences() if one[0] is not OperationClass.PROFILER]
    figure = theme.new_figure(theme.WIDE, 0.9 + 0.42 * len(classes))
    axes = figure.subplots()
    nothing = ClassTime(0.0, 0.0, 0.0)
    for offset, arm in ((-0.2, comparison.baseline), (0.2, comparison.second)):
        style = theme.arm_style(arm.arm)
        axes.barh(
            [number + offset for number in range(len(classes))],
            [arm.classes.get(kind, nothing).total_s for kind, _ in classes],
            height=0.38,
            color=style.colour,
            hatch=style.hatch,
            label=LABELS[arm.arm],
        )
    longest = 0.0
    for number, (kind, difference) in enumerate(classes):
        arms = (comparison.baseline, comparison.second)
        end = max(arm.classes.get(kind, nothing).total_s for arm in arms)
        longest = max(longest, end)
        axes.annotate(f"{seconds(difference)} s", (end, number), (5, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.15 * longest)
    axes.set_yticks(range(len(classes)), [kind.value for kind, _ in classes])
    axes.invert_yaxis()
    axes.set_xlabel("time in the profiled trial [s]")
    theme.read_along(axes, "x")
    title = f"Where the time goes: {seconds(comparison.difference_s)} s"
    theme.head(figure, title)
    named = ", ".join(f"{kind} {seconds(difference)} s" for kind, difference in classes)
    return (
        Drawing(
            name="profile",
            title=title,
            description=f"Differences of the second arm from the baseline by class: {named}.",
            caption="One more run of a trial in each arm, observed by a profiler and counted nowhere; next to the bars "
            "the difference of the second arm.",
            figure=figure,
            shape="wide",
        ),
    )
