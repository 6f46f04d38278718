"""The modules of each model family in transformers: another attention put in and taken out, packed rows computed.

The only file of this folder that knows how those models call their modules; `_FAMILIES` at its end lists what it knows.
A *site* is one place where a model attends: a module with the stock call signature that holds an attention with the
contract of `MultiHeadAttention`. Weights move, they are not copied: while swapped they belong to the new attention,
afterwards to the stock module again. `pipeline/tensorflow/swap.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · K head width · D model width
# R rows of a packed batch · L their positions · S source positions · T target positions
# N tokens that the head reads, of all rows

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, PreTrainedModel
from transformers.models.bert import modeling_bert
from transformers.models.bert.modeling_bert import BertAttention, BertSelfAttention
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block
from transformers.models.marian.modeling_marian import (
    MarianAttention,
    MarianDecoderLayer,
    MarianEncoderLayer,
    MarianModel,
)
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerCrossAttention, T5LayerSelfAttention
from transformers.pytorch_utils import Conv1D

from pipeline.models.attention import HANDWRITTEN_MODEL, attention_class, refuse_arguments, refuse_unsupported
from pipeline.models.transformer import marian_weights, settings_of, transformer_weights
from pipeline.pytorch.attention import MultiHeadAttention
from pipeline.pytorch.body import TransformerBody
from pipeline.pytorch.library import additive, asks_for_attention, hidden_states_of, install_recorders
from pipeline.pytorch.lora import base_of, cut_adapter, join_adapter
from pipeline.pytorch.model import get_weights, set_weights, weight_shapes
from pipeline.pytorch.packed import bias_of, chosen, language_model_logits, plain_head, same_example
from pipeline.pytorch.sites import (
    PROJECTIONS,
    Site,
    Slot,
    guard_stock_only,
    put,
    refuse_own_classes,
    refuse_shared,
    swapped_sites,
)
from pipeline.pytorch.transformer import DecoderLayer, EncoderLayer, Transformer
from pipeline.utils.errors import UserError


def swap_attention(model: PreTrainedModel, attention: str | type = "handwritten") -> int:
    """Replace every attention of a stock BERT, GPT-2, T5 or Marian model, whatever its head; returns how many.

    `attention` is "handwritten", "package.module:ClassName", or a class with the constructor, the projections
    and the call of `MultiHeadAttention`. With "handwritten-model" all that is around the attention in a Marian model
    is replaced too: its body becomes the hand-written Transformer. Weights, their dtype, device, frozenness and the
    train or eval mode are carried over, and so are hooks on the stock attention. Build the optimizer afterwards:
    GPT-2's merged weights become new parameters. Draw weights anew before: the library's `_init_weights` knows only
    the stock modules. Until `restore_attention`, `save_pretrained` and `prune_heads` raise UserError, also those of a
    model around this one.
    Raises UserError, before anything is changed, if the model or the class does not fit.
    """
    refuse_unsupported(model, attention)
    is_whole = attention == HANDWRITTEN_MODEL
    attention_type = MultiHeadAttention if is_whole else attention_class(attention, MultiHeadAttention)
    if attention_sites(model):
        raise UserError(f"{type(model).__name__} is swapped already; call restore_attention first")
    slots = _slots(model)
    if not slots:
        raise UserError(f"{type(model).__name__} has no attention of BERT, GPT-2, T5 or Marian inside")
    refuse_shared(model, slots)
    stock_types = tuple(stock_type for _, _, site, _ in _SLOTS for stock_type in site.stock_types)
    refuse_own_classes(model, slots, stock_types)
    install_recorders(model)
    # A new attention draws initial weights that are never used: the random state stays as it was.
    with torch.random.fork_rng(devices=[]):
        if is_whole:
            put_body(model)
        else:
            put_sites(slots, attention_type)
    guard_stock_only()
    return len(slots)


def put_sites(slots: list[Slot], attention_type: type) -> None:
    """Put a site with an attention of this class into each slot."""
    sites = [slot.site(slot.attention, attention_type) for slot in slots]
    for slot, site in zip(slots, sites, strict=True):
        site.take_weights(slot.parent)
        slot.put(site)


def put_body(model: Any) -> None:
    """Put the hand-written Transformer in the place of the model's body. Raises UserError if it is another body."""
    if type(getattr(model, "model", None)) is not MarianModel:
        raise UserError(f"{type(model).__name__} is not a translation model of the library, with encoder and decoder")
    put(model, "model", TransformerBody(model.model))


