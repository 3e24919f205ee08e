"""Has engines schedule ahead on the CPU, as on a GPU: `python scheduling_ahead.py -m MODULE ARGUMENT ...`.

vLLM's platform for the CPU switches async scheduling off; its engine core, scheduler and model runner can do it there.
"""

import runpy
import sys

from vllm.config import VllmConfig
from vllm.platforms.cpu import CpuPlatform


def schedule_ahead() -> None:
    """Have every engine that this process builds from now on schedule ahead."""
    check = CpuPlatform.check_and_update_config

    def checked(_: type[CpuPlatform], config: VllmConfig) -> None:
        check(config)
        config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(checked)


if __name__ == "__main__":
    _, module, *arguments = sys.argv[1:]
    schedule_ahead()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
