"""Whether both arms did the same work, and the mode did its work."""

from collections.abc import Iterator, Sequence

from bi_experiments.analysis.pairs import Pair, output_tokens
from bi_experiments.records import Finding
from bi_experiments.wording import count


def needle(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """The needle, whose output alone is known, in the batches of the trials."""
    launches = [pair.second for pair in pairs if pair.second.arm.batch_invariant]
    trials = [trial for launch in launches for trial in launch.trials]
    differing = sum(not trial.needle.equal for trial in trials)
    if differing:
        yield Finding(
            kind="needle",
            message=f"The needle's output in the batch differed from its output alone in {differing} of "
            f"{count(len(trials), 'trial')} of the batch-invariant arm: it does not hold here, whatever it costs.",
            remedy="Run with verify=full to see which batch compositions differ.",
        )


def token_counts(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Trials in which the arms generated different numbers of tokens."""
    for pair in pairs:
        counts = zip(output_tokens(pair.baseline), output_tokens(pair.second), strict=True)
        for trial, (baseline, other) in enumerate(counts, start=1):
            if baseline != other:
                yield Finding(
                    kind="token_counts",
                    message=f"The arms did not do the same work: trial {trial} of pair {pair.baseline.pair + 1} "
                    f"generated {baseline} tokens in the baseline and {other} in the second arm. Times would compare "
                    "unequal work and are withheld.",
                    remedy="Run with workload.ignore_eos=true, and prompts that leave room for workload.max_tokens.",
                )
                return
