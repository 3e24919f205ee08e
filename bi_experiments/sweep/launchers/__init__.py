"""Hydra's launchers: the experiments of a sweep on this machine, on Slurm, on Ray."""
