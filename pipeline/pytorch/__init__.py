"""PyTorch: the names of `pipeline.backend.Backend`."""

from pipeline.pytorch.model import (
    attention_weights,
    build_model,
    freeze,
    get_weights,
    logits,
    read_pickle,
    set_weights,
    versions,
    weight_shapes,
)
from pipeline.pytorch.swap import attention_calls, restore_attention, swap_attention
from pipeline.pytorch.train import Learner

name = "torch"

__all__ = [
    "Learner",
    "attention_calls",
    "attention_weights",
    "build_model",
    "freeze",
    "get_weights",
    "logits",
    "name",
    "read_pickle",
    "restore_attention",
    "set_weights",
    "swap_attention",
    "versions",
    "weight_shapes",
]
