"""All that the pipeline knows of its model families; another one needs an entry here, and a file in each swap.

The swaps (`pytorch/swap` and `tensorflow/swap`) know how a family's modules are called; no other file does.
Weight names are those of Hugging Face's PyTorch models, which are the names in a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.models.transformer import sinusoids

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from pipeline.backend import Architecture

# Matches nothing, for families without weights of a kind.
_NONE = re.compile(r"(?!)")


@dataclass(frozen=True)
class Family:
    """The facts of one model family; functions take its transformers config.

    Weights whose names begin with `body_prefix` must be in a checkpoint, except those that `optional_weights`
    matches: they are drawn anew where they are missing. `unread_weights` matches weights of old checkpoints that no
    model reads. `tied_outputs` maps a stock class name to the output whose last entry a tied output matrix reads.
    """

    model_type: str
    title: str
    # Decides which tasks it serves: each says for which kinds of models both frameworks have its head.
    architecture: Architecture
    # The settings of the config that are dropout rates; a recipe's `train.dropout` sets all of them.
    dropout_keys: tuple[str, ...]
    body_prefix: str
    # The standard deviation of a weight matrix that is drawn anew, by its name.
    initial_deviation: Callable[[str, PretrainedConfig], float]
    num_attentions: Callable[[PretrainedConfig], int]
    optional_weights: re.Pattern = _NONE
    unread_weights: re.Pattern = _NONE
    # Weights that are never trained, by shell-style patterns of their names, with what makes one of a shape where a
    # checkpoint lacks it.
    constant_weights: Mapping[str, Callable[[tuple[int, ...]], NDArray[np.float32]]] = field(default_factory=dict)
    # Whether a head that reads one vector for each text reads its last token, rather than its first.
    pools_last_token: bool = False
    # Whether the output matrix belongs to the body, so that it may only be missing where it is tied.
    output_in_body: bool = False
    # The embedding matrix whose row for padding starts at 0.
    padded_embedding: str | None = None
    # A weight that is drawn anew with values that are not random; None for all others.
    computed_start: Callable[[str, tuple[int, ...], PretrainedConfig], NDArray[np.float32] | None] = (
        lambda name, shape, config: None
    )
    # Whether it reads token types, which say of a pair of texts which token is whose.
    reads_token_types: Callable[[PretrainedConfig], bool] = lambda config: False
    # The linear layers in the model's layers by the last parts of their names, those that LoRA adapts by default, and
    # which of them read the source in a decoder.
    projections: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    reads_source: re.Pattern = _NONE
    # Whether the matrices of these layers are [in, out], where Linear has [out, in].
    has_inputs_first: bool = False
    max_positions: Callable[[PretrainedConfig], int | None] = lambda config: config.max_position_embeddings
    # Which of the library's implementations computes the stock attention in PyTorch, if its choice is another one.
    attention_implementation: str | None = None
    # Settings of the config without which the library's PyTorch and TensorFlow compute different models.
    requires: Mapping[str, object] = field(default_factory=dict)
    # Whether the stock TensorFlow model cannot be traced for texts of any length, but its layers can.
    traced_by_layers: bool = False
    # Whether the token for padding may be in a text that a model writes.
    writes_padding: bool = True
    # Settings of the config without which the attention cannot be swapped.
    swap_requires: Mapping[str, object] = field(default_factory=dict)
    tied_outputs: Mapping[str, str] = field(default_factory=dict)
    # The output matrix of a masked language model, if it has one of its own.
    masked_output: str | None = None
    # What the hidden states are multiplied by before a tied output matrix reads them.
    tied_output_scale: Callable[[PretrainedConfig], float] = lambda config: 1.0
    # A weight without the entries whose gradient is 0, and the names of weights that are 0 throughout.
    without_key_bias: Callable[[str, NDArray], NDArray] = lambda name, value: value
    constant_shifts: Callable[[Iterable[str]], set[str]] = lambda names: set()

    def is_unread(self, name: str, config: PretrainedConfig) -> bool:
        """Whether a checkpoint may have this weight although the model has none of that name."""
        is_copy = self.output_in_body and config.tie_word_embeddings and name == "lm_head.weight"
        return is_copy or self.unread_weights.search(name) is not None

    def is_required(self, name: str) -> bool:
        """Whether a checkpoint must have this weight of the model."""
        is_optional = self.optional_weights.search(name) or any(
            fnmatchcase(name, each) for each in self.constant_weights
        )
        return name.startswith(self.body_prefix) and not is_optional

    def constant_weight(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """The value of a weight that is never trained; None for other weights."""
        made = (make(shape) for pattern, make in self.constant_weights.items() if fnmatchcase(name, pattern))
        return next(made, None)

    def without_constants(self, names: Iterable[str]) -> list[str]:
        """The names of weights that may be trained."""
        return [name for name in names if not any(fnmatchcase(name, each) for each in self.constant_weights)]

    def weights_with_effect(self, weights: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The weights that the loss depends on; of a vector in part, that part.

        A bias of the keys shifts all scores of a query alike, and softmax forgets that; so it is with what a span
        head adds to every position alike. Their gradients are rounding noise, which Adam scales up to whole steps.
        """
        idle = self.constant_shifts(weights)
        return {name: self.without_key_bias(name, value) for name, value in weights.items() if name not in idle}


