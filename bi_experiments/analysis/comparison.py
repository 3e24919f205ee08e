"""From the phases of an experiment to its comparison: the metrics, the findings, and one sentence for a reader."""

from collections.abc import Sequence

from bi_experiments.analysis.agreement import compare_arms
from bi_experiments.analysis.design import Design, prompts_differ, two_stages
from bi_experiments.analysis.findings import all_findings
from bi_experiments.analysis.metrics import PRIMARY, compare_phases
from bi_experiments.analysis.pairs import Pair, complete_pairs, log_ratios, total_time_logs
from bi_experiments.analysis.robust import robust_paired, robust_unpaired
from bi_experiments.analysis.trial_costs import trial_costs
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.records import Arm, Comparison, Difference, Metric, PhaseResult, RobustChange
from bi_experiments.wording import band, count, four_digits, signed, unsigned


def compare_experiment(
    phases: Sequence[PhaseResult],
    protocol: ProtocolConfig,
    planned_pairs: int,
    cpu_count: int,
    beside: Sequence[str] = (),
    discarded: PhaseResult | None = None,
) -> Comparison | None:
    """Compare the arms of one experiment; None without one complete pair.

    Args:
        phases: All phases so far, failed ones too.
        protocol: The rules that they were run by.
        planned_pairs: Pairs that were to be run, those added on the way included.
        cpu_count: CPUs that the experiment could use, to judge the load average by.
        beside: Names of the experiments that ran on the same machine at the same time.
        discarded: The uncounted launch before all others; None where there was none.
    """
    pairs = complete_pairs(phases)
    if not pairs:
        return None
    design = Design.of(protocol, pairs)
    metrics = compare_phases(phases, design)
    total_time = next(metric for metric in metrics if metric.name == PRIMARY)
    fresh_prompts = prompts_differ(pairs)
    agreement = compare_arms(phases)
    return Comparison(
        pairs=len(pairs),
        metrics=metrics,
        findings=all_findings(phases, protocol, planned_pairs, cpu_count, beside, discarded),
        sequential=design.first_stage is not None,
        stages=two_stages(pairs, protocol),
        trials=trial_costs(pairs, design),
        robust=_robust(pairs, design) if total_time.withheld is None else None,
        fresh_prompts=fresh_prompts,
        sentence=sentence(
            total_time,
            protocol.equivalence_pct,
            control=pairs[0].second.arm is Arm.CONTROL,
            inject_pct=protocol.inject_pct,
            in_two_stages=design.first_stage is not None,
            fresh_prompts=fresh_prompts,
            launches_per_cache=design.launches_per_cache,
            alike=None if agreement is None else agreement.explained,
        ),
    )


def _robust(pairs: Sequence[Pair], design: Design) -> RobustChange | None:
    baseline, second = (design.units(logs, pairs) for logs in total_time_logs(pairs))
    estimate = robust_paired(log_ratios(baseline, second)) if design.paired else robust_unpaired(baseline, second)
    if estimate is None or estimate.low_pct is None or estimate.high_pct is None:
        return None
    return RobustChange(change_pct=estimate.change_pct, low_pct=estimate.low_pct, high_pct=estimate.high_pct)


def sentence(
    total_time: Metric,
    equivalence_pct: float,
    *,
    control: bool = False,
    inject_pct: float = 0.0,
    in_two_stages: bool = False,
    fresh_prompts: bool = False,
    launches_per_cache: int | None = None,
    alike: bool | None = True,
) -> str:
    """The result in one sentence.

    Args:
        total_time: The metric of that name.
        equivalence_pct: Changes within plus or minus this many per cent count as none.
        control: Whether both arms were baselines.
        inject_pct: Slow-down of the second arm on purpose, in per cent.
        in_two_stages: Whether the number of pairs followed from the spread of the first ones.
        fresh_prompts: Whether every pair had prompts of its own.
        launches_per_cache: Launches of an arm that shared compile caches; None: all of them.
        alike: Whether both arms compute the same, up to rounding: what does not is no saving. None: not looked at.
    """
    change, low, high = total_time.change_pct, total_time.low_pct, total_time.high_pct
    if change is None:
        return f"The change in total time is withheld: {total_time.withheld}."
    pairs = count(total_time.pairs, "pair") + (" in two stages" if in_two_stages else "")
    pairs += ", each with prompts of its own" if fresh_prompts else ""
    if launches_per_cache == 1:
        pairs += ", each launch with compile caches of its own"
    elif launches_per_cache is not None:
        pairs += f", every {launches_per_cache} launches of an arm with compile caches of their own"
    if low is None or high is None:
        what = "whether two baselines differ here" if control else "what batch invariance costs here"
        if inject_pct:
            what = f"whether the {inject_pct:g} % injected into the second arm are found"
        one = "One launch" if total_time.pairs < 2 else "One set of compile caches"
        return (
            f"{one} an arm has no interval: {what} is undecided. Total time was {four_digits(total_time.baseline)}"
            f" s in the baseline and {four_digits(total_time.second)} s in the second arm."
        )
    if inject_pct:
        return (
            f"With {inject_pct:g} % injected into the second arm on purpose, total time differs by {signed(change)} "
            f"{band(low, high)}, {pairs}: a check of the method, not a cost."
        )
    if control:
        return f"Two baselines differ by {signed(change)} in total time here {band(low, high)}, {pairs}."
    match total_time.verdict:
        case Difference.SLOWER:
            result = f"Batch invariance costs {unsigned(change)} total time here [{unsigned(low)}, {unsigned(high)}]"
        case Difference.FASTER if not alike:
            result = (
                f"Total time is {unsigned(change)} lower in batch-invariant mode here [{unsigned(high)}, "
                f"{unsigned(low)}]"
            )
            pairs += (
                "; whether both arms compute the same was not checked"
                if alike is None
                else ", but the arms do not compute the same"
            )
        case Difference.FASTER:
            result = f"Batch invariance saves {unsigned(change)} total time here [{unsigned(high)}, {unsigned(low)}]"
        case Difference.EQUIVALENT:
            result = (
                f"Batch invariance changes total time by less than {equivalence_pct:g} % here: {signed(change)} "
                f"{band(low, high)}"
            )
        case _:
            result = (
                f"What batch invariance costs here is undecided: {signed(change)} total time {band(low, high)} "
                "reaches from a saving to a cost"
            )
    return f"{result}, {pairs}."
