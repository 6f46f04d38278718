"""Metrics as `evaluate.Metric` classes that work offline."""
