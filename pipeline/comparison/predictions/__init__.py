"""What the predictions of each variant show, task by task."""
