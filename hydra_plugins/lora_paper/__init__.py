"""What Hydra is given of ours: the sweeper, and Slurm's launcher. It takes plugins from a folder of this name alone."""
