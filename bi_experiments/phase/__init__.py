"""One phase: the process that builds the engine, warms it up, times the trials and runs the probes.

The only code of the project, with `bi_experiments.vllm_cpu`, that imports torch or vLLM.
"""
