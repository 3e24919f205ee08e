"""A located difference in sentences: each says what was found, and nothing that was not."""

from msgspec.structs import replace

from bi_experiments.analysis.location import describe
from bi_experiments.records import Arm, BatchRequest, Location, ModuleDifference, SmallestBatch

LINEAR = ModuleDifference(
    rank=0,
    module="model.layers.2.mlp.down_proj",
    class_name="RowParallelLinear",
    kind="matrix multiplication",
    step=0,
    position=4,
    rows_alone=5,
    rows_in_batch=357,
    shape=(5, 512),
    elements=2560,
    differing=512,
    largest_difference=0.125,
    inputs_equal=True,
)
REQUEST = BatchRequest(prompt=(1, 2, 3), max_tokens=2, temperature=0.0, seed=None, samples=1)
SMALLEST = SmallestBatch(
    requests=(REQUEST, replace(REQUEST, prompt=(4,) * 40)),
    position=0,
    sample=0,
    first_difference=0,
    neighbours_before=7,
    tried=14,
    whole=True,
    first=replace(LINEAR, rows_in_batch=43),
    border_tokens=40,
    larger_differing=(41, 42, 47, 80),
)
FOUND = Location(
    arm=Arm.BATCH_INVARIANT,
    composition="batch_8",
    batch=1,
    position=3,
    sample=0,
    first_difference=0,
    prompt_tokens=5,
    first=LINEAR,
    layers=(LINEAR,),
    smallest=SMALLEST,
    logprobs=5,
)


def said(location: Location) -> str:
    return " ".join(describe(location))


def test_the_operator_its_size_the_smallest_batch_and_the_border_are_named() -> None:
    text = said(FOUND)
    assert "model.layers.2.mlp.down_proj (RowParallelLinear, matrix multiplication), at position 5" in text
    assert "its inputs are equal" in text
    assert "512 of 2560 elements differ (shape 5 x 512), by at most 0.125" in text
    assert "357 rows in the batch and 5 alone" in text
    assert "has 1 of the 7 neighbours, with prompts of 40 tokens; there the operator computes 43 rows." in text
    assert "from 40 prompt tokens of the neighbour on" in text
    assert "rank" not in text
    assert "more than one cause" not in text


def test_a_rank_is_named_where_it_is_not_the_first() -> None:
    assert "matrix multiplication) on rank 1" in said(replace(FOUND, first=replace(LINEAR, rank=1)))


def test_unequal_inputs_and_a_second_cause_are_said() -> None:
    assert "its inputs differ already" in said(replace(FOUND, first=replace(LINEAR, inputs_equal=False)))
    other = replace(SMALLEST, first=replace(LINEAR, module="model.norm"))
    assert "more than one cause" in said(replace(FOUND, smallest=other))


def test_a_border_that_does_not_hold_above_is_no_border() -> None:
    text = said(replace(FOUND, smallest=replace(SMALLEST, larger_differing=(41,), larger_equal=(42, 80))))
    assert "It changes at 40 prompt tokens of the neighbour, also at 41, but not at 42, 80." in text
    assert "on (one less" not in text


def test_a_border_above_which_nothing_was_tried_claims_nothing_of_it() -> None:
    text = said(replace(FOUND, smallest=replace(SMALLEST, larger_differing=())))
    assert "It changes at 40 prompt tokens of the neighbour; no longer prompt was tried." in text
    assert "tried above" not in text


def test_a_search_that_ran_out_of_time_says_so() -> None:
    assert "the time was over before the search was" in said(replace(FOUND, smallest=replace(SMALLEST, whole=False)))


def test_a_difference_of_compiled_models_is_said_to_come_from_there() -> None:
    level = "compiled with piecewise graphs"
    compiled = replace(FOUND, level=level, first=None, layers=(), smallest=replace(SMALLEST, first=None))
    assert f"{level}, output token 1 differs. The difference comes from compiled kernels or graphs." in said(compiled)


def test_a_token_of_a_scored_prompt_is_not_called_an_output_token() -> None:
    prompt = replace(FOUND, prompt_positions=4, first_difference=2)
    assert "at position 5 of the sequence (prompt token 4);" in said(prompt)
    assert "(output token 2)" in said(replace(prompt, first_difference=5))
    assert "prompt token 4 differs, and why." in said(replace(prompt, first=None, stopped="why"))


def test_a_batch_that_cannot_be_composed_is_not_called_equal() -> None:
    nothing = replace(FOUND, composed=False, stopped="it cannot be composed again", first_difference=None, first=None)
    assert "probe batch batch_8 #2: it cannot be composed again." in said(replace(nothing, layers=(), smallest=None))
    assert "nothing to locate" not in said(nothing)


def test_what_could_not_be_located_names_no_operator() -> None:
    for stopped, first_difference in (("the probe's output is the same in the batch as alone", None), ("why", 3)):
        nothing = replace(
            FOUND, stopped=stopped, first_difference=first_difference, first=None, layers=(), smallest=None
        )
        assert stopped in said(nothing)
        assert "first operator" not in said(nothing)
