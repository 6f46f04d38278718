"""Gradient checkpointing in PyTorch: of a layer only its inputs are kept, and the backward pass computes it again.

So the memory that activations take is that of one layer, and a step computes the forward pass twice. Loss and gradients
stay what they are: shared dropout masks are functions of their tokens and sites, and random generators are set back.
`pipeline/tensorflow/gradient_checkpointing.py` has the same definitions in the same order.
Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache

from pipeline.pytorch.dropout import DropoutMasks
from pipeline.pytorch.sites import stacked_layers


def checkpoint_layers(
    model: nn.Module, masks: DropoutMasks, forward_pass: Callable[[], AbstractContextManager], draws: bool
) -> None:
    """Have each layer of a model's stacks compute again what its backward pass needs, in place.

    Only in training. `forward_pass` is around each forward pass of the model, and `draws` says whether layers draw
    random numbers.
    """
    for layer in stacked_layers(model):
        layer.forward = CheckpointedLayer(layer, masks, forward_pass, draws).compute


class CheckpointedLayer:
    """The forward pass of one layer, and what its backward pass needs to compute it again."""

    def __init__(
        self,
        layer: nn.Module,
        masks: DropoutMasks,
        forward_pass: Callable[[], AbstractContextManager],
        draws: bool,
    ):
        self.layer, self.masks, self.forward_pass, self.draws = layer, masks, forward_pass, draws
        self.is_again = False

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the layer, without what it computes on the way."""
        if self.is_again or not self.layer.training:
            return type(self.layer).forward(self.layer, *args, **kwargs)
        # Keys and values are for texts that are written, and a second pass would add them again.
        args = tuple(None if isinstance(each, Cache) else each for each in args)
        kwargs = {name: None if isinstance(each, Cache) else each for name, each in kwargs.items()}
        site, passes = self.masks.site, itertools.count()

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.masks.site = site
            if not next(passes):
                return type(self.layer).forward(self.layer, *args, **kwargs)
            self.is_again = True
            try:
                with self.forward_pass():
                    return self.layer(*args, **kwargs)  # with the hooks of the layer, which may replace dropout
            finally:
                self.is_again = False

        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=self.draws, **kwargs)
