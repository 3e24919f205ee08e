"""What vLLM's batch-invariant mode costs, and whether it really holds.

The rooms of this package, in the order in which one configuration passes through them:

* `__main__`: composes the command line and runs it; `api`, below, is one phase as a function of Python
* `config`: what may be asked for; refuses what contradicts itself, and starts nothing
* `identity`: what makes an experiment the one it is: its configuration, and what it runs on
* `claim`: an output folder belongs to one experiment: what keeps others out of it
* `experiment`: the spine of one configuration: prepare, make the inputs, launch the pairs, conclude, report
* `localisation`: which operator makes an output depend on its batch, once an experiment has ended
* `machine`: what this machine is, and what of it is free
* `workload`: the prompts of all trials
* `launch`: the parent's side of a phase: when it runs, what it is passed, how it is started and followed
* `phase`: the child's side: engine, trials, proof; with `vllm_cpu` the only code that imports vLLM
* `vllm_cpu`: the mode on vLLM's CPU backend, as a plugin of vLLM
* `analysis`: from records to numbers, findings, verdicts and the exit code
* `report`: from a record to text, pages and figures
* `tracking`: MLflow
* `sweep`: many experiments of one command

Other doors:

* `api`: one phase, as a function
* `compare`: two experiments against each other
* `locate`: names the first operator whose output depends on the batch
* `operations`: the names of what a profiled experiment ran, with their class
* `plan`: what more pairs would buy
* `track`: logs to MLflow what was not logged

Used in every room:

* `records`: what is written down: frozen, typed, versioned
* `errors`: what is said when something is wrong: one line on standard error, and an exit code
* `paths`: the output folder of an experiment: its files by name
* `files`: those that several processes share: atomic writes, locks
* `signals`: those that end the program: how it does so, and what they must not cut in two
* `wording`: how numbers are written in sentences
* `vocabulary`: the words that prompts are made of
"""

from typing import TYPE_CHECKING

from bi_experiments.api import run_benchmark_with_batch_invariant

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """`__version__`, when it is asked for: what reads it from the installed package takes a tenth of a second."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("bi_experiments")
        except PackageNotFoundError:  # a checkout on the path that is not installed
            return "unknown"


__all__ = ["__version__", "run_benchmark_with_batch_invariant"]
