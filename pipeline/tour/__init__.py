"""A tour of what PyTorch and TensorFlow really differ in, measured where it is run."""
