"""The body of a stock model replaced by the hand-written Transformer: its embeddings, its encoder and its decoder.

What remains is the library's: the product of the head with the embeddings, and the search for texts. As in a swap of
the attention alone, modules with weights move, they are not copied. `pipeline/tensorflow/body.py` has the same
definitions in the same order.
"""

# B batch · S source tokens · T target tokens · D model width

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqModelOutput

from pipeline.models.attention import refuse_arguments
from pipeline.models.transformer import TransformerSettings, module_paths, refuse_two_tables, settings_of
from pipeline.pytorch.library import CACHE, additive, is_recorder, num_keys_after
from pipeline.pytorch.sites import HOOKS, CountedAttention, put
from pipeline.pytorch.transformer import HIDDEN, Transformer, padding_bias
from pipeline.utils.errors import UserError


class TransformerBody(nn.Module):
    """The hand-written Transformer with the weights of a stock body, and with the call by which its model runs it.

    Raises UserError, before anything is changed, if the Transformer cannot be this model.
    """

    def __init__(self, stock: Any):
        super().__init__()
        settings = settings_of(stock.config)
        refuse_own_code(stock, settings)
        positions, others = (stack.embed_positions.weight.detach() for stack in (stock.encoder, stock.decoder))
        refuse_two_tables([table.cpu().numpy() for table in (positions, others)])
        self.transformer = Transformer(settings).to(positions)
        self.transformer.positions = positions
        for layer, name in attentions_of(self.transformer):
            attention = CountedAttention(settings.width, settings.num_heads, dropout=settings.attention_dropout)
            put(layer, name, attention)
        for theirs, ours in module_paths(settings):
            put_at(self.transformer, ours, at(stock, theirs))
        self.train(stock.training)
        # In a plain namespace, so that neither parameters() nor state_dict() finds the stock body.
        self.aside = SimpleNamespace(stock=stock, encoder=SourceReader(self))
        # The library's init_weights draws new weights for every module that lacks this mark.
        for module in self.modules():
            vars(module)["_is_hf_initialized"] = True

    @property
    def stock(self) -> Any:
        """The body of the library that this one replaces."""
        return self.aside.stock

    def give_weights_back(self) -> None:
        """Move the weights back to the stock body, as they are now."""
        for theirs, ours in module_paths(self.transformer.settings):
            put_at(self.stock, theirs, at(self.transformer, ours))
        self.stock.train(self.training)
        # Its positions stayed behind if the model was moved meanwhile.
        self.stock.to(self.transformer.positions.device)

    def get_encoder(self, modality: str | None = None) -> SourceReader:
        """What the library's `generate` reads a source with; version 5 says of which `modality`, and there is one."""
        return self.aside.encoder

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        decoder_head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> Seq2SeqModelOutput:
        """The library's outputs: what encoder and decoder compute, and the cache, by either of its names."""
        refuse_arguments(
            type(self.stock).__name__,
            head_mask=head_mask,
            decoder_head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            output_attentions=output_attentions or None,
            output_hidden_states=output_hidden_states or None,
        )
        read: Any = self.encoded(input_ids, attention_mask) if encoder_outputs is None else encoder_outputs[0]
        mask_BS = torch.ones_like(read[:, :, 0]) if attention_mask is None else attention_mask
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        # For a cache of a fixed size the `generate` of version 5 says which of its keys each token sees.
        has_each_pair = decoder_attention_mask is not None and decoder_attention_mask.dim() == 4
        pairs_B1TS = decoder_attention_mask if has_each_pair else None
        refuse_arguments(
            type(self.stock).__name__, decoder_attention_mask=None if has_each_pair else decoder_attention_mask
        )
        written: Any = self.decoded(decoder_input_ids, read, mask_BS, cache, cache_position, pairs_B1TS)
        named_cache: dict[str, Any] = {CACHE: cache}
        return Seq2SeqModelOutput(last_hidden_state=written, encoder_last_hidden_state=read, **named_cache)

    def encoded(self, source_BS: Tensor, mask_BS: Tensor | None) -> Tensor:
        """What the encoder makes of a source, [B, S, D]; without a mask all of it is read."""
        mask_BS = torch.ones_like(source_BS) if mask_BS is None else mask_BS
        return self.transformer.encode(self.transformer.embed(source_BS), padding_bias(mask_BS))

    def decoded(
        self,
        target_BT: Tensor,
        encoded_BSD: Tensor,
        mask_BS: Tensor,
        cache: EncoderDecoderCache | None,
        positions_T: Tensor | None,
        pairs_B1TS: Tensor | None = None,
    ) -> Tensor:
        """What the decoder makes of the tokens of a target that follow those in the cache, [B, T, D].

        A mask for each pair of a token and a key says what is seen; without one a token sees those before it.
        """
        num_targets = target_BT.shape[1]
        if positions_T is None:
            num_cached = 0 if cache is None else cache.get_seq_length()
            positions_T = torch.arange(num_targets, device=target_BT.device) + num_cached
        num_keys = num_targets if cache is None else num_keys_after(cache, positions_T, 0)
        is_later_TS = torch.arange(num_keys, device=target_BT.device) > positions_T[:, None]
        pasts = (
            None if cache is None else [pasts_of(cache, i, positions_T) for i in range(len(self.transformer.decoder))]
        )
        target_BTD = self.transformer.embed(target_BT, positions_T)
        bias = is_later_TS * HIDDEN if pairs_B1TS is None else additive(pairs_B1TS, num_keys)
        decoded_BTD, _ = self.transformer.decode(target_BTD, bias, (encoded_BSD, padding_bias(mask_BS)), pasts)
        return decoded_BTD


