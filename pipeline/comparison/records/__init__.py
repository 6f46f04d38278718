"""Typed parts of the results of a comparison."""
