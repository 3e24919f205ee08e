"""The tables that the terminal, the HTML page and the markdown share, cell by cell as text."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from msgspec import structs

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.engines import engine_differences
from bi_experiments.analysis.evidence import gather
from bi_experiments.analysis.findings.clocks import throttled_share
from bi_experiments.analysis.ledger import NEEDED_PCT, beside, in_words, needed, source
from bi_experiments.analysis.metrics import PRIMARY, RECIPROCALS, UNEQUAL_TOKENS, summarise
from bi_experiments.analysis.pairs import complete_pairs, second_arm
from bi_experiments.analysis.verdict_sentences import place
from bi_experiments.config.plain import as_text, setting
from bi_experiments.machine.clocks import REASONS
from bi_experiments.records import (
    DECODE_AGAINST_PREFILL,
    Arm,
    ArmAgreement,
    CompositionCount,
    ExperimentResult,
    Invariance,
    InvarianceReport,
    LedgerRow,
    Location,
    Metric,
    ModuleDifference,
    PhaseResult,
    TrialCost,
)
from bi_experiments.report.compositions import not_made
from bi_experiments.report.estimator import interval, not_in_it
from bi_experiments.wording import (
    LABELS,
    band,
    change_text,
    four_digits,
    invariance_word,
    metric_name,
    one_decimal,
    shown_in,
    signed,
    verdict_word,
)
from bi_experiments.wording import count as count_of


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of a row is the row's name."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})
    """Indices of the columns that are left-aligned; the others hold numbers."""


def in_order(arms: Sequence[Arm] | Mapping[Arm, object]) -> tuple[Arm, ...]:
    """The arms, the baseline first."""
    return tuple(sorted(set(arms), key=lambda arm: (arm is not Arm.BASELINE, arm)))


# --- What was found -------------------------------------------------------------------------------------------------


FIRST_METRICS = (
    PRIMARY,
    "throughput",
    "time_to_first_token_p50",
    "time_per_output_token_p50",
    "decode_step",
    "end_to_end_latency_p50",
    "energy_per_token",
    "peak_memory",
)
"""What is shown before all else, and without unfolding anything."""


def metrics_in_order(result: ExperimentResult) -> tuple[Metric, ...]:
    """All metrics, those of `FIRST_METRICS` first."""
    found = result.comparison.metrics if result.comparison else ()
    places = {name: place for place, name in enumerate(FIRST_METRICS)}
    return tuple(sorted(found, key=lambda metric: places.get(metric.name, len(places))))


def metrics(result: ExperimentResult) -> Table:
    """Every metric in both arms, its change, interval and verdict; the first ones are those of `FIRST_METRICS`."""
    return Table(
        header=("Metric", *_short_labels(result), "change %", "95 % interval", "n", "verdict"),
        rows=tuple(_metric_row(metric) for metric in metrics_in_order(result)),
        left=frozenset({0, 6}),
    )


def _short_labels(result: ExperimentResult) -> tuple[str, str]:
    arm = second_arm(result.phases)
    return "baseline", "invariant" if arm is Arm.BATCH_INVARIANT else LABELS[arm]


def folded(table: Table, result: ExperimentResult) -> tuple[Table, Table | None]:
    """The metrics' table cut after those of `FIRST_METRICS`; None where that is all."""
    first = sum(metric.name in FIRST_METRICS for metric in metrics_in_order(result))
    rest = table.rows[first:]
    return replace(table, rows=table.rows[:first]), replace(table, rows=rest) if rest else None


def metrics_note(result: ExperimentResult) -> str:
    """What the values, their change and its interval are; n is that of the table's column."""
    values = "Both values are geometric means over the launches, and the change is their ratio."
    if not all(_is_ratio(metric) for metric in metrics_in_order(result)):  # a record of an earlier release
        values = "Values: means over the launches. Change: exp(difference of the mean logs) - 1."
    design = Design.recorded(result)
    pairs = result.comparison.pairs if result.comparison else 0
    primary = "The total time is what the experiment is about"
    if any(metric.adjusted_p_value is not None for metric in metrics_in_order(result) if metric.name in RECIPROCALS):
        design = design._replace(first_stage=None)  # an earlier release took these for quantities of their own
    else:
        primary += ", and throughput and prompts a second are the same inverted where the arms generated as many tokens"
    return f"{values} 95 % intervals: {interval(design, pairs)}.{not_in_it(design, pairs)} {primary}{_METRICS_NOTE}"