class SourceReader:
    """The encoder of the hand-written Transformer, with the call by which the library's `generate` runs one."""

    def __init__(self, body: TransformerBody):
        self.body = body

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """The library's output: what the encoder computes, [B, S, D]."""
        refuse_arguments(
            type(self.body.stock).__name__,
            output_attentions=output_attentions or None,
            output_hidden_states=output_hidden_states or None,
        )
        encoded_BSD: Any = self.body.encoded(input_ids, attention_mask)
        return BaseModelOutput(last_hidden_state=encoded_BSD)

    __call__ = forward


def refuse_own_code(stock: Any, settings: TransformerSettings) -> None:
    """Raise UserError for a module whose own code the Transformer would drop; modules that move keep theirs."""
    kept = {id(at(stock, theirs)) for theirs, _ in module_paths(settings)}
    for path, module in stock.named_modules():
        is_library = type(module).__module__.startswith(("torch.", "transformers."))
        own = [hook for hooks in HOOKS for hook in (getattr(module, hooks) or {}).values() if not is_recorder(hook)]
        if id(module) not in kept and (own or "forward" in vars(module) or not is_library):
            raise UserError(
                f"{path or 'the body'} ({type(module).__name__}) has code of its own, hooks or a forward, which the "
                "hand-written Transformer would not run"
            )


def pasts_of(cache: EncoderDecoderCache, layer: int, positions_T: Tensor) -> Any:
    """How the two attentions of a decoder layer get their keys and values from the library's cache.

    By functions that put new ones in and return all; those of the source, once they are in, as they are.
    """
    where = {"cache_position": positions_T}
    own = functools.partial(cache.self_attention_cache.update, layer_idx=layer, cache_kwargs=where)
    of_source: Any = cache.cross_attention_cache
    if cache.is_updated.get(layer):
        return own, (of_source.layers[layer].keys, of_source.layers[layer].values)
    cache.is_updated[layer] = True
    return own, functools.partial(of_source.update, layer_idx=layer)


def attentions_of(transformer: Transformer) -> Iterator[tuple[nn.Module, str]]:
    """The layers of the Transformer, each as often as it attends, with the name of its attention."""
    for layer in transformer.encoder:
        yield layer, "attention"
    for layer in transformer.decoder:
        yield layer, "attention"
        yield layer, "source_attention"


def at(module: Any, path: str) -> Any:
    """What a module has at a path such as "encoder.0.attention"."""
    for name in path.split("."):
        module = module[int(name)] if name.isdigit() else getattr(module, name)
    return module


def put_at(module: nn.Module, path: str, part: nn.Module) -> None:
    """Set what a module has at a path."""
    parent, _, name = path.rpartition(".")
    put(at(module, parent) if parent else module, name, part)
