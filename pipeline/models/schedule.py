"""The learning rate of every update, computed once in NumPy so that both frameworks apply the same numbers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.recipe.schema import Train


def learning_rates(train: Train, num_updates: int) -> NDArray[np.float64]:
    """The rate applied at each update, shape [num_updates].

    Warm-up is linear from 0 over ceil(warmup_ratio · num_updates) updates; then the rate is constant, falls linearly
    to 0, or follows half a cosine to 0. The same numbers as transformers.get_scheduler, so that a recipe's rate means
    what it means elsewhere.
    """
    warmup = math.ceil(train.warmup_ratio * num_updates)
    update = np.arange(num_updates)
    rising = update / max(1, warmup)
    progress = (update - warmup) / max(1, num_updates - warmup)
    falling = {
        "constant": np.ones(num_updates),
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + np.cos(np.pi * progress)),
    }[train.schedule]
    return train.learning_rate * np.where(update < warmup, rising, falling)
