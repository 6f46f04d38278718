"""Helpers without knowledge of the domain: errors, texts, files, hashing, child processes, the environment."""
