"""Learning rates, against transformers' own schedulers."""

import pytest
import torch
from transformers import get_scheduler

from pipeline.models.optimization import learning_rates
from pipeline.recipe.schema import Train


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.06, 0.5, 1.0])
def test_rates_are_those_of_the_library(schedule, warmup_ratio):
    steps, train = 53, Train(learning_rate=3e-4, schedule=schedule, warmup_ratio=warmup_ratio)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    warmup = -int(-(warmup_ratio * steps) // 1)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert learning_rates(train, steps) == pytest.approx(expected, rel=1e-12, abs=1e-18)
