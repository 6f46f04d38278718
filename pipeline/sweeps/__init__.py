"""Sweeps: many trials of one recipe, each with other values of some keys, to find the values that score best."""
