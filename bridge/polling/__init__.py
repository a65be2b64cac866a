"""Polls amux: which task is due, what its answer means, and what has to be written to the store."""
