"""Two dumps in terms of Services: what calls notice, and nothing else."""
