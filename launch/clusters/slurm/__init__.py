"""Jobs of SLURM, through submitit."""