def _gpt2_deviation(name: str, config: PretrainedConfig) -> float:
    """0.02; residual projections over sqrt(2 * layers). Source: Radford et al. 2019."""
    is_residual = name.endswith("c_proj.weight")
    return config.initializer_range / np.sqrt(2 * config.n_layer) if is_residual else config.initializer_range


def _t5_deviation(name: str, config: PretrainedConfig) -> float:
    """By the number of inputs. Source: Raffel et al. 2020."""
    fan_in = {
        "q": config.d_model * config.d_kv,
        "o": config.num_heads * config.d_kv,
        "wo": config.d_ff,
        "shared": 1,
        "lm_head": 1,
    }.get(name.split(".")[-2], config.d_model)
    return config.initializer_factor * fan_in**-0.5


def _t5_attentions(config: PretrainedConfig) -> int:
    """One in each layer of the encoder, two in each of the decoder."""
    return config.num_layers + 2 * (config.num_decoder_layers if config.is_encoder_decoder else 0)


def _distilbert_start(name: str, shape: tuple[int, ...], config: PretrainedConfig) -> NDArray[np.float32] | None:
    """Positions that begin as sines and cosines in turn, if the config says so, and are trained as all weights are.

    Marian has all sines before all cosines. Source: Vaswani et al. 2017, section 3.5.
    """
    if not config.sinusoidal_pos_embds or not name.endswith("position_embeddings.weight"):
        return None
    halves = sinusoids(shape[0], shape[1])
    return np.stack(np.split(halves, 2, axis=1), axis=2).reshape(shape)


def _without_bias(ending: str) -> Callable[[str, NDArray], NDArray]:
    """A function of a weight's name and value: the value without entries if the name ends so."""
    return lambda name, value: value[:0] if name.endswith(ending) else value


def _gpt2_without_key_bias(name: str, value: NDArray) -> NDArray:
    """GPT-2 has the biases of query, key and value in one vector."""
    if not name.endswith("c_attn.bias"):
        return value
    query, _, values = np.split(value, 3)
    return np.concatenate([query, values])


def _span_shifts(last_norm: str) -> Callable[[Iterable[str]], set[str]]:
    """A function of weights' names: the biases that shift the logits of all positions alike.

    They are the span head's, and that of the LayerNorm before it, whose names in all layers match `last_norm`.
    """

    def shifts(names: Iterable[str]) -> set[str]:
        if "qa_outputs.bias" not in names:
            return set()
        layers = {int(match.group(1)): name for name in names if (match := re.search(last_norm, name))}
        return {"qa_outputs.bias", layers[max(layers)]}

    return shifts


