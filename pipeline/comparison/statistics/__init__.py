"""Statistics over seeds and examples."""
