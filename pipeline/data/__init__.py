"""Data sets: reading files and the Hub, batches, token streams."""
