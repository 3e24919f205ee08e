"""How it was measured and what it ran on, in names and short texts, from the record alone."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from bi_experiments.analysis.design import Design
from bi_experiments.config.plain import flatten, setting
from bi_experiments.records import ExperimentResult
from bi_experiments.report.blocks import stages_lines
from bi_experiments.report.estimator import interval
from bi_experiments.wording import count, device, version

Entries: TypeAlias = list[tuple[str, str]]


def method(result: ExperimentResult) -> Entries:
    """The rules that the numbers were measured by; a rule that the configuration does not hold is left out."""
    configuration = result.configuration
    pairs = result.comparison.pairs if result.comparison else 0
    planned = f"{pairs} complete of {result.planned_phases // 2} planned; every launch a fresh process"
    entries = [("pairs", planned), ("estimate", _estimate(Design.recorded(result), pairs))]
    if result.taken_over:
        entries.append(("resumed", resumed(result)))
    if result.comparison is not None and result.comparison.stages is not None:
        entries.append(("stages", " ".join(line for line in stages_lines(result.comparison.stages) if line)))
    step_sizes = max((phase.warmup_step_sizes or 0 for phase in result.phases), default=0)
    entries += _rules(setting(configuration, "protocol") or {}, pairs, step_sizes)
    entries += _trials(setting(configuration, "workload") or {}, result)
    entries += _probes(setting(configuration, "verify") or {}, result)
    if any(phase.observed is not None and phase.observed.device != "cpu" for phase in result.phases):
        entries.append(
            ("memory", "not compared: vLLM fills a device up to model.gpu_memory_utilization, whatever it needs")
        )
    return entries


def _estimate(design: Design, pairs: int) -> str:
    """By what the change and its interval are computed from the launches' total times."""
    if design.paired or design.first_stage is not None:
        said, why = "the geometric mean over the pairs of the ratio of total times", ""
    else:
        said = "the ratio of the arms' geometric means of total time"
        why = ", since launches one after the other share nothing by pair"
    return f"{said}; 95 % interval: {interval(design, pairs)}{why if pairs > 1 else ''}; n = {pairs}"


def _rules(protocol: Mapping[str, Any], pairs: int, step_sizes: int) -> Entries:
    balanced = "balanced and random: in each two consecutive pairs the baseline runs first in one"
    shared = int(protocol.get("launches_per_cache", 1))
    said = {
        "order": {
            "balanced": balanced + ("; the last pair's is random" if pairs % 2 else ""),
            "baseline_first": "the baseline runs first in every pair",
        },
        "interleave": {
            "launch": "the launches of a pair run one after the other",
            "trial": "both launches of a pair are alive and take turns, trial by trial",
        },
        "caches": {
            "private": "compile caches private to each arm: its first launch is cold, its later ones are warm",
            "user": "the user's own compile caches",
            "fresh": "new compile caches for "
            + (f"every {shared} launches of an arm" if shared > 1 else "every launch: each is cold"),
        },
    }
    entries = [
        (key, texts.get(str(protocol[key]), str(protocol[key]))) for key, texts in said.items() if key in protocol
    ]
    if "warmup" in protocol:
        rounds = count(int(protocol["warmup"]), "round")
        steps = f", and of {count(step_sizes, 'step')} of the sizes that kernels change at" if step_sizes else ""
        entries.append(("warm-up", f"uncounted: the needle alone, then {rounds} of one batch of every shape{steps}"))
    if protocol.get("discard_first"):
        entries.append(("uncounted launch", "one of the baseline, before all others"))
    if "equivalence_pct" in protocol:
        entries.append(("no change", f"intervals within ±{protocol['equivalence_pct']:g} % (protocol.equivalence_pct)"))
    return entries