def restore_attention(model: PreTrainedModel) -> int:
    """Undo `swap_attention`: put the stock modules back, with the trained weights; returns how many."""
    body, sites = getattr(model, "model", None), attention_sites(model)
    if isinstance(body, TransformerBody):
        body.give_weights_back()
        put(model, "model", body.stock)
        return sites
    slots = [slot for slot in _slots(model) if isinstance(slot.attention, Site)]
    for slot in slots:
        site = slot.attention
        site.give_weights_back(slot.parent)
        site.stock.train(site.training)
        site.stock._is_full_backward_hook = site._is_full_backward_hook
        slot.put(site.stock)
    return len(slots)


def attention_sites(model: PreTrainedModel) -> int:
    """How many places of the model attend through a swapped attention; 0 for a stock model."""
    return len(attention_calls(model))


def attention_calls(model: PreTrainedModel) -> list[int]:
    """How often each swapped site was called since the swap, in the order of the model's modules.

    Calls of a compiled model (torch.compile) are not counted.
    """
    return [site.calls for site in swapped_sites(model)]


def attentions(model: PreTrainedModel) -> list[Slot]:
    """Every place where the model attends, by a stock or a swapped module, in the model's order."""
    return _slots(model)


def decoder_parts(model: Any) -> list[nn.Module]:
    """The modules of a model that compute the target of an encoder-decoder; none if it is something else."""
    if not model.config.is_encoder_decoder:
        return []
    body: Any = getattr(model, "model", model)
    if isinstance(body, TransformerBody):
        return [body.transformer.target_dropout, *body.transformer.decoder]
    return [model.get_decoder()]


def packed_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None = None) -> Tensor:
    """The last hidden states of a packed batch, [R, L, D], those of the decoder if there is one.

    With `read_N` only those of the tokens that `tokens_read` returned, [1, N, D].
    """
    return _FAMILIES[model.config.model_type].packed_hidden_states(model, inputs, read_N)


def parts_of_tokens_read(model: Any) -> list[Any]:
    """The modules that compute only the tokens of `tokens_read`: the model with its head, and the end of its body."""
    return [model, *_FAMILIES[model.config.model_type].body_parts_of_tokens_read(model)]


