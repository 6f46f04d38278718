"""Task families: columns to model inputs, model outputs to predictions, in NumPy."""
