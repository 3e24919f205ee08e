"""Compare the bits of a probe's outputs. Pure: no engine, no torch.

Equal means: the same token ids and, at every position, the same returned logprobs as float32 bits.
"""

import hashlib
import math
import struct
import sys

from bi_experiments.phase.proof.requests import Output, Probed, Request, Sample
from bi_experiments.records import Fault, ProbeResult

CONSTANT_FROM = 3
"""Output tokens from which on the same bits at every position are no coincidence."""


def compare_output(
    name: str, batch: int, probed: Probed, reference: Output, output: Output, sampled: bool
) -> list[ProbeResult]:
    """One result for each sample of a probe; `sampled`: whether its prompt was drawn from the workload."""
    results = []
    for index, (expected, sample) in enumerate(zip(reference.samples, output.samples, strict=True)):
        first = first_difference(expected, sample)
        results.append(
            ProbeResult(
                probe=probed.probe,
                composition=name,
                batch=batch,
                position=probed.position,
                sample=index,
                equal=first is None,
                first_difference=first,
                tokens_equal=expected.token_ids == sample.token_ids,
                largest_logprob_difference=largest_logprob_difference(expected, sample),
                digest=digest(sample),
                positions=len(sample.token_ids),
                prompt_positions=scored_prompt(probed.reference),
                sampled=sampled,
                fault=fault(sample) or fault(expected),
                request=probed.reference.digest(),
            )
        )
    return results


def scored_prompt(request: Request) -> int:
    """Tokens of the prompt that are compared before those of the output: the first one has no logprob."""
    return len(request.prompt) - 1 if request.score_prompt else 0


def fault(sample: Sample) -> Fault | None:
    """What is wrong with an output whatever it is compared with."""
    values = [logprob for entries in sample.logprobs for _, logprob in entries]
    if any(map(math.isnan, values)):
        return Fault.NAN
    if any(map(math.isinf, values)):
        return Fault.INFINITE
    if len(sample.token_ids) >= CONSTANT_FROM and values and len(set(position_bits(sample))) == 1:
        return Fault.CONSTANT
    return None


def position_bits(sample: Sample) -> list[bytes]:
    """For each output token: its id, and id and float32 bits of every returned logprob, best rank first."""
    return [
        struct.pack("<I", token) + b"".join(struct.pack("<If", *entry) for entry in entries)
        for token, entries in zip(sample.token_ids, sample.logprobs, strict=True)
    ]


def digest(sample: Sample) -> str:
    """SHA-256 over all bits that are compared."""
    return hashlib.sha256(b"".join(position_bits(sample))).hexdigest()


def same_bits(one: Sample, other: Sample) -> bool:
    """Whether all bits that are compared are equal."""
    return first_difference(one, other) is None


def first_difference(expected: Sample, sample: Sample) -> int | None:
    """Index of the first token whose id or logprob bits differ; None when all are equal."""
    return next(iter(differences(expected, sample)), None)


def comparable_tokens(expected: Sample, sample: Sample) -> range:
    """Indices of the tokens up to the first other id, behind which the context is another; an early end is one."""
    pairs = enumerate(zip(expected.token_ids, sample.token_ids, strict=False))
    lengths = len(expected.token_ids), len(sample.token_ids)
    last = next((index for index, (left, right) in pairs if left != right), min(lengths))
    return range(min(last + 1, max(lengths)))


def differences(expected: Sample, sample: Sample) -> list[int]:
    """Indices of the comparable tokens whose id or logprob bits differ."""
    left, right = position_bits(expected), position_bits(sample)
    return [
        index for index in comparable_tokens(expected, sample) if left[index : index + 1] != right[index : index + 1]
    ]


def largest_logprob_difference(expected: Sample, sample: Sample) -> float:
    """Largest |delta logprob| over the tokens that both returned.

    Positions after the first differing token id have another context and do not count. One that is not a number
    counts as the largest float, because JSON has neither infinity nor NaN.
    """
    largest = 0.0
    for left, right, left_logprobs, right_logprobs in zip(
        expected.token_ids, sample.token_ids, expected.logprobs, sample.logprobs, strict=False
    ):
        others = dict(right_logprobs)
        for token, logprob in left_logprobs:
            other = others.get(token, logprob)
            if struct.pack("<f", logprob) != struct.pack("<f", other):
                difference = abs(logprob - other)
                largest = max(largest, difference if math.isfinite(difference) else sys.float_info.max)
        if left != right:
            break
    return largest
