"""Prompts with the lengths of vLLM's `benchmarks/benchmark_batch_invariance.py`, in sentences of our own.

There a prompt is an opening of 7 to 13 words and, for every 50 words asked for, one sentence of 9 words; so "1024 to
2048 words" are about 190 to 370.
"""

import random

OPENINGS = (
    "Question: Which river runs through Vienna?\nAnswer: The river that runs through Vienna is",
    "Q: Why does bread rise?\nA: Bread rises because the yeast",
    "User: How do tides work?\nAssistant: Tides are raised by",
    "Long before the first ship crossed the ocean, there was",
    "The lighthouse keeper climbed the stairs, counting",
    "By the winter of 2089, every city had built",
    "To reverse a linked list in place, we keep",
    "The compiler allocates registers by walking the graph and",
    "A good way to profile a slow query is to",
    "The printing press changed how ideas travelled, since",
    "Glaciers shape a valley over many centuries by",
    "A cell copies its genome by first separating the",
    "I meant to repair the old bicycle, but",
    "Last week we drove to the coast and found",
    "What I like most about rainy mornings is",
)
FILLER = " Much more could be said about all of this."


def random_prompt(rng: random.Random, min_words: int, max_words: int) -> str:
    """An opening and one filler sentence for every 50 of the words asked for, uniform in `min_words` to `max_words`."""
    return rng.choice(OPENINGS) + FILLER * (rng.randint(min_words, max_words) // 50)
