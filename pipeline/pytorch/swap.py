"""Put another attention into a stock BERT, GPT-2 or T5 of transformers 4.57, and take it out again.

The only file that knows how those models call their attention. A *site* is one place where a model attends:
a module with the stock call signature that holds an attention with the contract of `MultiHeadAttention`.
Weights move, they are not copied: while swapped they belong to the new attention, afterwards to the stock
module again. `pipeline/tensorflow/swap.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · K head width · D model width

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import torch
from torch import nn
from transformers import EncoderDecoderCache
from transformers.models.bert.modeling_bert import BertAttention
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.t5.modeling_t5 import T5LayerCrossAttention, T5LayerSelfAttention
from transformers.pytorch_utils import Conv1D

from pipeline.models.attention import (
    attention_class,
    new_attention,
    refuse_arguments,
    refuse_unsupported,
)
from pipeline.pytorch.attention import MultiHeadAttention
from pipeline.utils.errors import UserError


def swap_attention(model, attention="handwritten") -> int:
    """Replace every attention of a stock BERT, GPT-2 or T5 model, whatever its head; returns how many.

    `attention` is "handwritten", "package.module:ClassName", or a class with the constructor, the projections
    and the call of `MultiHeadAttention`. Weights, their dtype, device, frozenness and the train or eval mode
    are carried over. Build the optimizer afterwards: GPT-2's merged weights become new parameters.
    Raises UserError, before anything is changed, where the model or the class does not fit.
    """
    refuse_unsupported(model)
    kind = attention_class(attention, MultiHeadAttention)
    if attention_sites(model):
        raise UserError(f"{type(model).__name__} is swapped already; call restore_attention first")
    places = _places(model)
    _refuse_shared(model, places)
    # A new attention draws first weights that nobody will see: the random state stays as it was.
    with torch.random.fork_rng(devices=[]):
        sites = [site(getattr(parent, name), kind) for parent, name, site in places]
    for (parent, name, _), site in zip(places, sites, strict=True):
        site.take_weights(parent)
        setattr(parent, name, site)
    return len(sites)


def restore_attention(model) -> int:
    """Undo `swap_attention`: put the stock modules back, with the trained weights; returns how many."""
    places = [place for place in _places(model) if isinstance(getattr(place[0], place[1]), Site)]
    for parent, name, _ in places:
        site = getattr(parent, name)
        site.give_weights_back(parent)
        site.stock.train(site.training)
        setattr(parent, name, site.stock)
    return len(places)


def attention_sites(model) -> int:
    """How many places of the model attend through a swapped attention; 0 for a stock model."""
    return len(attention_calls(model))


def attention_calls(model) -> list[int]:
    """How often each swapped site was called since the swap, in the order of the model's modules."""
    return [module.calls for module in model.modules() if isinstance(module, Site)]


class Site(nn.Module):
    """One place where a stock model attends, with `attention` doing the work."""

    def __init__(self, stock, kind, **arguments):
        super().__init__()
        self.attention = new_attention(kind, **arguments).to(next(stock.parameters())).train(stock.training)
        self.training = stock.training
        # In a plain namespace, so that neither parameters() nor state_dict() finds the stock module.
        self.aside = SimpleNamespace(stock=stock)
        self.calls = 0

    @property
    def stock(self):
        return self.aside.stock

    def attend(self, hidden_BTD, source_BSD, bias_BHTS, past, output_attentions):
        """Call the attention, and count that it was called."""
        if not torch.compiler.is_compiling():
            self.calls += 1
        return self.attention(hidden_BTD, source_BSD, bias_BHTS, past, return_weights=bool(output_attentions))


class BertSite(Site):
    """Stands in for BertSelfAttention and for the dense layer behind it, which is the output projection."""

    def __init__(self, stock, kind):
        arguments = dict(width=stock.query.in_features, num_heads=stock.num_attention_heads)
        super().__init__(stock, kind, **arguments, dropout=stock.dropout.p)

    def take_weights(self, parent):
        for name in ("query", "key", "value"):
            setattr(self.attention, name, getattr(self.stock, name))
        self.attention.out = parent.output.dense
        parent.output.dense = nn.Identity()

    def give_weights_back(self, parent):
        for name in ("query", "key", "value"):
            setattr(self.stock, name, getattr(self.attention, name))
        parent.output.dense = self.attention.out

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        head_mask=None,
        encoder_hidden_states=None,
        past_key_values=None,
        output_attentions=False,
        cache_position=None,
    ):
        refuse_arguments(
            "BERT",
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            past_key_values=past_key_values,
        )
        return self.attend(hidden_states, None, attention_mask, None, output_attentions)[:2]