def _is_ratio(metric: Metric) -> bool:
    if metric.change_pct is None or not metric.baseline:
        return True
    return math.isclose(metric.second / metric.baseline, 1 + metric.change_pct / 100, rel_tol=1e-6)


_METRICS_NOTE = (
    "; of the others, the verdict is slower, faster, more or less only where Holm's procedure over all of them lets it."
    " TTFT: time to first token; TPOT: (E2E - TTFT) / (output tokens - 1); E2E: end to end, each over the requests; "
    "ITL: median step while every sequence decodes, which is what each of them waits for its next token."
)


def trial_costs(result: ExperimentResult) -> Table:
    """The cost of every trial with its size; trials are numbered from 1."""
    costs = result.comparison.trials if result.comparison else ()
    return Table(
        header=(
            "Trial",
            "prompts",
            "prompt tokens",
            "generated",
            *(f"{label} [s]" for label in _short_labels(result)),
            "change %",
            "95 % interval",
        ),
        rows=tuple(
            (
                str(cost.index + 1),
                one_decimal(cost.batch_size),
                one_decimal(cost.prompt_tokens),
                _generated(result, cost),
                four_digits(cost.baseline_s),
                four_digits(cost.second_s),
                "withheld" if cost.change_pct is None else change_text(cost.change_pct),
                _interval(cost.low_pct, cost.high_pct),
            )
            for cost in costs
        ),
        left=frozenset({0}),
    )


def _generated(result: ExperimentResult, cost: TrialCost) -> str:
    """The generated tokens of a trial; of both arms where they are not as many."""
    second = [
        trial.output_tokens
        for pair in complete_pairs(result.phases)
        for trial in pair.second.trials
        if trial.index == cost.index
    ]
    counts = [one_decimal(cost.output_tokens), *([one_decimal(fmean(second))] if second else [])]
    return " / ".join(dict.fromkeys(counts))


EACH_ALONE = "Each trial's interval stands alone: they do not all hold at once."


def trials_note(result: ExperimentResult) -> str:
    """What the changes of the trials are about, and what their intervals are; empty without a complete pair."""
    comparison = result.comparison
    if comparison is None or not comparison.trials:
        return ""
    fresh = comparison.fresh_prompts or bool(setting(result.configuration, "workload.fresh_prompts"))
    if len(complete_pairs(result.phases)) == 1:
        further = "other prompts (workload.fresh_prompts)" if fresh else "the same prompts"
        return f"One launch of each arm, so that no trial has an interval; a further pair would have {further}."
    if all(cost.change_pct is None for cost in comparison.trials):
        return "Geometric means over the launches."
    intervals = any(cost.low_pct is not None for cost in comparison.trials)
    what = "intervals" if intervals else "changes"
    about = (
        f"other prompts in every pair (workload.fresh_prompts), so that the {what} are about such workloads; a trial's "
        "prompts and tokens are means over the pairs"
        if fresh
        else f"the same prompts in every pair, so that the {what} are about these prompts; with "
        "workload.fresh_prompts=true they are about all like them"
    )
    said = [f"Geometric means over the launches; {about}."]
    if intervals:
        said.append(EACH_ALONE)
    if comparison.robust is not None:
        robust = comparison.robust
        said.append(
            f"Change of total time by Hodges and Lehmann, which a few wild launches do not move: "
            f"{signed(robust.change_pct)} {band(robust.low_pct, robust.high_pct)}."
        )
    return " ".join(said)


def withheld(result: ExperimentResult) -> tuple[str, ...]:
    """Why a change is withheld, one sentence a reason; and what can be read where the arms did unequal work."""
    metrics = result.comparison.metrics if result.comparison else ()
    reasons = dict.fromkeys(metric.withheld for metric in metrics if metric.withheld is not None)
    named = {
        reason: ", ".join(metric_name(one.name) for one in metrics if one.withheld == reason) for reason in reasons
    }
    said = [f"Change of {names} withheld: {reason}." for reason, names in named.items()]
    if any(metric.name == PRIMARY and metric.withheld == UNEQUAL_TOKENS for metric in metrics):
        said.append(
            "Throughput is per token generated, and so stands for unequal numbers of tokens too, but longer outputs "
            "are not the same work; request time per token compares the requests one by one."
        )
    return tuple(said)


