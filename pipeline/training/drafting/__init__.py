"""Drafts of recipes: a look at a file of data, and the recipe that suits it."""
