"""Text generation in PyTorch. `pipeline/tensorflow/generation.py` has the same definitions in the same order."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.backend import GenerationSettings
from pipeline.models.generation import generation_config


def generate(model: Any, inputs: dict[str, Tensor], settings: GenerationSettings) -> Tensor:
    """Token ids [B, T] that the model writes, greedily or by beam search, as the library does it."""
    # use_model_defaults: else settings that equal the library's own defaults are replaced by the checkpoint's.
    options = {"generation_config": generation_config(model.config, settings), "use_model_defaults": False}
    return model.generate(**inputs, **options)
