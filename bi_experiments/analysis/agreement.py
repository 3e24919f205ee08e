"""Whether two sets of launches compute the same: the arms of one experiment, or one arm in two experiments."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from math import exp, log
from statistics import fmean
from sys import float_info
from typing import NamedTuple

from bi_experiments.analysis.pairs import second_arm
from bi_experiments.config.plain import setting
from bi_experiments.records import (
    DECODE_AGAINST_PREFILL,
    NEGATIVE_CONTROL,
    TIMED,
    AloneOutput,
    Arm,
    ArmAgreement,
    ExperimentResult,
    PhaseResult,
)
from bi_experiments.wording import count

EXPLAINED_TIMES = 3.0
"""Arms this many times further apart than the baseline is from itself in other batches do not compute the same."""
ROUNDING = {"float32": 3e-5, "float16": 0.06, "bfloat16": 0.5}
"""|delta logprob| by type that rounding explains anyway: 256 units in the last place of 1 for float32, 64 for the
others, for a baseline that does not differ from itself. TF32 in one arm alone gives about 1e-3."""
PROMPTS_OF_THE_WORKLOAD = ("needle", "trial", "workload", TIMED)
"""Compositions whose probes are the workload's prompts."""


def compare_arms(phases: Sequence[PhaseResult]) -> ArmAgreement | None:
    """Each probe alone in the second arm against the baseline; None where one of them has none.

    Args:
        phases: All phases of an experiment, in launch order.
    """
    second = second_arm(phases)
    baseline = next((phase for phase in phases if phase.arm is Arm.BASELINE and phase.alone), None)
    other = next((phase for phase in phases if phase.arm is second and phase.alone), None)
    if baseline is None or other is None:
        return None
    by_probe = {output.probe: output for output in other.alone}
    both = [(output, by_probe[output.probe]) for output in baseline.alone if output.probe in by_probe]
    if not both:
        return None
    distances = [distance for one, two in both for distance in _distances(one, two)]
    differences, divergences = [one for one, _ in distances], [kl for _, kl in distances]
    tokens = sum(len(one.token_ids) for one, _ in both)
    equal = sum(_equal_tokens(one, two) for one, two in both)
    itself = _between_batches(phases)
    dtype = baseline.observed.dtype if baseline.observed else "bfloat16"
    largest = max(differences, default=0.0)
    return ArmAgreement(
        tokens=len(distances),
        tokens_equal_pct=100 * equal / tokens if tokens else 100.0,
        largest_logprob_difference=largest,
        kl_mean=fmean(divergences) if divergences else 0.0,
        kl_largest=max(divergences, default=0.0),
        between_batches=itself,
        explained=largest <= max(EXPLAINED_TIMES * itself, ROUNDING.get(dtype, 0.5)),
    )


def outputs_in_common(first: ExperimentResult, second: ExperimentResult) -> tuple[int, int]:
    """Probe outputs of the second arm that two experiments have in common: how many are equal, of how many.

    They have it in common where both asked the same at the same place of a composition, whose prompts may depend on the
    engine: on the size of its blocks, on how many sequences and tokens a step takes. Records that do not say what was
    asked are compared with each other alone: the workload's prompts where both have the same workload, others as they
    are. Whether these drew the same probes is the caller's to know: they do with the same `verify` settings, vocabulary
    and longest sequence.
    """
    one, two = _digests(first), _digests(second)
    same_workload = first.workload_digest == second.workload_digest
    keys = [key for key in one.keys() & two.keys() if same_workload or key[0] not in PROMPTS_OF_THE_WORKLOAD]
    return sum(one[key] == two[key] for key in keys), len(keys)


def outputs_agree(first: Sequence[ExperimentResult], second: Sequence[ExperimentResult]) -> str | None:
    """Whether the second arm's outputs are the same in A and B, in a sentence; None: none to compare.

    Args:
        first: The experiments of A, each of which is compared with each of B.
        second: Those of B.
    """
    pairs = [(one, two) for one in first for two in second if _probed(one) == _probed(two)]
    in_common = [outputs_in_common(one, two) for one, two in pairs]
    equal, compared = sum(equal for equal, _ in in_common), sum(compared for _, compared in in_common)
    if not compared:
        return None
    shared = f"{count(compared, 'probe output')} of the second arm that A and B share"
    between = f", over {count(len(pairs), 'pair')} of experiments" if len(first) * len(second) > 1 else ""
    if equal == compared:
        return f"All {shared}{between and f'{between},'} are the same to the bit."
    verb = "is" if compared - equal == 1 else "are"
    return f"Of {shared}{between}, {compared - equal} {verb} not the same to the bit."


