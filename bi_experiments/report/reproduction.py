"""A located difference as a script that needs vLLM alone, to attach to an issue."""

from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from bi_experiments.phase.engine import further_arguments
from bi_experiments.records import BatchRequest, EngineSpec, Location

OWN_LINE = 4
"""Requests that get a line each; where there are more, all share one."""
DEFAULTS = {
    "trust_remote_code": False,
    "load_format": "auto",
    "pipeline_parallel_size": 1,
    "tensor_parallel_size": 1,
    "enable_prefix_caching": None,
}
"""Arguments of vLLM that are left out of the script at these values."""


def render(location: Location, engine: EngineSpec, variables: Mapping[str, str], vllm: str) -> str | None:
    """The script, under 60 lines; None where no batch was found that it could run.

    Args:
        location: What was found.
        engine: The engine's arguments with which it was.
        variables: Environment variables that vLLM needs, the mode's among them.
        vllm: The version of vLLM that it was seen with.
    """
    smallest = location.smallest
    if smallest is None:
        return None
    requests = [repr(_asked(one, location.logprobs)) for one in smallest.requests]
    environment = Environment(
        loader=PackageLoader("bi_experiments.report"), autoescape=False, undefined=StrictUndefined, trim_blocks=True
    )
    operator = location.first.module if location.first is not None else "an operator that was not located"
    return (
        environment.get_template("repro.py.j2").render(
            title=f"The output of a request depends on its batch: {operator}.".replace('"""', ""),
            vllm=vllm,
            variables=repr(dict(sorted(variables.items()))),
            engine=repr(engine_arguments(engine)),
            probe=smallest.position,
            requests=requests if len(requests) <= OWN_LINE else [", ".join(requests)],
            sample=smallest.sample,
        )
        + "\n"
    )


def _asked(request: BatchRequest, logprobs: int) -> tuple[object, ...]:
    """A request as the script has it: the prompt, then what vLLM's sampling parameters are made of."""
    of_output, of_prompt = logprobs if request.logprobs else None, logprobs if request.score_prompt else None
    sampling = request.max_tokens, request.temperature, request.seed, request.samples
    return list(request.prompt), *sampling, of_output, of_prompt


def engine_arguments(engine: EngineSpec) -> dict[str, object]:
    """The arguments of `vllm.LLM`, without those at vLLM's defaults."""
    names = (name for name in engine.__struct_fields__ if name not in {"attention_backend", "extra"})
    arguments: dict[str, object] = {name: getattr(engine, name) for name in names}
    arguments = {
        name: value for name, value in arguments.items() if value is not None and DEFAULTS.get(name, ...) != value
    }
    return {**arguments, **further_arguments(engine)}