class GPT2Site(Site):
    """Stands in for GPT2Attention, whose one merged weight holds query, key and value side by side."""

    def __init__(self, stock, kind):
        arguments = dict(width=stock.embed_dim, num_heads=stock.num_heads, dropout=stock.attn_dropout.p)
        super().__init__(stock, kind, **arguments)
        self.layer_idx = stock.layer_idx

    def take_weights(self, parent):
        merged, projected = self.stock.c_attn, self.stock.c_proj
        self.resid_dropout = self.stock.resid_dropout
        attention = self.attention
        # GPT-2 stores Conv1D weights [in, out]; Linear wants [out, in].
        weights = merged.weight.detach().chunk(3, dim=1)
        biases = merged.bias.detach().chunk(3)
        for linear, weight, bias in zip(
            (attention.query, attention.key, attention.value), weights, biases, strict=True
        ):
            linear.weight = nn.Parameter(_transposed(weight), merged.weight.requires_grad)
            linear.bias = nn.Parameter(bias.clone(), merged.bias.requires_grad)
        weight = _transposed(projected.weight.detach())
        attention.out.weight = nn.Parameter(weight, projected.weight.requires_grad)
        attention.out.bias = projected.bias
        # The stock parameters stay as objects, so that restoring gives back the same ones, but hold nothing.
        for parameter in (merged.weight, merged.bias, projected.weight):
            parameter.grad = None
            parameter.data = parameter.data.new_empty(0)

    def give_weights_back(self, parent):
        merged, projected = self.stock.c_attn, self.stock.c_proj
        attention = self.attention
        linears = (attention.query, attention.key, attention.value)
        merged.weight.data = _transposed(torch.cat([linear.weight.detach() for linear in linears]))
        merged.bias.data = torch.cat([linear.bias.detach() for linear in linears])
        projected.weight.data = _transposed(attention.out.weight.detach())
        projected.bias = attention.out.bias
        merged.weight.requires_grad = any(linear.weight.requires_grad for linear in linears)
        merged.bias.requires_grad = any(linear.bias.requires_grad for linear in linears)
        projected.weight.requires_grad = attention.out.weight.requires_grad
        self.stock.resid_dropout = self.resid_dropout
        # Its buffers were aside while the model may have moved.
        self.stock.to(merged.weight.device)

    def forward(
        self,
        hidden_states,
        past_key_values=None,
        cache_position=None,
        attention_mask=None,
        head_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        output_attentions=False,
        **kwargs,
    ):
        refuse_arguments("GPT-2", head_mask=head_mask, encoder_hidden_states=encoder_hidden_states)
        past = _cached(past_key_values, self.layer_idx)
        num_keys = hidden_states.shape[1] + (0 if past is None else past[0].shape[2])
        bias_BHTS = _causal_bias(attention_mask, hidden_states, num_keys)
        output_BTD, weights_BHTS, present = self.attend(hidden_states, None, bias_BHTS, past, output_attentions)
        _extend(past_key_values, self.layer_idx, past, present, cache_position)
        return self.resid_dropout(output_BTD), weights_BHTS