def head(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits in fp32 that the model's head computes from hidden states, each for itself: [B, T, classes].

    Raises UserError for a head that is not known here.
    """
    return _FAMILIES[model.config.model_type].head(model, hidden_BTD).float()


class BertSite(Site):
    """Replaces BertSelfAttention and the dense layer behind it, which is the output projection."""

    # Version 4 of transformers has a class of its own for PyTorch's fused attention.
    stock_types = (BertSelfAttention, getattr(modeling_bert, "BertSdpaSelfAttention", BertSelfAttention))
    kept = ("query", "key", "value")

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.query.in_features, num_heads=stock.num_attention_heads)
        super().__init__(stock, attention_type, **arguments, dropout=stock.dropout.p)

    def take_weights(self, parent: Any) -> None:
        for name in ("query", "key", "value"):
            put(self.attention, name, getattr(self.stock, name))
        put(self.attention, "out", parent.output.dense)
        put(parent.output, "dense", nn.Identity())

    def give_weights_back(self, parent: Any) -> None:
        for name in ("query", "key", "value"):
            put(self.stock, name, getattr(self.attention, name))
        put(parent.output, "dense", self.attention.out)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool | None = False,
        cache_position: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The library's outputs: hidden states [B, T, D], and attention weights [B, H, T, S] on request."""
        refuse_arguments(
            "BERT",
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            past_key_values=past_key_values if cache is None else cache,
        )
        bias_BHTS = additive(attention_mask, hidden_states.shape[1])
        return self.attend(hidden_states, None, bias_BHTS, None, output_attentions)


class GPT2Site(Site):
    """Replaces GPT2Attention, whose one merged weight has query, key and value side by side."""

    stock_types = (GPT2Attention,)
    kept = ("resid_dropout",)

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.embed_dim, num_heads=stock.num_heads, dropout=stock.attn_dropout.p)
        super().__init__(stock, attention_type, **arguments)

    @classmethod
    def unfit(cls, stock: Any) -> str | None:
        """Its merged projection is cut, so it has to be the library's, whatever wraps the projections of others."""
        merged = type(base_of(stock.c_attn))
        return None if merged is Conv1D else f"c_attn is {merged.__name__}, but has to be Conv1D"

    def take_weights(self, parent: Any) -> None:
        merged, projected = base_of(self.stock.c_attn), base_of(self.stock.c_proj)
        self.resid_dropout = self.stock.resid_dropout
        attention = self.attention
        # GPT-2 stores Conv1D weights [in, out]; Linear wants [out, in].
        weights = merged.weight.detach().chunk(3, dim=1)
        biases = merged.bias.detach().chunk(3)
        for linear, weight, bias in zip(
            (attention.query, attention.key, attention.value), weights, biases, strict=True
        ):
            linear.weight = nn.Parameter(weight.t().contiguous(), merged.weight.requires_grad)
            linear.bias = nn.Parameter(bias.clone(), merged.bias.requires_grad)
        weight = projected.weight.detach().t().contiguous()
        attention.out.weight = nn.Parameter(weight, projected.weight.requires_grad)
        attention.out.bias = projected.bias
        # The stock parameters stay as objects, so that restoring gives back the same ones, but hold nothing.
        for parameter in (merged.weight, merged.bias, projected.weight):
            parameter.grad = None
            parameter.data = parameter.data.new_empty(0)
        cut_adapter(self.stock.c_attn, attention, PROJECTIONS[:3])
        cut_adapter(self.stock.c_proj, attention, PROJECTIONS[3:])

    def give_weights_back(self, parent: Any) -> None:
        merged, projected = base_of(self.stock.c_attn), base_of(self.stock.c_proj)
        attention = self.attention
        join_adapter(self.stock.c_attn, attention, PROJECTIONS[:3])
        join_adapter(self.stock.c_proj, attention, PROJECTIONS[3:])
        linears = (attention.query, attention.key, attention.value)
        merged.weight.data = torch.cat([linear.weight.detach() for linear in linears]).t().contiguous()
        merged.bias.data = torch.cat([linear.bias.detach() for linear in linears])
        projected.weight.data = attention.out.weight.detach().t().contiguous()
        projected.bias = base_of(attention.out).bias
        merged.weight.requires_grad = any(linear.weight.requires_grad for linear in linears)
        merged.bias.requires_grad = any(linear.bias.requires_grad for linear in linears)
        projected.weight.requires_grad = attention.out.weight.requires_grad
        self.stock.resid_dropout = self.resid_dropout
        # Its buffers stayed behind if the model was moved meanwhile.
        self.stock.to(merged.weight.device)

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Cache | None = None,
        cache_position: Tensor | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool | None = False,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The library's outputs: hidden states [B, T, D], and attention weights [B, H, T, S] on request."""
        refuse_arguments("GPT-2", head_mask=head_mask, encoder_hidden_states=encoder_hidden_states)
        cache, _ = self.half_of_cache(past_key_values if cache is None else cache, is_cross=False)
        bias_BHTS = _causal_bias(self, attention_mask, hidden_states, cache)
        past = self.past_of(cache, cache_position)
        with_weights = output_attentions or asks_for_attention()
        output_BTD, weights_BHTS = self.attend(hidden_states, None, bias_BHTS, past, with_weights)
        return self.resid_dropout(output_BTD), weights_BHTS


