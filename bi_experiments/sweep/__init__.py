"""Sweeps: the experiments of one Hydra multirun, their identity, resuming them, and their summary.

Every experiment writes down what became of it (`records.py`) in the process that ran it, wherever a launcher put that;
the summary (`summary.py`) is regenerated from those records. So it is the same for every launcher, and whatever ends a
sweep, what was finished stands.
"""
