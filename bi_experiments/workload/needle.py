"""Prompts of random words, exactly as long as asked for."""

import random

from bi_experiments.vocabulary import WORDS


def random_prompt(rng: random.Random, min_words: int, max_words: int) -> str:
    """Sentences of 6 to 14 random words; the length is uniform in `min_words` to `max_words` words, both included."""
    remaining = rng.randint(min_words, max_words)
    sentences = []
    while remaining:
        length = min(rng.randint(6, 14), remaining)
        sentences.append(" ".join(rng.choices(WORDS, k=length)).capitalize() + ".")
        remaining -= length
    return " ".join(sentences)
