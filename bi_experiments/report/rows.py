"""The rows of a page of several experiments."""

from dataclasses import dataclass

from bi_experiments.records import Metric
from bi_experiments.report.summary import Summary


@dataclass(frozen=True)
class Row:
    """One experiment of the page, finished or not."""

    label: str
    """Readable name."""
    settings: dict[str, str]
    """The swept or different keys alone, with their values as text; the same keys in every row."""
    status: str
    """`done`, `failed`, `cannot run`, `running` or `missing`."""
    reason: str | None
    """One line for everything but `done`."""
    folder: str
    """The experiment's output folder, relative to the page; its `report.html` is linked where there is a result."""
    result: Summary | None
    """`Summary.of` its record; None when it has none."""

    @property
    def cost(self) -> Metric | None:
        """The trial time, where its change is known."""
        metric = self.result.trial_time if self.result else None
        return metric if metric is not None and metric.change_pct is not None else None
