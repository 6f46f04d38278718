"""What both frameworks share about models: families, checkpoints, initialization, attention, optimization rules."""
