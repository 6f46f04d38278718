"""Data sets: read from files or the Hub, cut into batches, or tokenized as one stream for language models."""
