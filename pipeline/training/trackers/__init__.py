"""Trackers: TensorBoard, Weights & Biases and MLflow, which show a run while it trains."""
