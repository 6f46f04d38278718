"""What only a GPU needs in PyTorch. TensorFlow has no counterpart: it compiles a step by itself."""