class AloneDigest(NamedTuple):
    """The second arm's outputs of the probes alone, in a word each."""

    probed: str
    """The same where two experiments have the same probes."""
    digest: str
    """The same where all of their outputs are."""


MOST_NAMED = 4
"""Experiments with the same outputs that are named; of more, how many there are."""


class Alike(NamedTuple):
    """Whether the outputs of the probes alone are the same in some experiments that have the same probes."""

    agree: bool
    sentence: str


def outputs_alike(experiments: Sequence[tuple[str, AloneDigest]]) -> list[Alike]:
    """Whether the second arm's outputs are the same in all of these experiments, once for every set of probes.

    Args:
        experiments: A readable name of each, and its outputs; a set of probes that only one has is left out.
    """
    by_probes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, (probed, digest) in experiments:
        by_probes[probed][digest].append(name)
    alike = []
    for by_digest in by_probes.values():
        number = sum(map(len, by_digest.values()))
        if number > 1 and len(by_digest) == 1:
            said = f"Outputs agree: each probe alone gave the same bits in all {number} experiments."
            alike.append(Alike(agree=True, sentence=said))
        elif number > 1:
            groups = "; ".join(map(_named, by_digest.values()))
            said = f"Outputs differ: probes alone gave other bits, {len(by_digest)} kinds of them: {groups}."
            alike.append(Alike(agree=False, sentence=said))
    return alike


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def alone_digest(result: ExperimentResult) -> AloneDigest | None:
    """The outputs of the probes alone in the second arm's launches; None: no launch has some."""
    outputs = {key: digest for key, digest in _digests(result).items() if key[0] == NEGATIVE_CONTROL}
    if not outputs:
        return None
    probed = (*_probed(result), *sorted(outputs))
    return AloneDigest(probed=_word(repr(probed)), digest=_word(repr(sorted(outputs.items()))))


def _word(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def _probed(result: ExperimentResult) -> tuple[object, ...]:
    """What decides which probes there are, apart from the compositions."""
    keys = ("probes", "max_tokens", "logprobs", "seed")
    model = ("name", "seeded", "max_model_len")
    return (
        *(setting(result.configuration, f"verify.{key}") for key in keys),
        *(setting(result.configuration, f"model.{key}") for key in model),
    )


def _digests(result: ExperimentResult) -> dict[tuple[str, int, int, int, int, str], str]:
    arm = second_arm(result.phases)
    found: dict[tuple[str, int, int, int, int, str], set[str]] = defaultdict(set)
    for one in (one for phase in result.phases if phase.arm is arm for one in phase.probes):
        found[one.composition, one.batch, one.position, one.probe, one.sample, one.request].add(one.digest)
    # What is not the same in all launches of one experiment is the same in no other.
    return {
        key: next(iter(digests)) if len(digests) == 1 else f"{result.started_at} {sorted(digests)}"
        for key, digests in found.items()
    }


def _equal_tokens(one: AloneOutput, two: AloneOutput) -> int:
    pairs = zip(one.token_ids, two.token_ids, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), len(one.token_ids))


def _distances(one: AloneOutput, two: AloneOutput) -> list[tuple[float, float]]:
    """Largest |delta logprob| and divergence for each token up to the first that differs: the same context in both."""
    last = _equal_tokens(one, two) + 1
    return [
        _distance(dict(left), dict(right))
        for left, right in zip(one.logprobs[:last], two.logprobs[:last], strict=False)
    ]


def _distance(left: dict[int, float], right: dict[int, float]) -> tuple[float, float]:
    shared = left.keys() & right.keys()
    if not shared:
        return float_info.max, float_info.max
    largest = max(abs(left[token] - right[token]) for token in shared)
    rest_left = max(1 - sum(exp(left[token]) for token in shared), float_info.epsilon)
    rest_right = max(1 - sum(exp(right[token]) for token in shared), float_info.epsilon)
    divergence = sum(exp(left[token]) * (left[token] - right[token]) for token in shared)
    return largest, max(0.0, divergence + rest_left * log(rest_left / rest_right))


def _between_batches(phases: Sequence[PhaseResult]) -> float:
    differences = (
        one.largest_logprob_difference
        for phase in phases
        if phase.arm is Arm.BASELINE
        for one in phase.probes
        if one.fault is None and one.composition != DECODE_AGAINST_PREFILL
    )
    return max(differences, default=0.0)
