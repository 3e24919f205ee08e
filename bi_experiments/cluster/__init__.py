"""The experiments of a sweep on other machines: as Slurm jobs, as Ray tasks."""
