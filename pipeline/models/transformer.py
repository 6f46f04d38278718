"""The hand-written Transformer's settings and positions, and its weights under the names that Marian gives them.

The model itself is `pytorch/transformer.py` and `tensorflow/transformer.py`; what both must share is here, in NumPy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# The `model_type` of the configurations whose models the hand-written Transformer can be.
MODEL_TYPE = "marian"
Activation = Literal["relu", "gelu", "swish"]
# The names by which a transformers config calls these functions.
_ACTIVATIONS: dict[str, Activation] = {"relu": "relu", "gelu": "gelu", "swish": "swish", "silu": "swish"}

# The tokens with which a text begins and ends, and the padding.
_SPECIAL_IDS = ("decoder_start_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class TransformerSettings:
    """The sizes of a Transformer, its dropout rates and its special tokens; by default those of the paper's base model.

    `dropout` is the paper's: on the embeddings, and on the output of each sublayer. Texts begin with `start_id` and end
    with `end_id`; `padding_id` fills rows up and is never written.
    """

    vocab_size: int
    width: int = 512
    num_heads: int = 8
    feed_forward_width: int = 2048
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    max_positions: int = 512
    activation: Activation = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    start_id: int = 0
    end_id: int = 1
    padding_id: int = 0


def sinusoids(num_positions: int, width: int) -> NDArray[np.float32]:
    """What is added to the embeddings at each position, [num_positions, width].

    Source: Vaswani et al. 2017, section 3.5. As in Marian all sines come before all cosines, where the paper has them
    in turns: another order of the columns, which the learned weights make up for.
    """
    columns = np.arange(width)
    angles = np.arange(num_positions)[:, None] / np.power(10_000, 2 * (columns // 2) / width)
    return np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=1).astype(np.float32)


def settings_of(config: PretrainedConfig) -> TransformerSettings:
    """The settings with which the hand-written Transformer is the Marian model of this transformers config.

    Raises UserError, with every reason, if it cannot be.
    """
    if problems := transformer_problems(config):
        raise UserError(f"the hand-written Transformer cannot be this model: {'; '.join(problems)}")
    start, end, padding = (cast(int, getattr(config, name)) for name in _SPECIAL_IDS)
    return TransformerSettings(
        vocab_size=config.vocab_size,
        width=config.d_model,
        num_heads=config.encoder_attention_heads,
        feed_forward_width=config.encoder_ffn_dim,
        num_encoder_layers=config.encoder_layers,
        num_decoder_layers=config.decoder_layers,
        max_positions=config.max_position_embeddings,
        activation=_ACTIVATIONS[config.activation_function],
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        start_id=start,
        end_id=end,
        padding_id=padding,
    )


def transformer_problems(config: PretrainedConfig) -> list[str]:
    """The reasons why the hand-written Transformer cannot be a model of this transformers config; empty if it can."""
    if config.model_type != MODEL_TYPE:
        return [f'model_type is "{config.model_type}", but must be "{MODEL_TYPE}"']
    required = {
        "scale_embedding": True,
        "tie_word_embeddings": True,
        "share_encoder_decoder_embeddings": True,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "decoder_attention_heads": config.encoder_attention_heads,
        "decoder_ffn_dim": config.encoder_ffn_dim,
    }
    problems = [
        f"{name} is {getattr(config, name)!r}, but must be {value!r}"
        for name, value in required.items()
        if getattr(config, name) != value
    ]
    problems += [
        f"{name} is None, but must be the id of a token" for name in _SPECIAL_IDS if getattr(config, name) is None
    ]
    if config.activation_function not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        problems.append(f'activation_function is "{config.activation_function}", but must be one of: {known}')
    return problems


# Parts of Marian's names, and what the hand-written Transformer calls them.
_RENAMED = (
    ("model.shared.", "embedding."),
    ("final_logits_bias", "output_bias"),
    ("model.encoder.layers.", "encoder."),
    ("model.decoder.layers.", "decoder."),
    (".self_attn_layer_norm.", ".attention_norm.norm."),
    (".encoder_attn_layer_norm.", ".source_attention_norm.norm."),
    (".final_layer_norm.", ".feed_forward_norm.norm."),
    (".self_attn.", ".attention."),
    (".encoder_attn.", ".source_attention."),
    (".q_proj.", ".query."),
    (".k_proj.", ".key."),
    (".v_proj.", ".value."),
    (".out_proj.", ".out."),
    (".fc1.", ".feed_forward.inner."),
    (".fc2.", ".feed_forward.outer."),
)
# Marian has the same positions twice.
_POSITIONS = re.compile(r"^model\.(encoder|decoder)\.embed_positions\.weight$")


def transformer_name(marian_name: str) -> str:
    """The hand-written Transformer's name of a weight of Marian."""
    if _POSITIONS.match(marian_name):
        return "positions"
    for theirs, ours in _RENAMED:
        marian_name = marian_name.replace(theirs, ours)
    return marian_name


def transformer_weights(marian_weights: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """The weights of the hand-written Transformer that is this Marian model, in the PyTorch layout.

    Raises UserError if encoder and decoder have different positions, of which the Transformer has one table.
    """
    refuse_two_tables([value for name, value in marian_weights.items() if _POSITIONS.match(name)])
    weights = {transformer_name(name): value for name, value in marian_weights.items()}
    return weights | {"output_bias": weights["output_bias"].reshape(-1)}


def refuse_two_tables(positions: list[NDArray]) -> None:
    """Raise UserError if encoder and decoder have different tables of positions."""
    if any(not np.array_equal(table, positions[0]) for table in positions):
        raise UserError(
            "the hand-written Transformer cannot be this model: its encoder and decoder differ in positions"
        )


def module_paths(settings: TransformerSettings) -> Iterator[tuple[str, str]]:
    """Where a Marian model's body has each module with trained weights, and where the Transformer has it.

    >>> list(module_paths(TransformerSettings(vocab_size=11)))[:2]
    [('shared', 'embedding'), ('encoder.layers.0.self_attn.q_proj', 'encoder.0.attention.query')]
    """
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    attention = [*(f"self_attn.{name}" for name in projections), "self_attn_layer_norm"]
    source_attention = [*(f"encoder_attn.{name}" for name in projections), "encoder_attn_layer_norm"]
    feed_forward = ["fc1", "fc2", "final_layer_norm"]
    stacks = {
        "encoder": (settings.num_encoder_layers, [*attention, *feed_forward]),
        "decoder": (settings.num_decoder_layers, [*attention, *source_attention, *feed_forward]),
    }
    paths = ["shared"]
    for stack, (num_layers, names) in stacks.items():
        paths += [f"{stack}.layers.{i}.{name}" for i in range(num_layers) for name in names]
    for path in paths:
        yield path, transformer_name(f"model.{path}.").removesuffix(".")


def marian_weights(weights: Mapping[str, NDArray], marian_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray]:
    """The hand-written Transformer's weights under Marian's names, with the shapes that Marian's weights have."""
    return {name: weights[transformer_name(name)].reshape(shape) for name, shape in marian_shapes.items()}
