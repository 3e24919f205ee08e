"""From the phases of an experiment to its comparison: the metrics, the findings, and one sentence for a reader."""

import math
from collections.abc import Sequence
from statistics import fmean, variance

from bi_experiments.analysis.agreement import compare_arms
from bi_experiments.analysis.estimates import CONFIDENCE, per_cent
from bi_experiments.analysis.findings import all_findings
from bi_experiments.analysis.metrics import compare_phases
from bi_experiments.analysis.pairs import Pair, complete_pairs, trial_times
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.records import Arm, Comparison, Difference, Metric, PhaseResult
from bi_experiments.wording import band, count, signed, unsigned


def compare_experiment(
    phases: Sequence[PhaseResult],
    protocol: ProtocolConfig,
    planned_pairs: int,
    cpu_count: int,
    beside: Sequence[str] = (),
) -> Comparison | None:
    """Compare the arms of one experiment; None without one complete pair.

    Args:
        phases: All phases so far, failed ones too.
        protocol: The rules that they were run by.
        planned_pairs: Pairs that were to be run, those added on the way included.
        cpu_count: CPUs that the experiment could use, to judge the load average by.
        beside: Names of the experiments that ran on the same machine meanwhile.
    """
    pairs = complete_pairs(phases)
    metrics = compare_phases(phases, protocol.equivalence_pct)
    trial_time = next((metric for metric in metrics if metric.name == "trial_time"), None)
    if trial_time is None:
        return None
    sequential = protocol.target_half_width_pct is not None
    floor = noise_floor_pct(pairs)
    agreement = compare_arms(phases)
    return Comparison(
        pairs=len(pairs),
        metrics=metrics,
        findings=all_findings(phases, protocol, planned_pairs, cpu_count, beside),
        sequential=sequential,
        noise_floor_pct=floor,
        sentence=sentence(
            trial_time,
            protocol.equivalence_pct,
            control=pairs[0].second.arm is Arm.CONTROL,
            sequential=sequential,
            noise_floor_pct=floor,
            alike=agreement is None or agreement.explained,
        ),
    )


def sentence(
    trial_time: Metric,
    equivalence_pct: float,
    *,
    control: bool = False,
    sequential: bool = False,
    noise_floor_pct: float | None = None,
    alike: bool = True,
) -> str:
    """The result in one sentence.

    Args:
        trial_time: the metric of that name.
        equivalence_pct: changes within plus or minus this many per cent count as none.
        control: whether both arms were baselines.
        sequential: whether pairs were added until the interval was narrow enough.
        noise_floor_pct: what two like arms may differ by here; None with one pair.
        alike: whether both arms compute the same, up to rounding: what does not is no saving.
    """
    change, low, high = trial_time.change_pct, trial_time.low_pct, trial_time.high_pct
    if change is None:
        return f"The change in trial time is withheld: {trial_time.withheld}."
    pairs = count(trial_time.pairs, "pair") + (", sequential" if sequential else "")
    floor = "" if noise_floor_pct is None else f"; noise floor ±{unsigned(noise_floor_pct)}"
    if low is None or high is None:
        what = "Two baselines differ by" if control else "Batch invariance changed trial time by"
        return f"{what} {signed(change)} here: one launch an arm, no interval{floor}."
    if control:
        return f"Two baselines differ by {signed(change)} {band(low, high)}, {pairs}: that is the noise floor here."
    match trial_time.verdict:
        case Difference.SLOWER:
            result = f"Batch invariance costs {unsigned(change)} trial time here [{unsigned(low)}, {unsigned(high)}]"
        case Difference.FASTER if not alike:
            result = (
                f"Trial time is {unsigned(change)} lower in batch-invariant mode here [{unsigned(high)}, "
                f"{unsigned(low)}], but the arms do not compute the same"
            )
        case Difference.FASTER:
            result = f"Batch invariance saves {unsigned(change)} trial time here [{unsigned(high)}, {unsigned(low)}]"
        case Difference.EQUIVALENT:
            result = (
                f"Batch invariance makes no difference to trial time here: {signed(change)} {band(low, high)} "
                f"is within ±{equivalence_pct:g} %"
            )
        case Difference.INCONCLUSIVE:
            result = (
                f"What batch invariance costs here is undecided: {signed(change)} trial time {band(low, high)} "
                "reaches from a saving to a cost"
            )
    return f"{result}, {pairs}{floor}."


def noise_floor_pct(pairs: Sequence[Pair]) -> float | None:
    """By how much the trial times of two identical arms may differ, in per cent: the margin of an A/A with these pairs.

    From the spread of each arm's own launches: with L the mean ln t of a launch, s their standard deviation about the
    mean of their arm (pooled, 2 (B-1) degrees of freedom), it is exp(t(0.975) s sqrt(2 / B)) - 1. Taking turns removes
    from a pair what both its launches share, so that its interval may be narrower than this. None with one pair.
    """
    if len(pairs) < 2:
        return None
    from scipy.stats import t  # slow to import: only when something is estimated

    arms = [pair.baseline for pair in pairs], [pair.second for pair in pairs]
    variances = [variance(fmean(map(math.log, trial_times(phase))) for phase in arm) for arm in arms]
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, 2 * (len(pairs) - 1)))
    return per_cent(quantile * math.sqrt(fmean(variances) * 2 / len(pairs)))
