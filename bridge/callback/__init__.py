"""One guarded POST: look-up, judgement, sending, nothing else."""
