"""One experiment as one HTML file that needs nothing but itself."""

from collections.abc import Sequence

from bi_experiments.records import ExperimentResult
from bi_experiments.report import answer, compositions, method, pages, profiles, tables
from bi_experiments.report.figures.drawing import Drawing, LeftOut
from bi_experiments.report.planning import planning
from bi_experiments.wording import finding_name


def render(result: ExperimentResult, drawn: Sequence[Drawing | LeftOut]) -> str:
    """The page: the answer, what limits it, then figures, tables, method, environment, configuration, command.

    Args:
        result: The record.
        drawn: Its figures, laid out; to be called within `theme.style`.
    """
    comparison, report = result.comparison, result.invariance
    metrics, more_metrics = tables.folded(tables.metrics(result), result)
    return pages.render(
        "experiment.html.j2",
        title=f"{result.name}: batch-invariance benchmark",
        result=result,
        subject=answer.subject(result),
        sentences=answer.sentences(result),
        badges=answer.badges(result),
        problems=answer.problems(result),
        figures=pages.shown(one for one in drawn if isinstance(one, Drawing)),
        left_out=[one for one in drawn if isinstance(one, LeftOut)],
        trial_costs=tables.trial_costs(result),
        trials_note=tables.trials_note(result),
        metrics=metrics,
        more_metrics=more_metrics,
        metrics_note=tables.metrics_note(result),
        withheld=tables.withheld(result),
        invariance=tables.invariance(report) if report else None,
        invariance_note=tables.INVARIANCE_NOTE,
        glossary=compositions.glossary(report) if report else (),
        first_differences=(*tables.first_differences(report), *tables.proof_notes(report, result)) if report else (),
        ledger=tables.ledger(report) if report else None,
        ledger_note=tables.ledger_note(report) if report else None,
        layers=tables.layers(result.location) if result.location and result.location.layers else None,
        layers_note=tables.LAYERS_NOTE,
        profile=profiles.sections(result),
        tokens=tables.tokens(result),
        launches=tables.launches(result.phases),
        clocks=tables.clocks(result.phases),
        findings=[(finding_name(one.kind), one) for one in comparison.findings] if comparison else [],
        nothing_found="No finding limits the result." if comparison else "Nothing was compared.",
        planning=planning(result),
        method=method.method(result),
        engines=tables.engines(result.phases),
        environment=method.environment(result),
        configuration=method.configuration_groups(result),
        footer=method.provenance(result),
    )
