"""The learning rate of every step, computed once in NumPy so that both frameworks apply the same numbers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.recipe.schema import Train


def learning_rates(train: Train, num_steps: int) -> NDArray[np.float64]:
    """The rate applied at each step, shape [num_steps].

    Warm-up is linear from 0 over ceil(warmup_ratio · num_steps) steps; then the rate is constant, falls linearly
    to 0, or follows half a cosine to 0. The same numbers as transformers.get_scheduler, so that a recipe's rate means
    what it means elsewhere.
    """
    warmup = math.ceil(train.warmup_ratio * num_steps)
    step = np.arange(num_steps)
    rising = step / max(1, warmup)
    progress = (step - warmup) / max(1, num_steps - warmup)
    falling = {
        "constant": np.ones(num_steps),
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + np.cos(np.pi * progress)),
    }[train.schedule]
    return train.learning_rate * np.where(step < warmup, rising, falling)