def _metric_row(metric: Metric) -> tuple[str, ...]:
    unit, scale = shown_in(metric)
    return (
        f"{metric_name(metric.name)} [{unit}]",
        four_digits(scale * metric.baseline),
        four_digits(scale * metric.second),
        "-" if metric.change_pct is None else change_text(metric.change_pct),
        _interval(metric.low_pct, metric.high_pct),
        str(metric.pairs),
        verdict_word(metric),
    )


def _interval(low_pct: float | None, high_pct: float | None) -> str:
    return "-" if low_pct is None or high_pct is None else f"{change_text(low_pct)} .. {change_text(high_pct)}"


def invariance(report: InvarianceReport) -> Table:
    """Outputs that differ in each composition; three columns an arm: how many, in tokens, by how much at most."""
    arms = [verdict.arm for verdict in report.arms] or list(report.needle_total)
    counts = {(count.composition, count.arm): count for count in report.compositions}
    judged = any(count.verdict is not None for count in report.compositions)
    rows = [
        (
            composition,
            *(cell for arm in arms for cell in _count_cells(counts.get((composition, arm)))),
            *([_composition_word(counts.get((composition, Arm.BATCH_INVARIANT)))] if judged else []),
        )
        for composition in dict.fromkeys(count.composition for count in report.compositions)
    ]
    empty = [""] if judged else []
    needles = (f"{report.needle_differing.get(arm, 0)}/{report.needle_total.get(arm, 0)}" for arm in arms)
    rows.append(("needle in the trials", *(cell for needle in needles for cell in (needle, "", "")), *empty))
    launches = max((verdict.launches_compared for verdict in report.arms), default=0)
    if launches > 1:
        between = (cell for verdict in report.arms for cell in (str(verdict.launches_differing), "", ""))
        rows.append((f"between {launches} launches", *between, *empty))
    header = ("Outputs that differ", *(cell for arm in arms for cell in (LABELS[arm], "tokens", "|d logprob|")))
    if not judged:
        return Table(header, tuple(rows))
    return Table((*header, "verdict"), tuple(rows), frozenset({0, len(header)}))


def _composition_word(count: CompositionCount | None) -> str:
    """The verdict on one composition, with what is wrong where it is not the batch."""
    if count is None:
        return "not probed"
    if count.verdict is None and count.composition == DECODE_AGAINST_PREFILL:
        return "other bits" if count.differing else "same bits"
    if count.verdict is None:
        return "control"
    return f"violated: {count.fault}" if count.fault is not None else invariance_word(count.verdict)


LEDGER_ROWS = 12
"""Classes of steps that are shown one by one, the largest; others only where they count for the verdict or violate."""


def ledger(report: InvarianceReport) -> Table | None:
    """The workload's steps by class, and what was probed in each; None in a record that does not hold them."""
    if not report.ledger:
        return None
    counting = needed(report.ledger)
    shown = [
        row
        for place, row in enumerate(report.ledger)
        if place < LEDGER_ROWS or row in counting or row.verdict is Invariance.VIOLATED
    ]
    rest = [row for row in report.ledger if row not in shown]
    rows = [
        (
            in_words(row),
            f"{row.workload_pct:.1f}",
            f"{row.probe_tokens:,}",
            _control(row),
            invariance_word(row.verdict),
        )
        for row in shown
    ]
    if rest:
        share, probed = sum(row.workload_pct for row in rest), sum(row.probe_tokens for row in rest)
        verdicts = Counter(invariance_word(row.verdict) for row in rest)
        said = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common())
        rows.append((count_of(len(rest), "smaller class"), f"{share:.1f}", f"{probed:,}", "", said))
    header = ("Steps that output tokens come from", "workload %", "probe tokens", "baseline changed", "verdict")
    return Table(header, tuple(rows), left=frozenset({0, 4}))


def _control(row: LedgerRow) -> str:
    """How many of the baseline's output tokens changed in a class, of those compared."""
    if row.control_of == 0 and row.control_behind:
        return "none comparable"
    if row.control_in_doubt and not row.control_tokens:
        return "in doubt"
    if row.control_tokens is None:
        return "not counted"
    return " of ".join(f"{tokens:,}" for tokens in (row.control_tokens, row.control_of) if tokens is not None)