def _trials(workload: Mapping[str, Any], result: ExperimentResult) -> Entries:
    same, whose = "every launch", ""
    if workload.get("fresh_prompts"):
        same, whose = "both launches of a pair, others in every pair", "of the first pair's "
    digest = result.workload_digest[:12]
    what = f"workload {result.workload_kind}, the same prompts in {same} (SHA-256 {whose}{digest})"
    if {"num_trials", "max_batch_size", "max_tokens"} <= workload.keys():
        largest = count(workload["max_batch_size"], "prompt")
        what = (
            f"{count(workload['num_trials'], 'trial')} a launch, up to {largest} each, "
            f"{workload['max_tokens']} tokens a prompt; {what}"
        )
    return [("trials", what)]


def _probes(verify: Mapping[str, Any], result: ExperimentResult) -> Entries:
    if result.invariance is None:
        return [("proof", "none")]
    what = "token ids and the float32 bits of logprobs, each prompt alone against the same prompt in other batches"
    if {"probes", "max_tokens", "logprobs"} <= verify.keys():
        size = f"{verify['probes']} prompts, {verify['max_tokens']} tokens, {verify['logprobs']} logprobs"
        what += f"; {size}, outside the timed part"
    if verify.get("later_launches") is not None:
        what += f"; later launches run {', '.join(verify['later_launches'])} alone"
    if setting(result.configuration, "workload.fresh_prompts"):
        what += "; in every launch the workload's prompts are those of the first pair"
    return [("proof", f"verify={result.invariance.level}: {what}")]


def environment(result: ExperimentResult) -> Entries:
    """All that the record says of the machine and the software."""
    recorded = result.environment
    phase_versions = {name: number for phase in result.phases for name, number in phase.versions.items()}
    versions = recorded.versions | phase_versions
    entries = [
        ("device", device(recorded)),
        ("CPU", f"{recorded.cpu}, {recorded.cpu_count} usable"),
        ("memory", f"{recorded.memory_bytes / 2**30:.0f} GiB"),
        ("platform", recorded.platform),
        ("driver", f"{recorded.driver}, CUDA {recorded.cuda} or older" if recorded.driver else "-"),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions.items())),
        ("limits", ", ".join(f"{name}: {value}" for name, value in recorded.limits.items())),
        ("variables", ", ".join(f"{name}={value}" for name, value in recorded.variables.items())),
    ]
    return [(name, text) for name, text in entries if text not in {"", "-"}]


def resumed(result: ExperimentResult) -> str:
    """What was not run by the start that ended it."""
    return f"{count(result.taken_over, 'launch')} of an earlier start, taken over and not run again"


def ran_on(result: ExperimentResult) -> str:
    """The environment in one line."""
    recorded = result.environment
    packages = [(name, version(name, recorded, result.phases)) for name in ("vllm", "torch", "python")]
    known = ", ".join(f"{name} {number}" for name, number in packages if number is not None)
    memory = f"{recorded.memory_bytes / 2**30:.0f} GiB memory"
    return f"{device(recorded)}; {recorded.cpu_count} CPUs, {memory}, {recorded.platform}; {known}"


def provenance(result: ExperimentResult) -> str:
    """Which code wrote the record, and when."""
    recorded = result.environment
    commit = f", commit {recorded.commit[:12]}" if recorded.commit else ""
    dirty = " with local changes" if recorded.dirty else ""
    when = datetime.fromtimestamp(result.started_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    took = f"{result.wall_time_s / 60:.1f} min"
    code = f"bi_experiments {recorded.project_version}{commit}{dirty}"
    return f"{code}; started {when}, took {took}; record {result.version}."


def configuration_groups(result: ExperimentResult) -> list[tuple[str, Entries]]:
    """The whole configuration by group; keys without a group first."""
    groups: dict[str, Entries] = {"general": []}
    for key, value in flatten(result.configuration).items():
        group, _, name = key.rpartition(".")
        groups.setdefault(group or "general", []).append((name, value))
    return [(group, entries) for group, entries in groups.items() if entries]
