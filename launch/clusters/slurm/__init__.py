"""SLURM jobs, through submitit."""