def ledger_note(report: InvarianceReport) -> str:
    """What the ledger rests on, and how it is read."""
    doubt = "; in doubt: it differs from itself there too" if any(row.control_in_doubt for row in report.ledger) else ""
    aside = " A class that is said next to the verdict to have no control does not." if beside(report.ledger) else ""
    return (
        f"Steps by {source(report.ruled_pct, report.greedy_tokens)}. probe tokens: output tokens compared there, in "
        "one launch; baseline changed: those that changed with the batch without the mode, of those compared in the "
        "same compositions: the control of the class (none comparable: all had changed to other tokens before, behind "
        f"which the context is another{doubt}). A class with {NEEDED_PCT:g} % of the workload's output tokens or more "
        f"counts for the verdict; one of prefill, with {NEEDED_PCT:g} % of its prompts.{aside}"
    )


def proof_notes(report: InvarianceReport, result: ExperimentResult) -> tuple[str, ...]:
    """What was left out of the proof and why, and whether both arms compute the same, a sentence each."""
    said = list(not_made(report, result))
    baseline = gather(result.phases).get(Arm.BASELINE)
    if baseline is not None and baseline.left_out and not baseline.census:
        _, sampled = baseline.sampled
        were = "was" if sampled == 1 else "were"
        drawn = f"{sampled} of the {sampled + baseline.left_out} prompts drawn from the workload"
        said.append(f"In the baseline {drawn} {were} compared before time ran out.")
    if report.agreement is not None:
        said.append(arms_apart(report.agreement))
    return tuple(said)


def arms_apart(agreement: ArmAgreement) -> str:
    """How far the same probes alone are apart in the two arms."""
    explained = "" if agreement.explained else " Rounding does not explain that: the arms do not compute the same."
    return (
        f"The same probes alone in both arms: {agreement.tokens_equal_pct:.0f} % of their tokens come before the first "
        f"that differs. Over the {count_of(agreement.tokens, 'token')} up to there: largest |delta logprob| "
        f"{four_digits(agreement.largest_logprob_difference)}, KL divergence over the returned tokens and the rest "
        f"{four_digits(agreement.kl_mean)} nats a token (largest {four_digits(agreement.kl_largest)}, a lower bound: "
        f"the rest counts as one token); the baseline against itself in other batches "
        f"{four_digits(agreement.between_batches)}.{explained}"
    )


INVARIANCE_NOTE = "tokens: those of them that differ in a token id; the others differ in logprob bits alone."


def first_differences(report: InvarianceReport) -> tuple[str, ...]:
    """Where an arm other than the baseline first differed, one sentence an arm."""
    return tuple(
        f"First difference with batch invariance: probe {verdict.first.probe + 1} at position "
        f"{verdict.first.position + 1} of batch {verdict.first.batch + 1} of {verdict.first.composition}"
        f"{'' if verdict.first.first_difference is None else f', from {place(verdict.first)} on'}."
        for verdict in report.arms
        if verdict.first is not None and verdict.arm is not Arm.BASELINE
    )


def layers(location: Location) -> Table:
    """Every module that computed in the first step that differs, in the order of execution."""
    several = len({one.rank for one in location.layers}) > 1
    rows = [
        (
            f"{one.module} (rank {one.rank})" if several else one.module,
            one.kind,
            "equal" if one.inputs_equal else "differ",
            f"{one.differing}/{one.elements}",
            four_digits(one.largest_difference) if one.differing else "",
        )
        for one in modules(location)
    ]
    header = ("Module", "operator", "inputs", "elements that differ", "largest |d|")
    return Table(header, tuple(rows), frozenset({0, 1, 2}))


def modules(location: Location) -> tuple[ModuleDifference, ...]:
    """The operators among the layers: without what only calls them, unless it is the first that differs."""
    return tuple(one for one in location.layers if one.kind != "code between modules" or one == location.first)


LAYERS_NOTE = (
    "The probe's own rows in the batch against the same rows alone, in the first step that differs, in the order of "
    "execution."
)


def _count_cells(count: CompositionCount | None) -> tuple[str, str, str]:
    if count is None:
        return "-", "", ""
    return (
        f"{count.differing}/{count.total}",
        str(count.tokens_differing),
        four_digits(count.largest_logprob_difference),
    )


# --- What was run ---------------------------------------------------------------------------------------------------


