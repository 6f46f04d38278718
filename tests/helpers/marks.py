"""Marks that tests of several folders share."""

import pytest

# For what both frameworks do by the same code, in processes that take TensorFlow half a minute.
heavy_in_tensorflow = pytest.mark.parametrize(
    "framework", ["torch", pytest.param("tensorflow", marks=pytest.mark.heavy)], indirect=True
)
