"""What the CPU plugin costs a whole engine: the demo model's trial times with the mode off and on, taking turns.

    python benchmarks/plugin_overhead.py [--launches 3] [--trials 12] [--batch-size 32] [--eager] [--dtype bfloat16]

Each launch starts a fresh process an arm; both stay alive and run the same trials in turn, so that drift falls on
both. Each arm has compile caches of its own.
"""

import argparse
import dataclasses
import tempfile

from by_turns import Job, compare_by_turns


def main() -> None:
    """Print one line a trial, then the overhead."""
    parser = argparse.ArgumentParser(
        description="Trial times of the demo model with the batch-invariant mode off and on."
    )
    parser.add_argument("--launches", type=int, default=3, help="fresh processes an arm")
    parser.add_argument("--trials", type=int, default=12, help="timed trials a launch")
    parser.add_argument("--batch-size", type=int, default=32, help="prompts a trial")
    parser.add_argument("--min-prompt", type=int, default=24, help="shortest prompt, in tokens")
    parser.add_argument("--max-prompt", type=int, default=200, help="longest prompt, in tokens")
    parser.add_argument("--max-tokens", type=int, default=32, help="output tokens a prompt")
    parser.add_argument("--dtype", default="bfloat16", help="torch name of the weights' type")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache_dir:
        off = Job(
            cache_dir=cache_dir,
            name="off",
            engine={"enforce_eager": options.eager},
            dtype=options.dtype,
            batch_size=options.batch_size,
            min_prompt=options.min_prompt,
            max_prompt=options.max_prompt,
            max_tokens=options.max_tokens,
        )
        on = dataclasses.replace(off, name="on", batch_invariant=True)
        compare_by_turns([off, on], options.launches, options.trials)


if __name__ == "__main__":
    main()
