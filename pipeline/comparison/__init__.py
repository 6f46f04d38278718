"""Comparing runs: the run matrix, lock-step, evidence of the same experiment, costs."""
