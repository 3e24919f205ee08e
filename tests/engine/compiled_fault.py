"""A phase whose model depends on the batch in compiled kernels alone; started in place of `-m bi_experiments.phase`."""

import runpy
import sys

ROWS = 8
"""From one row more on, the compiled activation is another."""


def plant() -> None:
    """Have the activation change with the number of rows wherever it is compiled."""
    import torch
    from vllm.model_executor.layers.activation import SiluAndMul

    activate = SiluAndMul.forward_native

    def forward(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = activate(x)
        if not torch.compiler.is_compiling():
            return out
        rows = torch.ones_like(out[:, :1]).sum(0)
        return torch.where(rows > ROWS, out * 1.001, out)

    SiluAndMul.forward_native = staticmethod(forward)


if __name__ == "__main__":
    _, module, *arguments = sys.argv[1:]
    plant()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