class T5Site(Site):
    """Stands in for T5Attention, of itself or across, with its relative position bias."""

    def __init__(self, stock, kind):
        arguments = dict(width=stock.d_model, num_heads=stock.n_heads, head_width=stock.key_value_proj_dim)
        # T5 scales its first weights instead of its scores.
        super().__init__(stock, kind, **arguments, use_bias=False, dropout=stock.dropout, scale=1.0)
        self.layer_idx = stock.layer_idx
        self.has_relative_attention_bias = stock.has_relative_attention_bias
        # The model sets this on whatever has it.
        self.gradient_checkpointing = stock.gradient_checkpointing

    def take_weights(self, parent):
        for name, stock_name in zip(("query", "key", "value", "out"), "qkvo", strict=True):
            setattr(self.attention, name, getattr(self.stock, stock_name))
        if self.has_relative_attention_bias:
            self.relative_attention_bias = self.stock.relative_attention_bias

    def give_weights_back(self, parent):
        for name, stock_name in zip(("query", "key", "value", "out"), "qkvo", strict=True):
            setattr(self.stock, stock_name, getattr(self.attention, name))
        if self.has_relative_attention_bias:
            self.stock.relative_attention_bias = self.relative_attention_bias
        self.stock.gradient_checkpointing = self.gradient_checkpointing

    def forward(
        self,
        hidden_states,
        mask=None,
        key_value_states=None,
        position_bias=None,
        past_key_values=None,
        layer_head_mask=None,
        query_length=None,
        use_cache=False,
        output_attentions=False,
        cache_position=None,
    ):
        refuse_arguments("T5", layer_head_mask=layer_head_mask)
        crossing = key_value_states is not None
        cache, cached = past_key_values, True
        if isinstance(past_key_values, EncoderDecoderCache):
            own, across = past_key_values.self_attention_cache, past_key_values.cross_attention_cache
            cache = across if crossing else own
            cached = not crossing or past_key_values.is_updated.get(self.layer_idx)
        past = _cached(cache, self.layer_idx) if cached else None
        if position_bias is None:  # The first layer makes it, the others are given it.
            num_new = (key_value_states if crossing else hidden_states).shape[1]
            num_keys = num_new if crossing or past is None else past[0].shape[2] + num_new
            position_bias = self._position_bias(mask, hidden_states.shape[1], num_keys, cache_position)
        output_BTD, weights_BHTS, present = self.attend(
            hidden_states, key_value_states, position_bias, past, output_attentions
        )
        if not crossing:
            _extend(cache, self.layer_idx, past, present, cache_position)
        elif past is None:
            _extend(cache, self.layer_idx, None, present, None)
            if isinstance(past_key_values, EncoderDecoderCache):
                past_key_values.is_updated[self.layer_idx] = True
        return (output_BTD, position_bias, weights_BHTS) if output_attentions else (output_BTD, position_bias)

    def _position_bias(self, mask, num_queries, num_keys, cache_position):
        """What is added to the scores [B, H, T, S]: relative positions (in a first layer) and the mask."""
        if mask is not None:
            mask = mask[..., :num_keys]
        if not self.has_relative_attention_bias:
            return mask
        bias_1HTS = self.stock.compute_bias(num_keys, num_keys, cache_position=cache_position)
        bias_1HTS = bias_1HTS[:, :, -num_queries:]
        return bias_1HTS if mask is None else bias_1HTS + mask


# The class around each attention -> the attribute it sits in, and the site that takes its place.
_SITES = {
    BertAttention: ("self", BertSite),
    GPT2Block: ("attn", GPT2Site),
    T5LayerSelfAttention: ("SelfAttention", T5Site),
    T5LayerCrossAttention: ("EncDecAttention", T5Site),
}


def _places(model):
    """Every place where a supported model attends: (parent, attribute, site class), in the model's order."""
    return [(module, *_SITES[type(module)]) for module in model.modules() if type(module) in _SITES]


def _refuse_shared(model, places):
    """Raise UserError where there is nothing to swap, or where one attention serves two places."""
    if not places:
        raise UserError(f"{type(model).__name__} has no attention of BERT, GPT-2 or T5 inside")
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for parent, name, site in places:
        if any(uses[id(parameter)] > 1 for parameter in getattr(parent, name).parameters()):
            raise UserError(
                f"{type(parent).__name__}.{name} shares weights with another module; "
                "only attentions with weights of their own can be swapped"
            )
        # BERT's and T5's projections move whole, whatever wraps them; GPT-2's have to be cut.
        merged = getattr(getattr(parent, name), "c_attn", None)
        if site is GPT2Site and type(merged) is not Conv1D:
            raise UserError(f"{type(parent).__name__}.{name}.c_attn is {type(merged).__name__}, wanted Conv1D")


def _transposed(weight):
    return weight.t().contiguous()


def _causal_bias(mask, hidden_BTD, num_keys):
    """The additive bias [B or 1, 1, T, S] of the mask that GPT-2 hands down: boolean, additive, or None."""
    num_queries = hidden_BTD.shape[1]
    if mask is None:
        # The model leaves out a mask that a fused kernel would make by itself.
        ones_TS = torch.ones(num_queries, num_keys, dtype=torch.bool, device=hidden_BTD.device)
        mask = ones_TS.tril(num_keys - num_queries)[None, None]
    mask = mask[..., :num_keys]
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, torch.finfo(torch.float32).min)


def _cached(cache, layer_idx):
    """The keys and values [B, H, S, K] that a transformers cache holds for a layer, or None."""
    length = 0 if cache is None else int(cache.get_seq_length(layer_idx))
    if not length:
        return None
    layer = cache.layers[layer_idx]
    return layer.keys[:, :, :length], layer.values[:, :, :length]


def _extend(cache, layer_idx, past, present, cache_position):
    """Add to a transformers cache what `present` has more than `past`."""
    if cache is not None:
        length = 0 if past is None else past[0].shape[2]
        k_BHTK, v_BHTK = (x_BHSK[:, :, length:] for x_BHSK in present)
        cache.update(k_BHTK, v_BHTK, layer_idx, {"cache_position": cache_position})