class T5Site(Site):
    """Replaces T5Attention, self or cross, with its relative position bias."""

    stock_types = (T5Attention,)
    projections = ("q", "k", "v", "o")
    kept = (*projections, "relative_attention_bias")

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.d_model, num_heads=stock.n_heads, head_width=stock.key_value_proj_dim)
        # T5 scales its first weights instead of its scores.
        super().__init__(stock, attention_type, **arguments, use_bias=False, dropout=stock.dropout, scale=1.0)
        self.has_relative_attention_bias = stock.has_relative_attention_bias
        # Since it uses fused attention, the library returns weights always, and may leave out the mask of a decoder.
        self.is_fused, self.is_causal = hasattr(stock, "is_causal"), getattr(stock, "is_causal", False)
        self.takes_positions = "cache_position" in inspect.signature(stock.compute_bias).parameters
        # The model sets this on every module that has it.
        self.gradient_checkpointing = stock.gradient_checkpointing

    def take_weights(self, parent: Any) -> None:
        super().take_weights(parent)
        if self.has_relative_attention_bias:
            self.relative_attention_bias = self.stock.relative_attention_bias

    def give_weights_back(self, parent: Any) -> None:
        super().give_weights_back(parent)
        if self.has_relative_attention_bias:
            self.stock.relative_attention_bias = self.relative_attention_bias
        self.stock.gradient_checkpointing = self.gradient_checkpointing

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Cache | None = None,
        layer_head_mask: Tensor | None = None,
        query_length: int | None = None,
        use_cache: bool | None = False,
        output_attentions: bool | None = False,
        cache_position: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor | None, ...]:
        """The library's outputs: hidden states [B, T, D], the position bias, and attention weights on request.

        The position bias that the first layer returns, for the others, has the mask in it.
        """
        refuse_arguments("T5", layer_head_mask=layer_head_mask)
        is_cross = key_value_states is not None
        cache, filled = self.half_of_cache(past_key_values if cache is None else cache, is_cross)
        if position_bias is None:
            num_keys = key_value_states.shape[1] if is_cross else self.num_keys(cache, hidden_states)
            bias_BHTS = additive(mask, num_keys)
            if self.is_causal:
                bias_BHTS = _causal_bias(self, mask, hidden_states, cache)
            position_bias = self.position_bias(bias_BHTS, hidden_states, num_keys, cache, cache_position)
        past = filled or self.past_of(cache, None if is_cross else cache_position)
        output_BTD, weights_BHTS = self.attend(hidden_states, key_value_states, position_bias, past, output_attentions)
        with_weights = output_BTD, position_bias, weights_BHTS
        return with_weights if output_attentions or self.is_fused else with_weights[:2]

    def position_bias(
        self,
        bias_BHTS: Tensor | None,
        hidden_BTD: Tensor,
        num_keys: int,
        cache: Cache | None,
        cache_position: Tensor | None,
    ) -> Tensor | None:
        """What is added to the scores [B, H, T, S]: relative positions (in a first layer) and `bias_BHTS` of a mask."""
        if not self.has_relative_attention_bias:
            return bias_BHTS
        sizes = hidden_BTD.shape[1], num_keys
        if not self.takes_positions:
            bias_1HTS = self.stock.compute_bias(*sizes, past_seen_tokens=self.num_earlier(cache))
        else:
            if cache_position is None:
                cache_position = torch.arange(sizes[0], device=hidden_BTD.device) + self.num_earlier(cache)
            bias_1HTS = self.stock.compute_bias(*sizes, cache_position=cache_position)
        return bias_1HTS if bias_BHTS is None else bias_1HTS + bias_BHTS


class MarianSite(Site):
    """Replaces MarianAttention: of the encoder, of the decoder, or from the decoder to the source."""

    stock_types = (MarianAttention,)
    projections = kept = ("q_proj", "k_proj", "v_proj", "out_proj")

    def __init__(self, stock: Any, attention_type: type):
        arguments = dict(width=stock.embed_dim, num_heads=stock.num_heads, use_bias=stock.q_proj.bias is not None)
        super().__init__(stock, attention_type, **arguments, dropout=stock.dropout)
        self.is_causal = stock.is_causal

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        layer_head_mask: Tensor | None = None,
        output_attentions: bool | None = False,
        cache_position: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The library's outputs: hidden states [B, T, D], and attention weights [B, H, T, S] on request."""
        refuse_arguments("Marian", layer_head_mask=layer_head_mask)
        is_cross = key_value_states is not None
        cache, filled = self.half_of_cache(past_key_values if cache is None else cache, is_cross)
        if self.is_causal:
            bias_BHTS = _causal_bias(self, attention_mask, hidden_states, cache)
        else:
            bias_BHTS = additive(attention_mask, (key_value_states if is_cross else hidden_states).shape[1])
        past = filled or self.past_of(cache, None if is_cross else cache_position)
        return self.attend(hidden_states, key_value_states, bias_BHTS, past, output_attentions)


def _causal_bias(site: Site, mask: Tensor | None, hidden_BTD: Tensor, cache: Cache | None) -> Tensor:
    """The additive bias [B or 1, 1, T, S] of the mask that a decoder passes: boolean, additive, or None."""
    num_keys = site.num_keys(cache, hidden_BTD)
    if mask is None:
        # The model leaves out a mask that a fused kernel would make by itself.
        positions_T = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device) + site.num_earlier(cache)
        mask = (torch.arange(num_keys, device=hidden_BTD.device) <= positions_T[:, None])[None, None]
    return additive(mask, num_keys)


