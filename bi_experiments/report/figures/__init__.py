"""Figures, from the record alone. Matplotlib is imported in here and nowhere else."""