def tokens(result: ExperimentResult) -> Table:
    """The measured size of the trials, in every launch or, where pairs have prompts of their own, in the first pair."""
    where = "one launch"
    if setting(result.configuration, "workload.fresh_prompts"):
        where = next((f"pair {phase.pair + 1}" for phase in result.phases if phase.trials), where)
    return Table(
        header=(f"Measured, {where}", "prompts", "prompt tokens", "in a trial", "generated tokens"),
        rows=tuple(
            (
                LABELS[arm],
                f"{size.prompts:,}",
                f"{size.prompt_tokens:,}",
                f"{size.prompt_tokens_min:,} .. {size.prompt_tokens_max:,}",
                f"{size.output_tokens:,}",
            )
            for arm, size in result.tokens.items()
        ),
    )


def launches(phases: Sequence[PhaseResult]) -> Table:
    """Every phase in launch order."""
    return Table(
        header=(
            "Phase",
            "pair",
            "arm",
            "init [s]",
            "mean trial [s]",
            "min .. max [s]",
            "tokens/s",
            "needle",
            "load before",
            "status",
        ),
        rows=tuple(_launch_row(phase) for phase in phases),
        left=frozenset({0, 2, 9}),
    )


def _launch_row(phase: PhaseResult) -> tuple[str, ...]:
    head = (str(phase.index + 1), str(phase.pair + 1), LABELS[phase.arm])
    init = "-" if phase.init_time_s is None else f"{phase.init_time_s:.2f}"
    tail = (f"{phase.load_average:.2f}", phase.status.replace("_", " "))
    if not phase.trials or phase.init_time_s is None:
        return (*head, init, "-", "-", "-", "-", *tail)
    summary = summarise(phase)
    same = sum(trial.needle.equal for trial in phase.trials)
    return (
        *head,
        init,
        f"{summary.avg_time_s:.3f}",
        f"{summary.min_time_s:.3f} .. {summary.max_time_s:.3f}",
        f"{summary.throughput:,.1f}",
        f"{same}/{len(phase.trials)} same",
        *tail,
    )


def clocks(phases: Sequence[PhaseResult]) -> Table | None:
    """The devices' clocks, temperature and power by phase, means over its trials; None where NVML was not read.

    What throttled a device comes with its share of the trial time; what never did is left out.
    """
    keys = [(phase, device) for phase in phases for device in sorted({one.device for one in phase.clocks})]
    if not keys:
        return None
    return Table(
        header=(
            "Phase",
            "arm",
            "device",
            "SM clock [MHz]",
            "temperature [°C]",
            "power [W]",
            "throttled by",
        ),
        rows=tuple(_clock_row(phase, device) for phase, device in keys),
        left=frozenset({0, 1, 6}),
    )


def _clock_row(phase: PhaseResult, device: int) -> tuple[str, ...]:
    readings = [one for one in phase.clocks if one.device == device]
    own = structs.replace(phase, clocks=tuple(readings))
    shares = {reason: 100 * throttled_share(own, reason) for reason in REASONS} if phase.trials else {}
    return (
        str(phase.index + 1),
        LABELS[phase.arm],
        str(device),
        _mean([one.sm_clock_mhz for one in readings]),
        _mean([one.temperature_c for one in readings]),
        _mean([one.power_w for one in readings]),
        ", ".join(
            f"{reason} {'<1' if share < 1 else f'{share:.0f}'} % of the time"
            for reason, share in shares.items()
            if share
        )
        or "-",
    )


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):,.0f}" if known else "-"


def engines(phases: Sequence[PhaseResult]) -> Table | None:
    """What vLLM reports that it ran with, one column an arm, and what differs; None when no engine was built."""
    observed = {phase.arm: phase.observed for phase in reversed(phases) if phase.observed is not None}
    arms = in_order(observed)
    if not arms:
        return None
    different = {difference.field for difference in engine_differences(complete_pairs(phases))}
    return Table(
        header=("Observed in the engine", *(LABELS[arm] for arm in arms), ""),
        rows=tuple(
            (
                field.replace("_", " "),
                *(as_text(getattr(observed[arm], field)) for arm in arms),
                "differs" if field in different else "",
            )
            for field in type(observed[arms[0]]).__struct_fields__
        ),
        left=frozenset(range(len(arms) + 2)),
    )
