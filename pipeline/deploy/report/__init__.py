"""What it costs to use a run's model: in each export format, and eagerly or as a graph."""
