"""How it was measured and what it ran on, in names and short texts, from the record alone."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from bi_experiments.config.plain import flatten, setting
from bi_experiments.records import ExperimentResult
from bi_experiments.wording import count, device, version

Entries: TypeAlias = list[tuple[str, str]]


def method(result: ExperimentResult) -> Entries:
    """The rules that the numbers were measured by; a rule that the configuration does not hold is left out."""
    configuration = result.configuration
    pairs = result.comparison.pairs if result.comparison else 0
    entries = [
        (
            "pairs",
            f"{pairs} complete of {result.planned_phases // 2} planned; every launch a fresh process. The pair is the "
            "unit: the change is the geometric mean over pairs of the ratio of the same trial in both arms, its 95 % "
            "interval is Student's t over the pairs.",
        )
    ]
    entries += _rules(setting(configuration, "protocol") or {})
    entries += _trials(setting(configuration, "workload") or {}, result)
    entries += _probes(setting(configuration, "verify") or {}, result)
    return entries


def _rules(protocol: Mapping[str, Any]) -> Entries:
    said = {
        "order": {
            "balanced": "balanced and random: in every two pairs, each arm runs first once",
            "baseline_first": "the baseline runs first in every pair",
        },
        "interleave": {
            "launch": "the launches of a pair run one after the other",
            "trial": "both launches of a pair are alive and take turns, trial by trial",
        },
        "caches": {
            "private": "compile caches private to each arm: its first launch is cold, its later ones are warm",
            "user": "the user's own compile caches",
        },
    }
    entries = [
        (key, texts.get(str(protocol[key]), str(protocol[key]))) for key, texts in said.items() if key in protocol
    ]
    if "warmup" in protocol:
        entries.append(("warm-up", f"uncounted: the needle alone, {protocol['warmup']} x the largest batch"))
    if "equivalence_pct" in protocol:
        entries.append(("no change", f"intervals within ±{protocol['equivalence_pct']:g} % (protocol.equivalence_pct)"))
    return entries


def _trials(workload: Mapping[str, Any], result: ExperimentResult) -> Entries:
    what = f"workload {result.workload_kind}, the same prompts in every launch (SHA-256 {result.workload_digest[:12]})"
    if {"num_trials", "max_batch_size", "max_tokens"} <= workload.keys():
        what = (
            f"{count(workload['num_trials'], 'trial')} a launch, up to {workload['max_batch_size']} prompts each, "
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
    entries = [("proof", f"verify={result.invariance.level}: {what}")]
    if result.invariance.not_run:
        entries.append(("not run", ", ".join(result.invariance.not_run)))
    return entries


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
