"""Plants a fault into one module of a model, so that it gives other results in larger steps. Imports vLLM's torch.

`python faults.py NAME SCRIPT` runs a script whose engines, in its own process, have that fault.
"""

import runpy
import sys
from collections.abc import Callable

import torch
from torch import nn

FAULTS = {
    "linear": ("model.layers.2.self_attn.o_proj", 40),
    "attention": ("model.layers.1.self_attn.attn", 40),
    "norm": ("model.layers.3.post_attention_layernorm", 40),
    "lm_head": ("logits_processor", 2),
}
"""Module, and the largest number of its rows for which it is still right."""


def plant(model: nn.Module, name: str) -> Callable[[], None]:
    """Plant a fault, or nothing for `none`; what is returned takes it out again."""
    if name == "none":
        return lambda: None
    path, rows = FAULTS[name]
    module = model.get_submodule(path)
    compute = module.forward

    def faulty(*args: object, **kwargs: object) -> object:
        output = compute(*args, **kwargs)
        # A result may come as several tensors (a norm's with its residual), or in a tuple (a linear layer's).
        first = output[0] if isinstance(output, tuple) else output
        assert isinstance(first, torch.Tensor)
        if first.shape[0] > rows:
            first.mul_(1.01)
        return output

    module.forward = faulty

    def take_out() -> None:
        del module.forward

    return take_out


def plant_in_every_model(name: str) -> None:
    """Have every model that this process loads on the CPU planted with the fault."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    load = CPUModelRunner.load_model

    def loading(runner: CPUModelRunner, load_dummy_weights: bool = False) -> None:
        load(runner, load_dummy_weights)
        plant(runner.model, name)

    CPUModelRunner.load_model = loading


if __name__ == "__main__":
    fault, script = sys.argv[1:]
    plant_in_every_model(fault)
    runpy.run_path(script, run_name="__main__")
