"""Metrics: one file for each kind, `specs` for the table of all of them, `scoring` for their use in an evaluation."""
