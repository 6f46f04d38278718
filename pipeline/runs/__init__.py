"""Finished runs: their directory, their record, predicting with them."""
