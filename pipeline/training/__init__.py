"""Training runs: from a recipe to a run directory, saving and resuming on the way."""