def bert_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None) -> Tensor:
    """What BERT's embeddings and layers compute, [R, L, D] or [1, N, D]."""
    segment_ids = inputs["segment_ids"]
    hidden_RLD = model.bert.embeddings(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        # The library's own zeros are as long as the longest text that the model takes; a packed row may be wider.
        token_type_ids=inputs.get("token_type_ids", torch.zeros_like(segment_ids)),
    )
    bias_R1LL = bias_of(same_example(segment_ids, segment_ids))
    *layers, last = model.bert.encoder.layer
    for layer in layers:
        hidden_RLD = hidden_states_of(layer(hidden_RLD, bias_R1LL))
    # After its attention, a layer computes each token for itself.
    mixed_RLD = last.attention.self(hidden_RLD, bias_R1LL)[0]
    return last.feed_forward_chunk(last.attention.output(chosen(mixed_RLD, read_N), chosen(hidden_RLD, read_N)))


def bert_parts_of_tokens_read(model: Any) -> list[Any]:
    """The modules of BERT's last layer behind its attention."""
    last = model.bert.encoder.layer[-1]
    return [last.attention.output, last.intermediate, last.output]


def gpt2_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None) -> Tensor:
    """What GPT-2's embeddings and blocks compute, [R, L, D] or [1, N, D]."""
    segment_ids = inputs["segment_ids"]
    outputs = model.transformer(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        # Hides later tokens too, since a mask of pairs replaces the causal one.
        attention_mask=bias_of(same_example(segment_ids, segment_ids).tril()),
        use_cache=False,
    )
    return chosen(outputs.last_hidden_state, read_N)


def t5_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None) -> Tensor:
    """What T5's decoder computes, [R, T, D] or [1, N, D]; each target sees the source of its own example."""
    sources_RS, targets_RT = inputs["segment_ids"], inputs["decoder_segment_ids"]
    encoder, decoder, bias_R1SS = model.encoder, model.decoder, bias_of(same_example(sources_RS, sources_RS))
    # Hides later tokens too, since a mask of pairs replaces the causal one.
    bias_R1TT = bias_of(same_example(targets_RT, targets_RT).tril())
    bias_R1TS = bias_of(same_example(targets_RT, sources_RS))
    encoded, position_bias = encoder.dropout(encoder.embed_tokens(inputs["input_ids"])), None
    positions_S, positions_T = (torch.arange(x.shape[1], device=x.device) for x in (sources_RS, targets_RT))
    for block in encoder.block:
        # The first block computes a bias from positions and mask, which the others use too.
        encoded, position_bias = block(encoded, bias_R1SS, position_bias, cache_position=positions_S)[:2]
    encoded = encoder.dropout(encoder.final_layer_norm(encoded))
    decoded, biases = decoder.dropout(decoder.embed_tokens(inputs["decoder_input_ids"])), (None, None)
    for block in decoder.block:
        biases_and_sources = biases[0], encoded, bias_R1TS, biases[1]
        decoded, *biases = block(decoded, bias_R1TT, *biases_and_sources, cache_position=positions_T)
    return chosen(decoder.dropout(decoder.final_layer_norm(decoded)), read_N)


def marian_hidden_states(model: Any, inputs: dict[str, Tensor], read_N: Tensor | None) -> Tensor:
    """What Marian's decoder computes, [R, T, D] or [1, N, D]; each target sees the source of its own example."""
    sources_RS, targets_RT = inputs["segment_ids"], inputs["decoder_segment_ids"]
    bias_R1SS = bias_of(same_example(sources_RS, sources_RS))
    # Hides later tokens too, since a mask of pairs replaces the causal one.
    bias_R1TT = bias_of(same_example(targets_RT, targets_RT).tril())
    bias_R1TS = bias_of(same_example(targets_RT, sources_RS))
    if isinstance(model.model, TransformerBody):
        ours = model.model.transformer
        encoded = ours.encode(ours.embed(inputs["input_ids"], inputs["position_ids"]), bias_R1SS)
        target = ours.embed(inputs["decoder_input_ids"], inputs["decoder_position_ids"])
        return chosen(ours.decode(target, bias_R1TT, (encoded, bias_R1TS), None)[0], read_N)
    encoder, decoder = model.get_encoder(), model.get_decoder()
    encoded = marian_embeddings(encoder, inputs["input_ids"], inputs["position_ids"])
    for layer in encoder.layers:
        encoded = hidden_states_of(layer(encoded, bias_R1SS, layer_head_mask=None))
    decoded = marian_embeddings(decoder, inputs["decoder_input_ids"], inputs["decoder_position_ids"])
    for layer in decoder.layers:
        decoded = hidden_states_of(layer(decoded, bias_R1TT, encoded, bias_R1TS, use_cache=False))
    return chosen(decoded, read_N)


