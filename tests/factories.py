"""Valid records for tests, from as little as a test wants to say. Everything can be overridden by field name."""

from collections.abc import Sequence
from functools import cache

from msgspec.structs import replace

from bi_experiments.analysis.comparison import compare_experiment
from bi_experiments.config.compose import compose
from bi_experiments.config.plain import recorded_configuration
from bi_experiments.config.schema import Caches, ExperimentConfig, Interleave, Order, ProtocolConfig
from bi_experiments.records import (
    Arm,
    ArmAgreement,
    ArmVerdict,
    Comparison,
    CompositionCount,
    Device,
    Difference,
    Environment,
    ExperimentResult,
    Invariance,
    InvarianceReport,
    Latencies,
    LedgerRow,
    Metric,
    NeedleCheck,
    ObservedEngine,
    PhaseResult,
    PhaseStatus,
    ProbeResult,
    Reproducibility,
    StepKind,
    TokenCounts,
    Trial,
)

TRIAL_TIMES_S = (2.0, 3.0, 2.5, 3.5)
PHASE_S = 60.0
START = 1_700_000_000.0


def trial(index: int = 0, time_s: float = 2.0, **changes: object) -> Trial:
    """A trial of eight prompts with 64 prompt and 16 output tokens each; its CPU time is that of two busy cores."""
    record = Trial(
        index=index,
        time_s=time_s,
        batch_size=8,
        started_at=START + 20.0 + 5.0 * index,
        cpu_time_s=2 * time_s,
        prompt_tokens=8 * 64,
        output_tokens=8 * 16,
        needle=NeedleCheck(equal=True),
    )
    return replace(record, **changes)


def latencies(time_s: float, requests: int = 8) -> Latencies:
    """Request timings of a trial of that length: the first token after a tenth of it, the last at its end."""
    return Latencies(
        time_to_first_token_s=tuple(0.1 * time_s * (1 + 0.01 * request) for request in range(requests)),
        time_per_output_token_s=(0.9 * time_s / 15,) * requests,
        end_to_end_s=(time_s,) * requests,
    )


def observed(**changes: object) -> ObservedEngine:
    """What a small engine on two CPU cores says of itself."""
    record = ObservedEngine(
        batch_invariant=False,
        attention_backend="CPU_ATTN",
        compilation_mode="NONE",
        cudagraph_mode="NONE",
        enforce_eager=True,
        dtype="bfloat16",
        device="cpu",
        kv_cache_tokens=8192,
        block_size=128,
        max_num_batched_tokens=512,
        max_num_seqs=16,
        async_scheduling=False,
        threads=2,
    )
    return replace(record, **changes)


def phase(
    arm: Arm = Arm.BASELINE,
    pair: int = 0,
    index: int | None = None,
    times_s: Sequence[float] = TRIAL_TIMES_S,
    **changes: object,
) -> PhaseResult:
    """A phase that ended well, one trial for each of the times; by default the baseline is the first of its pair."""
    position = 2 * pair + (arm is not Arm.BASELINE) if index is None else index
    started_at = START + PHASE_S * position
    record = PhaseResult(
        index=position,
        pair=pair,
        arm=arm,
        launch=pair,
        status=PhaseStatus.OK,
        started_at=started_at,
        wall_time_s=PHASE_S,
        versions={"python": "3.11.9", "vllm": "0.32.0", "torch": "2.13.0"},
        import_time_s=3.0,
        init_time_s=12.0 if pair == 0 else 8.0,
        warmup_time_s=4.0,
        observed=observed(batch_invariant=arm.batch_invariant),
        needle_token_ids=(11, 12, 13),
        trials=tuple(
            trial(k, time_s, started_at=started_at + 20.0 + 5.0 * k, latencies=latencies(time_s))
            for k, time_s in enumerate(times_s)
        ),
        probe_time_s=0.0,
        peak_memory_bytes=2 * 2**30,
        load_average=0.2,
    )
    return replace(record, **changes)


def phases(
    costs_pct: Sequence[float] = (7.0, 7.5, 8.0),
    times_s: Sequence[float] = TRIAL_TIMES_S,
    second: Arm = Arm.BATCH_INVARIANT,
) -> tuple[PhaseResult, ...]:
    """The phases of an experiment with one pair for each cost, in which every trial costs exactly that much more.

    The baseline is first in even pairs and second in odd ones.
    """
    result: list[PhaseResult] = []
    for pair, cost_pct in enumerate(costs_pct):
        slower_s = [time_s * (1 + cost_pct / 100) for time_s in times_s]
        baseline = phase(Arm.BASELINE, pair, 2 * pair + pair % 2, times_s)
        other = phase(second, pair, 2 * pair + 1 - pair % 2, slower_s)
        result += sorted((baseline, other), key=lambda one: one.index)
    return tuple(result)


