"""The answer before any table: sentences, verdicts in a word, and what kept the experiment from being whole."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from bi_experiments.analysis.agreement import PROMPTS_OF_THE_WORKLOAD
from bi_experiments.analysis.engines import engine_sentence
from bi_experiments.analysis.evidence import TOKENS_ALONE
from bi_experiments.analysis.location import describe
from bi_experiments.analysis.outcome import decide_gate, describe_gate, primary
from bi_experiments.analysis.pairs import second_arm
from bi_experiments.analysis.profiles import describe as describe_profile
from bi_experiments.analysis.profiles import profiled
from bi_experiments.config.plain import setting
from bi_experiments.config.schema import SHORTER_THAN_ASKED
from bi_experiments.errors import ExitCode
from bi_experiments.paths import OutputFolder
from bi_experiments.records import (
    TIMED,
    Arm,
    Difference,
    ExperimentResult,
    Invariance,
    PhaseResult,
    PhaseStatus,
    Reproducibility,
)
from bi_experiments.wording import LABELS, NO_INTERVAL, count, device, invariance_word, version

Tone: TypeAlias = Literal["good", "bad", "open"]


class Badge(NamedTuple):
    """A verdict in a word."""

    what: str
    verdict: str
    tone: Tone


NO_COMPARISON = "No comparison: no pair is complete."


def sentences(result: ExperimentResult) -> list[str]:
    """What was found, the cost first; at least one sentence."""
    said = [NO_COMPARISON]
    if result.comparison is not None:
        said = [result.comparison.sentence]
    if (changed := engine_sentence(result)) is not None:
        said.append(changed)
    if result.invariance is not None:
        said.append(result.invariance.sentence + _of_caches(result) + _length_of_probes(result))
    if result.location is not None:
        said.append(" ".join(describe(result.location)))
    if (where := profiled(result)) is not None:
        said.append(describe_profile(where))
    limit = gate_limit(result)
    if result.comparison is not None and limit is not None:
        said.append(describe_gate(result.comparison, limit))
    return said


def _of_caches(result: ExperimentResult) -> str:
    """Whether the launches that agree are as independent as those of two machines: what one tunes, others may reuse."""
    arms = result.invariance.arms if result.invariance else ()
    agree = any(one.arm.batch_invariant and one.reproducible is Reproducibility.REPRODUCIBLE for one in arms)
    if not agree or setting(result.configuration, "protocol.caches") == "fresh":
        return ""
    return " These launches shared compile caches; with protocol.caches=fresh each has its own."


def _length_of_probes(result: ExperimentResult) -> str:
    """How long the outputs were that the verdict is about: a fault may only show in longer ones."""
    own, others = 0, 0
    for probe in (probe for phase in result.phases for probe in phase.probes):
        tokens = (probe.positions or 0) - probe.prompt_positions
        if probe.composition in PROMPTS_OF_THE_WORKLOAD:
            own = max(own, tokens)
        elif probe.composition not in TOKENS_ALONE:
            others = max(others, tokens)
    lengths = [(own, " of the workload's prompts"), (others, " of other probes")]
    said = " and ".join(f"up to {count(tokens, 'token')}{whose}" for tokens, whose in lengths if tokens)
    if not said:
        return ""
    timed = {
        (probe.batch, probe.position)
        for phase in result.phases
        for probe in phase.probes
        if probe.composition == TIMED and phase.arm is second_arm(result.phases)
    }
    also = f"{len(timed)} of the workload's also as they were timed (without logprobs), by their tokens"
    none = "not those of the timed trials, which ask for none"
    first = ""
    if own and setting(result.configuration, "workload.fresh_prompts"):
        first = " The workload's prompts are here those of the first pair (workload.fresh_prompts)."
    return f" Outputs compared: {said}, with logprobs asked for; {also if timed else none}.{first}"


def subject(result: ExperimentResult) -> str:
    """What the answer is about, in one line: device, vLLM, attention backend, parallelism, workload, date."""
    observed = next((phase.observed for phase in result.phases if phase.observed is not None), None)
    vllm = version("vllm", result.environment, result.phases)
    tp, pp = (setting(result.configuration, key) for key in ("tp", "pp"))
    parts = [
        device(result.environment),
        f"vLLM {vllm}" if vllm else "",
        observed.attention_backend if observed else "",
        f"tp {tp}" if tp is not None else "",
        f"pp {pp}" if isinstance(pp, int) and pp > 1 else "",
        _workload(result),
        datetime.fromtimestamp(result.started_at, UTC).strftime("%-d %b %Y"),
    ]
    return " · ".join(part for part in parts if part)


def _workload(result: ExperimentResult) -> str:
    """The trials' sizes: `64 to 128 prompts of 1024 to 2048 words, 128 tokens`; a batch of one is the needle alone."""
    asked = setting(result.configuration, "workload") or {}
    sizes = [trial.batch_size for phase in result.phases for trial in phase.trials]
    if not sizes or "max_tokens" not in asked:
        return ""
    smallest, largest = min(sizes), max(sizes)
    lengths = ""
    if "max_prompt" in asked and asked.get("kind") not in SHORTER_THAN_ASKED:
        needle = len(asked.get("needle", "").split())
        shortest, longest = needle if smallest == 1 else asked["min_prompt"], asked["max_prompt"]
        lengths = f" of {count(needle, 'word')}" if largest == 1 else f" of {shortest} to {longest} words"
    prompts = f"{smallest} to {largest} prompts" if smallest < largest else count(largest, "prompt")
    return f"{prompts}{lengths}, {count(asked['max_tokens'], 'token')}"


