"""The rows of a page of several experiments, which keeps little of each: a thousand whole records fill the memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from bi_experiments.analysis.agreement import AloneDigest, alone_digest
from bi_experiments.analysis.outcome import primary
from bi_experiments.analysis.pairs import second_arm
from bi_experiments.records import Arm, ExperimentResult, Invariance, Metric
from bi_experiments.wording import device, version


@dataclass(frozen=True)
class Summary:
    """One experiment in a comparison of several."""

    name: str
    configuration: Mapping[str, Any]
    """The composed configuration, as in the record."""
    second_arm: Arm
    """`batch_invariant`, or `control`."""
    pairs: int
    """Complete pairs."""
    total_time: Metric | None
    """What the experiment is about; in records of version 1 without it, the trial time."""
    throughput: Metric | None
    invariance: Invariance | None
    """The verdict on the second arm; None when it was not probed."""
    differing: int
    """Probe outputs of the second arm that changed with the batch, of `probed`."""
    probed: int
    alone: AloneDigest | None
    """The second arm's outputs of the probes alone; None when there are none."""
    findings: tuple[str, ...]
    """Kind of every finding, repeated where several are of one kind."""
    device: str
    """The accelerators; the CPU where there is none."""
    vllm_version: str | None
    """Where the engines ran; None where that is not known."""

    @classmethod
    def of(cls, result: ExperimentResult) -> Self:
        """Sum up one record."""
        comparison = result.comparison
        arm = second_arm(result.phases)
        verdicts = result.invariance.arms if result.invariance else ()
        verdict = next((one for one in verdicts if one.arm is arm), None)
        return cls(
            name=result.name,
            configuration=result.configuration,
            second_arm=arm,
            pairs=comparison.pairs if comparison else 0,
            total_time=primary(comparison) if comparison else None,
            throughput=comparison.metric("throughput") if comparison else None,
            invariance=verdict.verdict if verdict else None,
            differing=verdict.differing if verdict else 0,
            probed=verdict.total if verdict else 0,
            alone=alone_digest(result),
            findings=tuple(finding.kind for finding in comparison.findings) if comparison else (),
            device=device(result.environment),
            vllm_version=version("vllm", result.environment, result.phases),
        )


@dataclass(frozen=True)
class Row:
    """One experiment of the page, finished or not."""

    label: str
    """Readable name."""
    settings: dict[str, str]
    """The swept or different keys alone, with their values as text; the same keys in every row."""
    status: str
    """`done`, `failed`, `interrupted`, `cannot run`, `running` or `missing`."""
    reason: str | None
    """One line for everything but `done` and `interrupted`."""
    page: str | None
    """The experiment's report, relative to the page; None where there is none to be linked."""
    result: Summary | None
    """`Summary.of` its record; None when it has none."""

    @property
    def control(self) -> bool:
        """Whether both arms were baselines (A/A), so that the cost is none of the mode's."""
        return self.result is not None and self.result.second_arm is Arm.CONTROL

    @property
    def cost(self) -> Metric | None:
        """The total time, where its change is known."""
        metric = self.result.total_time if self.result else None
        return metric if metric is not None and metric.change_pct is not None else None
