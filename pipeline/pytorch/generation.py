"""Text generation in PyTorch. `pipeline/tensorflow/generation.py` has the same definitions in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pipeline.models.generation import generation_config


def generate(model: Any, inputs: dict[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
    """Token ids [B, T] that the model writes, greedily or by beam search, as the library does it.

    `settings` has max_new_tokens, num_beams and length_penalty.
    """
    # use_model_defaults: else settings that equal the library's own defaults are replaced by the checkpoint's.
    options = {"generation_config": generation_config(model.config, settings), "use_model_defaults": False}
    return model.generate(**inputs, **options)