def with_trial(one: PhaseResult, index: int, **changes: object) -> PhaseResult:
    """The phase with one of its trials changed."""
    trials = list(one.trials)
    trials[index] = replace(trials[index], **changes)
    return replace(one, trials=tuple(trials))


def protocol(**changes: object) -> ProtocolConfig:
    """`protocol=standard`."""
    config = ProtocolConfig(
        pairs=3,
        control=False,
        order=Order.balanced,
        seed=0,
        discard_first=False,
        inject_pct=0.0,
        warmup=1,
        caches=Caches.private,
        launches_per_cache=1,
        interleave=Interleave.launch,
        equivalence_pct=1.0,
        target_half_width_pct=None,
        max_pairs=None,
        time_budget_min=None,
    )
    for name, value in changes.items():
        assert hasattr(config, name), name
        setattr(config, name, value)
    return config


def environment(**changes: object) -> Environment:
    """A machine with two CPU cores and no device."""
    record = Environment(
        project_version="0.1.0",
        commit="0123456789abcdef0123456789abcdef01234567",
        dirty=False,
        versions={"python": "3.11.9", "mlflow": "3.17.2"},
        driver=None,
        cuda=None,
        devices=(),
        platform="Linux",
        cpu="Some CPU at 2.0 GHz",
        cpu_count=2,
        memory_bytes=8 * 2**30,
        limits={},
        variables={},
    )
    return replace(record, **changes)


def device(**changes: object) -> Device:
    """One H100."""
    record = Device(
        index=0,
        name="NVIDIA H100 80GB HBM3",
        memory_bytes=80 * 2**30,
        compute_capability=(9, 0),
    )
    return replace(record, **changes)


def metric(
    change_pct: float | None = 7.4, low_pct: float | None = 6.1, high_pct: float | None = 8.8, **changes: object
) -> Metric:
    """The total time, slower by 7.4 % [6.1 %, 8.8 %] over three pairs."""
    record = Metric(
        change_pct=change_pct,
        low_pct=low_pct,
        high_pct=high_pct,
        name="total_time",
        unit="s",
        baseline=2.0,
        second=2.0 if change_pct is None else 2.0 * (1 + change_pct / 100),
        pairs=3,
        verdict=Difference.SLOWER,
    )
    return replace(record, **changes)


def comparison(*metrics: Metric, **changes: object) -> Comparison:
    """A comparison of these metrics, by default of `metric()` alone."""
    record = Comparison(
        metrics=metrics or (metric(),),
        pairs=3,
        findings=(),
        sentence="Batch invariance costs 7.4 % total time here [6.1 %, 8.8 %], 3 pairs.",
    )
    return replace(record, **changes)