def marian_embeddings(stack: Any, ids_RL: Tensor, positions_RL: Tensor) -> Tensor:
    """What the layers of an encoder or decoder read, [R, L, D]."""
    embedded_RLD = stack.embed_tokens(ids_RL) * stack.embed_scale + stack.embed_positions.weight[positions_RL]
    # The dropout function of the stack itself, which shared masks replace.
    dropout = getattr(stack, "dropout_function", functional.dropout)
    return dropout(embedded_RLD, stack.dropout, stack.training)


def bert_head(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits of a head on BERT, [B, T, classes]."""
    pooler = model.bert.pooler
    if pooler is not None:  # heads for whole examples have one, those for tokens have none
        hidden_BTD = pooler.activation(pooler.dense(hidden_BTD))
    return model.cls(hidden_BTD) if hasattr(model, "cls") else plain_head(model, hidden_BTD)


def decoder_head(model: Any, hidden_BTD: Tensor) -> Tensor:
    """The logits of a head on GPT-2, T5 or Marian, [B, T, classes]."""
    return language_model_logits(model, hidden_BTD) if hasattr(model, "lm_head") else plain_head(model, hidden_BTD)


def transformer_of(model: PreTrainedModel) -> Transformer:
    """The hand-written Transformer with a copy of a stock Marian model's weights, on its device and in its mode.

    Raises UserError if the model is another architecture.
    """
    settings = settings_of(model.config)
    transformer = Transformer(settings).to(model.device).train(model.training)
    set_weights(transformer, transformer_weights(get_weights(model)))
    return transformer


def copy_to_marian(transformer: Transformer, model: PreTrainedModel) -> None:
    """Give a stock Marian model the weights of the hand-written Transformer, as to save it as a checkpoint."""
    set_weights(model, marian_weights(get_weights(transformer), weight_shapes(model)))


@dataclass(frozen=True)
class FamilyModules:
    """How the modules of one family are called.

    `slots` lists the class around each attention, the attribute that holds it, the site that replaces it, and whether
    it is a cross-attention. `body_parts_of_tokens_read` lists what of the body computes only the tokens that the head
    reads.
    """

    slots: tuple[tuple[type, str, type[Site], bool], ...]
    packed_hidden_states: Callable[[Any, dict[str, Tensor], Tensor | None], Tensor]
    head: Callable[[Any, Tensor], Tensor]
    body_parts_of_tokens_read: Callable[[Any], list[Any]] = lambda model: []


# By the `model_type` of the configuration.
_FAMILIES = {
    "bert": FamilyModules(
        ((BertAttention, "self", BertSite, False),), bert_hidden_states, bert_head, bert_parts_of_tokens_read
    ),
    "gpt2": FamilyModules(((GPT2Block, "attn", GPT2Site, False),), gpt2_hidden_states, decoder_head),
    "t5": FamilyModules(
        (
            (T5LayerSelfAttention, "SelfAttention", T5Site, False),
            (T5LayerCrossAttention, "EncDecAttention", T5Site, True),
        ),
        t5_hidden_states,
        decoder_head,
    ),
    "marian": FamilyModules(
        (
            (MarianEncoderLayer, "self_attn", MarianSite, False),
            (MarianDecoderLayer, "self_attn", MarianSite, False),
            (MarianDecoderLayer, "encoder_attn", MarianSite, True),
            # In a hand-written body, whose attention is there already.
            (EncoderLayer, "attention", MarianSite, False),
            (DecoderLayer, "attention", MarianSite, False),
            (DecoderLayer, "source_attention", MarianSite, True),
        ),
        marian_hidden_states,
        decoder_head,
    ),
}
_SLOTS = tuple(slot for family in _FAMILIES.values() for slot in family.slots)


def _slots(model: PreTrainedModel) -> list[Slot]:
    """Every place where a supported model attends, in the model's order."""
    return [
        Slot(module, name, site, is_cross)
        for module in model.modules()
        for parent_type, name, site, is_cross in _SLOTS
        if isinstance(module, parent_type)
    ]
