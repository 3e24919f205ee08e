"""What a reader should know before relying on the number, each with what to do about it: the index of the checks.

Every check looks at the phases' records alone and says nothing unless it matters for the result. A trend must be
distinguishable from noise (its 95 % interval excludes zero) and large (over the equivalence band) to be reported.
"""

from collections.abc import Sequence

from bi_experiments.analysis.findings.busy_machine import busy_machine, shared
from bi_experiments.analysis.findings.clocks import clock_findings
from bi_experiments.analysis.findings.cpu_time import cpu_time
from bi_experiments.analysis.findings.drift import drift_over_launches, drift_within_launches
from bi_experiments.analysis.findings.engine import engine
from bi_experiments.analysis.findings.inside import inside_trials
from bi_experiments.analysis.findings.interval import incomplete, single_launch, stages
from bi_experiments.analysis.findings.order import caches, interrupted, order
from bi_experiments.analysis.findings.outlying import outlying
from bi_experiments.analysis.findings.profiling import profiling
from bi_experiments.analysis.findings.size import batch_size
from bi_experiments.analysis.findings.untuned import untuned
from bi_experiments.analysis.findings.warm_up import warm_up
from bi_experiments.analysis.findings.work import injected, needle, token_counts
from bi_experiments.analysis.pairs import complete_pairs
from bi_experiments.config.schema import ProtocolConfig
from bi_experiments.records import Finding, PhaseResult


def all_findings(
    phases: Sequence[PhaseResult],
    protocol: ProtocolConfig,
    planned_pairs: int,
    cpu_count: int,
    beside: Sequence[str] = (),
    discarded: PhaseResult | None = None,
) -> tuple[Finding, ...]:
    """Everything that limits what the comparison means, the most severe first.

    Args:
        phases: All phases of the experiment, failed ones too.
        protocol: The rules that they were run by.
        planned_pairs: Pairs that were to be run.
        cpu_count: CPUs that the experiment could use.
        beside: Names of the experiments that ran on the same machine at the same time.
        discarded: The uncounted launch before all others; None where there was none.
    """
    pairs = complete_pairs(phases)
    if not pairs:
        return ()
    ran = phases if discarded is None else (discarded, *phases)
    checks = (
        injected(protocol),
        needle(pairs),
        token_counts(pairs),
        engine(pairs),
        untuned(pairs),
        inside_trials(pairs, protocol),
        incomplete(phases, pairs, planned_pairs, protocol),
        single_launch(pairs, planned_pairs),
        stages(pairs, planned_pairs, protocol),
        order(pairs, protocol),
        caches(pairs, protocol),
        batch_size(pairs, protocol),
        warm_up(pairs, protocol),
        outlying(pairs, protocol),
        drift_within_launches(pairs, protocol),
        drift_over_launches(pairs, protocol),
        clock_findings(pairs, protocol),
        cpu_time(pairs),
        interrupted(pairs, protocol),
        profiling(pairs),
        shared(beside),
        () if beside else busy_machine(ran, protocol, cpu_count),
    )
    return tuple(finding for check in checks for finding in check)
