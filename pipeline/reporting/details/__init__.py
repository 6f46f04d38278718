"""What a report shows of the predictions: sentences, tables and figures, task by task."""
