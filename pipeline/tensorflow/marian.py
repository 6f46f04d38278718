"""The hand-written Transformer with the weights of the library's Marian, which is the same architecture.

`pipeline/pytorch/marian.py` has the same definitions in the same order; `pipeline/models/transformer.py` knows the
names of the weights.
"""

from __future__ import annotations

from transformers import TFPreTrainedModel

from pipeline.models.transformer import marian_weights, settings_of, transformer_weights
from pipeline.tensorflow.model import get_weights, set_weights, weight_shapes
from pipeline.tensorflow.transformer import Transformer


def transformer_of(model: TFPreTrainedModel) -> Transformer:
    """The hand-written Transformer with a copy of a stock Marian model's weights.

    Raises UserError if the model is another architecture.
    """
    settings = settings_of(model.config)
    transformer = Transformer(settings)
    set_weights(transformer, transformer_weights(get_weights(model)))
    return transformer


def copy_to_marian(transformer: Transformer, model: TFPreTrainedModel) -> None:
    """Give a stock Marian model the weights of the hand-written Transformer, as to save it as a checkpoint."""
    set_weights(model, marian_weights(get_weights(transformer), weight_shapes(model)))
