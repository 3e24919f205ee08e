"""A located difference in sentences."""

from bi_experiments.analysis.verdict_sentences import place as token
from bi_experiments.records import Location, ModuleDifference, SmallestBatch
from bi_experiments.wording import before_noun, count, four_digits


def describe(location: Location) -> tuple[str, ...]:
    """What was found: the operator, the batch that it takes, and the border; the most important first."""
    said = [_where(location)]
    if location.first is not None and location.level == "eager":
        said.append(_how_large(location.first))
    if location.smallest is not None:
        said += [_smallest(location.smallest), *_border(location.smallest)]
        other = location.smallest.first
        if other is not None and location.first is not None and other.module != location.first.module:
            said.append(f"In that batch the first to differ is {_named(other)}: there is more than one cause.")
    if location.not_shrunk is not None:
        said.append(f"No smaller batch is given: {location.not_shrunk}.")
    return tuple(said)


def _where(location: Location) -> str:
    place = f"In the {before_noun(location.arm)} arm, probe batch {location.composition} #{location.batch + 1}"
    if location.first is not None:
        one = location.first
        inputs = (
            "its inputs are equal" if one.inputs_equal else "its inputs differ already: code before it in the model"
        )
        return (
            f"{place}: the first operator that differs is {_named(one)}, at position {one.position + 1} of the "
            f"sequence ({token(location)}); {inputs}."
        )
    if not location.composed:
        return f"{place}: {location.stopped}."
    if location.first_difference is None:
        return f"{place}: nothing to locate; {location.stopped}."
    if location.stopped is None:
        return (
            f"{place}: eager, the output is the same as alone; {location.level}, {token(location)} differs. "
            "The difference comes from compiled kernels or graphs."
        )
    level = "" if location.level == "eager" else f"{location.level}, "
    return f"{place}: {level}{token(location)} differs, and {location.stopped}."


def _named(one: ModuleDifference) -> str:
    rank = f" on rank {one.rank}" if one.rank else ""
    return f"{one.module} ({one.class_name}, {one.kind}){rank}"


def _how_large(one: ModuleDifference) -> str:
    return (
        f"{one.differing} of {one.elements} elements differ (shape {' x '.join(map(str, one.shape))}), by at most "
        f"{four_digits(one.largest_difference)}; it computes {count(one.rows_in_batch, 'row')} in the batch and "
        f"{one.rows_alone} alone."
    )


def _smallest(smallest: SmallestBatch) -> str:
    neighbours = [request for index, request in enumerate(smallest.requests) if index != smallest.position]
    lengths = sorted({len(request.prompt) for request in neighbours})
    if not neighbours:
        return "The probe changes without any neighbour: by its place in the queue, or by what it was asked for."
    tokens = ("" if lengths[:1] == lengths[-1:] else f"{lengths[0]} to ") + count(lengths[-1], "token")
    end = "" if smallest.whole else "; the time was over before the search was"
    rows = ""
    if smallest.first is not None:
        rows = f"; there the operator computes {count(smallest.first.rows_in_batch, 'row')}"
    kept = "all" if len(neighbours) == smallest.neighbours_before else f"{len(neighbours)} of the"
    return (
        f"The smallest batch that still changes it has {kept} {count(smallest.neighbours_before, 'neighbour')}, with "
        f"prompts of {tokens}{rows}{end}."
    )


def _border(smallest: SmallestBatch) -> tuple[str, ...]:
    border = smallest.border_tokens
    if border is None:
        return ()
    differing = ", ".join(map(str, smallest.larger_differing))
    equal = ", ".join(map(str, smallest.larger_equal))
    if equal:
        also = f", also at {differing}" if differing else ""
        return (f"It changes at {border} prompt tokens of the neighbour{also}, but not at {equal}.",)
    if not differing:
        return (f"It changes at {border} prompt tokens of the neighbour; no longer prompt was tried.",)
    return (f"It changes from {border} prompt tokens of the neighbour on (one less: equal; tried above: {differing}).",)