def experiment_result(given: Sequence[PhaseResult] | None = None, **changes: object) -> ExperimentResult:
    """The result of `phases()`, or of those given, on the machine of `environment()`."""
    all_phases = phases() if given is None else tuple(given)
    tokens = TokenCounts(
        prompts=32, prompt_tokens=2048, output_tokens=512, prompt_tokens_min=512, prompt_tokens_max=512
    )
    record = ExperimentResult(
        phases=all_phases,
        name="demo CPU_ATTN tp1 needle",
        command="python -m bi_experiments experiment=cpu_demo",
        configuration={
            "model": {"name": "demo", "dtype": "bfloat16"},
            "workload": {"num_trials": 5},
            "protocol": {"pairs": len(all_phases) // 2, "equivalence_pct": 1.0},
            "tracking": {"enabled": False, "uri": "sqlite:///mlflow.db", "experiment": "bi_experiments"},
            "tp": 1,
            "pp": 1,
        },
        environment=environment(),
        started_at=START,
        wall_time_s=PHASE_S * len(all_phases),
        workload_kind="needle",
        workload_digest="d" * 64,
        tokens={one.arm: tokens for one in all_phases},
        planned_phases=len(all_phases),
        comparison=comparison(),
    )
    return replace(record, **changes)


def invariance_report(**changes: object) -> InvarianceReport:
    """One composition in both arms, in which the batch-invariant arm differs once."""
    first = ProbeResult(
        probe=3,
        composition="ragged",
        batch=1,
        position=2,
        equal=False,
        first_difference=17,
        tokens_equal=False,
        largest_logprob_difference=0.0156,
        digest="f" * 64,
    )
    counts = {Arm.BASELINE: 20, Arm.BATCH_INVARIANT: 1}
    record = InvarianceReport(
        level="standard",
        arms=tuple(
            ArmVerdict(
                arm=arm,
                verdict=Invariance.VIOLATED,
                differing=differing,
                total=24,
                first=first,
                launches_compared=3,
                launches_differing=0,
            )
            for arm, differing in counts.items()
        ),
        compositions=tuple(
            CompositionCount(
                composition="ragged",
                arm=arm,
                differing=differing,
                total=24,
                tokens_differing=differing // 2,
                largest_logprob_difference=0.0156,
            )
            for arm, differing in counts.items()
        ),
        needle_differing={Arm.BASELINE: 2, Arm.BATCH_INVARIANT: 0},
        needle_total={Arm.BASELINE: 12, Arm.BATCH_INVARIANT: 12},
        sentence="Invariance is violated: 1 of 24 probes differed.",
    )
    return replace(record, **changes)


def proof_report(**changes: object) -> InvarianceReport:
    """A proof as this release writes it: verdicts by composition, a ledger with a hole, a bound, the agreement."""
    counts = tuple(
        CompositionCount(
            composition=composition,
            arm=arm,
            differing=0 if arm.batch_invariant else 3,
            total=15,
            tokens_differing=0,
            largest_logprob_difference=0.0 if arm.batch_invariant else 0.0156,
            verdict=verdict if arm.batch_invariant else None,
        )
        for composition, verdict in (("batch_1", None), ("trial", Invariance.HOLDS), ("sizes", Invariance.NO_CONTROL))
        for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT)
    )
    ledger = tuple(
        LedgerRow(
            kind=kind,
            context=1025,
            context_below=2049,
            sequences=33,
            sequences_below=65,
            padded=False,
            workload_tokens=tokens,
            workload_pct=tokens / 10,
            probe_tokens=probed,
            control_tokens=changed,
            control_of=2 * changed,
            verdict=verdict,
        )
        for kind, tokens, probed, changed, verdict in (
            (StepKind.DECODE, 970, 1234, 56, Invariance.HOLDS),
            (StepKind.BESIDE_PREFILL, 30, 0, 0, Invariance.NOT_PROBED),
        )
    )
    record = invariance_report(
        arms=tuple(
            ArmVerdict(
                arm=arm,
                verdict=Invariance.NOT_PROBED if arm.batch_invariant else Invariance.VIOLATED,
                differing=0 if arm.batch_invariant else 6,
                total=30,
                launches_compared=3,
                launches_differing=0,
                reproducible=Reproducibility.REPRODUCIBLE,
            )
            for arm in (Arm.BASELINE, Arm.BATCH_INVARIANT)
        ),
        compositions=counts,
        not_run=("long_prompt", "borders"),
        ledger=ledger,
        sampled=15,
        bound_pct=18.1,
        agreement=ArmAgreement(
            tokens=16,
            tokens_equal_pct=100.0,
            largest_logprob_difference=0.25,
            kl_mean=0.001,
            kl_largest=0.01,
            between_batches=0.0156,
            explained=False,
        ),
        sentence="Not probed: no probe was in 1 class of steps.",
    )
    return replace(record, **changes)


def whole_result(given: Sequence[PhaseResult] | None = None, *overrides: str, **changes: object) -> ExperimentResult:
    """A result as the program makes it: composed configuration, comparison of its phases, and an invariance report.

    Args:
        given: The phases; `phases()` when left out.
        overrides: Of the configuration `experiment=cpu_demo`.
        changes: Fields of the record.
    """
    all_phases = phases() if given is None else tuple(given)
    config = _composed(overrides)
    record = experiment_result(
        all_phases,
        configuration=recorded_configuration(config),
        comparison=compare_experiment(all_phases, config.protocol, len(all_phases) // 2, 2),
        invariance=invariance_report(),
    )
    return replace(record, **changes)


@cache
def _composed(overrides: tuple[str, ...]) -> ExperimentConfig:
    return compose(["experiment=cpu_demo", *overrides])
