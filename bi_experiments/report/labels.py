"""Short names for several experiments: what differs between them is kept, what they have in common is dropped."""

import re
from collections.abc import Mapping, Sequence

LONGEST = 40
"""Characters of a name in a figure."""


def short_names(texts: Sequence[str], longest: int = LONGEST) -> list[str]:
    """The texts, where they are long without the words at beginning and end that all share; different ones stay so.

    Those that would be cut to the same are numbered.

    Args:
        texts: Names or values; equal ones get equal names.
        longest: Most characters.
    """
    kinds = list(dict.fromkeys(texts))
    if len(kinds) < 2 or max(map(len, kinds)) <= longest:
        return [cut(text, longest) for text in texts]
    words = [re.findall(r"[^\s/=,:·_-]+[\s/=,:·_-]*|[\s/=,:·_-]+", text) for text in kinds]
    shortest = min(map(len, words))
    start = next((at for at in range(shortest) if len({one[at] for one in words}) > 1), shortest)
    left = shortest - start
    end = next((at for at in range(left) if len({one[-1 - at] for one in words}) > 1), left)
    kept = ["".join(one[start : len(one) - end]).strip(" /=,:·_-") for one in words]
    # What would be left of a number or of nothing is not a name.
    if any(not one or one.isdigit() for one in kept) or len(set(kept)) < len(kinds):
        kept = kinds
    shown = [cut(one, longest) for one in kept]
    if len(set(shown)) < len(kinds):
        numbers = [f" #{number}" for number in range(1, len(kinds) + 1)]
        shown = [cut(one, longest - len(number)) + number for one, number in zip(kept, numbers, strict=True)]
    names = dict(zip(kinds, shown, strict=True))
    return [names[text] for text in texts]


def changing_keys(settings: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """The settings that differ; of several that always change together the first, with the others behind it.

    Args:
        settings: Those of every experiment, with the same keys; at least one.
    """
    first: dict[tuple[int, ...], str] = {}
    found: dict[str, list[str]] = {}
    for key in settings[0]:
        values = [one.get(key, "-") for one in settings]
        if len(set(values)) > 1:
            leader = first.setdefault(tuple(map(values.index, values)), key)
            if leader == key:
                found[key] = []
            else:
                found[leader].append(key)
    return found


def cut(text: str, longest: int = LONGEST) -> str:
    """The text with its middle cut out: names differ at their ends."""
    if len(text) <= longest:
        return text
    tail = (longest - 1) // 2
    return f"{text[: longest - 1 - tail]}…{text[-tail:]}"