def badges(result: ExperimentResult) -> list[Badge]:
    """The verdicts on cost, invariance and gate."""
    found = [Badge("total time", *_cost(result))]
    arm = second_arm(result.phases)
    if arm is Arm.BATCH_INVARIANT:
        verdict = result.invariance.verdict(arm) if result.invariance else None
        found.append(Badge("invariance", invariance_word(verdict), invariance_tone(verdict)))
        between = {one.arm: one.reproducible for one in result.invariance.arms}.get(arm) if result.invariance else None
        if between in _LAUNCHES_WORDS:
            found.append(Badge("from launch to launch", *_LAUNCHES_WORDS[between]))
    limit = gate_limit(result)
    if result.comparison is not None and limit is not None:
        found.append(Badge(f"gate of {limit:g} %", *_GATE_WORDS[decide_gate(result.comparison, limit)]))
    return found


def problems(result: ExperimentResult) -> list[str]:
    """Why the experiment ended early, and which phases failed."""
    said = []
    if result.stopped is not None:
        finished = sum(phase.status is PhaseStatus.OK for phase in result.phases)
        said.append(
            f"It ended early, with {finished} of {count(result.planned_phases, 'phase')} finished: {result.stopped}."
        )
    started = result.launches
    return said + [_not_finished(phase, result) for phase in started if phase.status is not PhaseStatus.OK]


def _not_finished(phase: PhaseResult, result: ExperimentResult) -> str:
    """How a phase ended, how far it got, why, and where to look."""
    name = "The uncounted launch" if phase.index < 0 else f"Phase {phase.index + 1}"
    status = "was interrupted" if phase.status is PhaseStatus.INTERRUPTED else phase.status.replace("_", " ")
    trials = setting(result.configuration, "workload.num_trials")
    got = f"{len(phase.trials)}{f' of {trials}' if trials else ''} trials"
    if phase.probes:
        got += f" and {count(len(phase.probes), 'probe output')}"
    why = "" if phase.error in {None, str(phase.status)} else f": {phase.error}"
    log = OutputFolder(Path()).phase(phase.index, phase.arm).log
    return f"{name} ({LABELS[phase.arm]}) {status} after {got}{why}; its log: {log}"


_INVARIANCE_TONES: dict[Invariance | None, Tone] = {
    Invariance.HOLDS: "good",
    Invariance.VIOLATED: "bad",
    Invariance.NOT_DETERMINISTIC: "bad",
}


def invariance_tone(verdict: Invariance | None) -> Tone:
    """Whether the verdict on output bits, or its absence, is good."""
    return _INVARIANCE_TONES.get(verdict, "open")


_LAUNCHES_WORDS: dict[Reproducibility | None, tuple[str, Tone]] = {
    Reproducibility.REPRODUCIBLE: ("reproducible", "good"),
    Reproducibility.NOT_REPRODUCIBLE: ("not reproducible", "bad"),
}

_COST_TONES: dict[Difference, Tone] = {
    Difference.SLOWER: "bad",
    Difference.FASTER: "good",
    Difference.MORE: "bad",
    Difference.LESS: "good",
    Difference.EQUIVALENT: "good",
    Difference.INCONCLUSIVE: "open",
}

_GATE_WORDS: dict[ExitCode, tuple[str, Tone]] = {
    ExitCode.DONE: ("passed", "good"),
    ExitCode.OVER_GATE: ("over", "bad"),
    ExitCode.GATE_UNDECIDED: ("undecided", "open"),
}


def _cost(result: ExperimentResult) -> tuple[str, Tone]:
    total_time = primary(result.comparison) if result.comparison else None
    if total_time is None:
        return "not compared", "open"
    if total_time.withheld is not None:
        return "withheld", "open"
    if total_time.low_pct is None:
        return NO_INTERVAL, "open"
    agreement = result.invariance.agreement if result.invariance else None
    if total_time.verdict is Difference.FASTER and (agreement is None or not agreement.explained):
        return total_time.verdict, "open"  # what does not compute the same, or may not, saves nothing
    return total_time.verdict, _COST_TONES[total_time.verdict]


def gate_limit(result: ExperimentResult) -> float | None:
    """`gate.max_overhead_pct` of the record, in per cent; None: no gate."""
    limit = setting(result.configuration, "gate.max_overhead_pct")
    return None if limit is None else float(limit)
