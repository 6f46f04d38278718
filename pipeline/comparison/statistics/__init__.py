"""Statistics over seeds and over validation examples: numbers and codes, no sentences."""