_BERT = Family(
    model_type="bert",
    title="BERT encoders",
    architecture="encoder",
    dropout_keys=("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
    body_prefix="bert.",
    initial_deviation=lambda name, config: config.initializer_range,  # 0.02. Source: Devlin et al. 2018
    num_attentions=lambda config: config.num_hidden_layers,
    optional_weights=re.compile(r"(^|\.)pooler\."),
    unread_weights=re.compile(r"(^|\.)position_ids$"),
    padded_embedding="word_embeddings.weight",
    masked_output="cls.predictions.decoder.weight",
    projections=("query", "key", "value", "dense"),
    adapted=("query", "value"),
    swap_requires={"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    reads_token_types=lambda config: True,
    without_key_bias=_without_bias("key.bias"),
    constant_shifts=_span_shifts(r"encoder\.layer\.(\d+)\.output\.LayerNorm\.bias$"),
)
_DISTILBERT = Family(
    model_type="distilbert",
    title="DistilBERT encoders",
    architecture="encoder",
    dropout_keys=("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"),
    body_prefix="distilbert.",
    initial_deviation=lambda name, config: config.initializer_range,  # 0.02, as in BERT
    num_attentions=lambda config: config.num_hidden_layers,
    unread_weights=re.compile(r"(^|\.)position_ids$"),
    padded_embedding="word_embeddings.weight",
    masked_output="vocab_projector.weight",
    computed_start=_distilbert_start,
    projections=("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    adapted=("q_lin", "v_lin"),
    without_key_bias=_without_bias("k_lin.bias"),
    # With dropout before the span head, the bias of the LayerNorm has an effect in training, but none in evaluation.
    constant_shifts=_span_shifts(r"transformer\.layer\.(\d+)\.output_layer_norm\.bias$"),
)
_ROBERTA = replace(
    _BERT,
    model_type="roberta",
    title="RoBERTa encoders",
    body_prefix="roberta.",
    masked_output="lm_head.decoder.weight",
    # The rows of the position embeddings up to that of padding hold no position.
    max_positions=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    # TensorFlow counts positions from 2, and those of padding as 1, whatever the config says.
    requires={"pad_token_id": 1},
    reads_token_types=lambda config: config.type_vocab_size > 1,
)
_GPT2 = Family(
    model_type="gpt2",
    title="GPT-2 decoders",
    architecture="decoder",
    dropout_keys=("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"),
    body_prefix="transformer.",
    initial_deviation=_gpt2_deviation,
    num_attentions=lambda config: config.num_hidden_layers,
    # Causal masks, which today's library computes.
    unread_weights=re.compile(r"(^|\.)attn\.(bias|masked_bias)$"),
    # TensorFlow's stock GPT-2 ignores the first three, so the two frameworks would compute different logits.
    swap_requires={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    pools_last_token=True,
    projections=("c_attn", "c_proj", "c_fc"),
    adapted=("c_attn",),
    has_inputs_first=True,
    tied_outputs={"GPT2LMHeadModel": "hidden_states"},
    without_key_bias=_gpt2_without_key_bias,
)
_T5 = Family(
    model_type="t5",
    title="T5 encoders and decoders",
    architecture="encoder-decoder",
    dropout_keys=("dropout_rate", "classifier_dropout"),
    body_prefix="",  # every weight of T5 is pretrained
    initial_deviation=_t5_deviation,
    num_attentions=_t5_attentions,
    # The embeddings under the names of both stacks, and a bias that its authors' files have and no model reads.
    unread_weights=re.compile(
        r"^(encoder|decoder)\.embed_tokens\.weight$"
        r"|^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$"
    ),
    output_in_body=True,
    projections=("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"),
    adapted=("q", "v"),
    reads_source=re.compile(r"\.EncDecAttention\.[kv]$"),
    max_positions=lambda config: None,  # positions are relative
    # 4.57 has no other one; version 5 has PyTorch's fused attention too, which rounds differently.
    attention_implementation="eager",
    tied_outputs={"T5ForConditionalGeneration": "decoder_hidden_states"},
    # Version 5 of transformers has a setting of its own for that, since it calls every T5 tied.
    tied_output_scale=lambda config: config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", True) else 1.0,
)
_MARIAN = Family(
    model_type="marian",
    title="Marian encoders and decoders",
    architecture="encoder-decoder",
    dropout_keys=("dropout", "attention_dropout", "activation_dropout"),
    body_prefix="",  # every weight of Marian is pretrained
    initial_deviation=lambda name, config: config.init_std,  # 0.02, as in the library
    num_attentions=lambda config: config.encoder_layers + 2 * config.decoder_layers,
    # The embeddings under the names of both stacks.
    unread_weights=re.compile(r"^model\.(encoder|decoder)\.embed_tokens\.weight$"),
    # TensorFlow would train the positions, PyTorch does not; only the conversion of a model sets the bias.
    constant_weights={
        "*.embed_positions.weight": lambda shape: sinusoids(*shape),
        "final_logits_bias": lambda shape: np.zeros(shape, np.float32),
    },
    output_in_body=True,
    padded_embedding="model.shared.weight",
    projections=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    adapted=("q_proj", "v_proj"),
    reads_source=re.compile(r"\.encoder_attn\.[kv]_proj$"),
    # TensorFlow ignores the first two. Which layers the others leave out is drawn by each framework for itself.
    requires={
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
    },
    # The stock decoder asks for the length of the text while it is traced.
    traced_by_layers=True,
    # A text begins with padding, and its authors' checkpoints never trained the score of padding.
    writes_padding=False,
    tied_outputs={"MarianMTModel": "decoder_hidden_states"},
    without_key_bias=_without_bias("k_proj.bias"),
)
FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (_BERT, _DISTILBERT, _ROBERTA, _GPT2, _T5, _MARIAN)
}


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model with this transformers config, whose `model_type` must be in FAMILIES."""
    return FAMILIES[config.model_type]


def families_of(architectures: Collection[Architecture]) -> tuple[str, ...]:
    """The model types of these architectures, such as ("gpt2",) of ("decoder",)."""
    return tuple(family.model_type for family in FAMILIES.values() if family.architecture in architectures)


@dataclass(frozen=True)
class Suggestion:
    """A checkpoint for somebody who has none in mind, with a usual learning rate and what it is."""

    name: str
    learning_rate: float
    reason: str


def suggested_checkpoint(architecture: Architecture, is_english: bool, case_matters: bool) -> Suggestion:
    """A well-known checkpoint of an architecture, for English or for texts of other languages."""
    if architecture == "decoder":
        return Suggestion("openai-community/gpt2", 5e-5, "A small model that continues texts, mostly English ones")
    if architecture == "encoder-decoder":
        return Suggestion("google-t5/t5-small", 3e-4, "A small model that rewrites texts: English, German, French")
    if not is_english:
        name = "google-bert/bert-base-multilingual-cased"
        return Suggestion(name, 3e-5, "The texts are not, or not only, English, and this model knows 104 languages")
    if case_matters:
        return Suggestion(
            "google-bert/bert-base-cased", 3e-5, "Capital letters help to find names; this model has them"
        )
    return Suggestion("google-bert/bert-base-uncased", 3e-5, "The usual model for English texts")


def unknown_head(model: object) -> str:
    """The message for a model whose head is not known where packed batches are computed."""
    return f"{type(model).__name__} has a head that cannot be computed for packed batches: set data.batching to padded"
