"""Statistics over seeds and over validation examples: numbers and codes, no sentences."""

import warnings

import pandas  # noqa: F401 (so that only statsmodels itself is imported below)
import scipy.stats  # noqa: F401 (the same)

with warnings.catch_warnings():  # statsmodels adds filters for its warnings to those of the process
    import statsmodels.stats.api  # noqa: F401
