"""Recipes: their schema, overrides, and loading them from Python and YAML files."""
