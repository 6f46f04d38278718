"""The model card: the README.md that is saved with a trained model."""

from __future__ import annotations

import math
import os
from pathlib import Path

from pipeline.recipe.schema import Recipe
from pipeline.runs.record import Metrics, RunIdentity


def model_card(recipe: Recipe, auto_class: str, identity: RunIdentity, metrics: Metrics) -> str:
    """What the model is, what it was made from, and how well it scores."""
    scores = "\n".join(f"| {name} | {_score(value)} |" for name, value in metrics.items())
    # The path of a local checkpoint is the business of its machine.
    base = Path(recipe.checkpoint).name if os.path.isabs(recipe.checkpoint) else recipe.checkpoint
    start = "random weights of the architecture of" if recipe.weights == "random" else "the pretrained checkpoint"
    source = recipe.data.path + (f" ({recipe.data.name})" if recipe.data.name else "")
    return f"""# {recipe.name}

A model for {recipe.task}, fine-tuned from {start} `{base}` on {source} in {identity.framework} with
{identity.attention} attention, seed {identity.seed}. It loads with
`{auto_class}.from_pretrained` in PyTorch.

| validation metric | value |
|---|---|
{scores}

Training: {recipe.train.epochs} epochs, batch size {recipe.train.batch_size}, learning rate
{recipe.train.learning_rate:g} ({recipe.train.schedule}), precision {recipe.train.precision}. The whole recipe is
`recipe.yaml` in the run's directory.
"""


def _score(value: float | None) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{value:.4f}"
