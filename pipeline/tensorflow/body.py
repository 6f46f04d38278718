"""The body of a stock model replaced by the hand-written Transformer: its embeddings, its encoder and its decoder.

What remains is the library's: the product of the head with the embeddings, and the search for texts. As in a swap of
the attention alone, layers with weights move, they are not copied. `pipeline/pytorch/body.py` has the same
definitions in the same order.
"""

# B batch · S source tokens · T target tokens · D model width

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import tensorflow as tf
from tensorflow import Tensor
from tf_keras import layers
from transformers.modeling_tf_outputs import TFBaseModelOutput, TFSeq2SeqModelOutput

from pipeline.models.attention import refuse_arguments
from pipeline.models.transformer import TransformerSettings, module_paths, refuse_two_tables, settings_of
from pipeline.tensorflow.model import layer_defaults
from pipeline.tensorflow.sites import CountedAttention, put
from pipeline.tensorflow.transformer import HIDDEN, Cache, Transformer, padding_bias
from pipeline.utils.errors import UserError

# For each layer of the decoder its keys and values, then those of the source, each [B, H, S, K].
LibraryCache = tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]


class TransformerBody(layers.Layer):
    """The hand-written Transformer with the weights of a stock body, and with the call by which its model runs it.

    Raises UserError, before anything is changed, if the Transformer cannot be this model.
    """

    def __init__(self, stock: Any):
        super().__init__(name=stock.name, dtype=stock._dtype_policy)
        settings = settings_of(stock.config)
        refuse_own_code(stock, settings)
        positions, others = (stack.embed_positions.weight for stack in (stock.encoder, stock.decoder))
        refuse_two_tables([table.numpy() for table in (positions, others)])
        with layer_defaults(stock._dtype_policy):
            self.transformer = Transformer(settings, name="transformer")
            for layer, name in attentions_of(self.transformer):
                attention = CountedAttention(
                    settings.width, settings.num_heads, dropout=settings.attention_dropout, name=name
                )
                put(layer, name, attention)
        self.transformer.positions.assign(positions)
        for theirs, ours in module_paths(settings):
            put_at(self.transformer, ours, at(stock, theirs))
        self._trainable = stock._trainable
        # In a plain namespace, so that Keras does not track the stock body.
        self.aside = SimpleNamespace(stock=stock, encoder=SourceReader(self))

    @property
    def stock(self) -> Any:
        """The body of the library that this one replaces."""
        return self.aside.stock

    @property
    def shared(self) -> layers.Layer:
        """The embeddings, which the library's head multiplies by."""
        return self.transformer.embedding

    def get_input_embeddings(self) -> layers.Layer:
        """The embeddings."""
        return self.transformer.embedding

    def give_weights_back(self) -> None:
        """Move the weights back to the stock body, as they are now."""
        for theirs, ours in module_paths(self.transformer.settings):
            put_at(self.stock, theirs, at(self.transformer, ours))
        self.stock._trainable = self._trainable

    @property
    def encoder(self) -> SourceReader:
        """What the library's `generate` reads a source with."""
        return self.aside.encoder

    def call(
        self,
        input_ids: Any = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Any = None,
        head_mask: Tensor | None = None,
        decoder_head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: LibraryCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> TFSeq2SeqModelOutput:
        """The library's outputs: what encoder and decoder compute, and the cache."""
        refuse_arguments(
            type(self.stock).__name__,
            decoder_attention_mask=decoder_attention_mask,
            head_mask=head_mask,
            decoder_head_mask=decoder_head_mask,
            cross_attn_head_mask=cross_attn_head_mask,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            output_attentions=output_attentions or None,
            output_hidden_states=output_hidden_states or None,
        )
        read: Any = self.encoded(input_ids, attention_mask, training) if encoder_outputs is None else encoder_outputs[0]
        mask_BS = tf.ones(tf.shape(read)[:2]) if attention_mask is None else attention_mask
        written, cache = self.decoded(decoder_input_ids, read, mask_BS, past_key_values, decoder_position_ids, training)
        return TFSeq2SeqModelOutput(
            last_hidden_state=written, past_key_values=cache if use_cache else None, encoder_last_hidden_state=read
        )

    def encoded(self, source_BS: Tensor, mask_BS: Tensor | None, training: bool = False) -> Tensor:
        """What the encoder makes of a source, [B, S, D]; without a mask all of it is read."""
        mask_BS = tf.ones_like(source_BS) if mask_BS is None else mask_BS
        return self.transformer.encode(self.transformer.embed(source_BS), padding_bias(mask_BS), training)

    def decoded(
        self,
        target_BT: Tensor,
        encoded_BSD: Tensor,
        mask_BS: Tensor,
        cache: LibraryCache | None,
        positions_BT: Any,
        training: bool,
    ) -> tuple[Tensor, Any]:
        """What the decoder makes of the tokens of a target that follow those in the cache, [B, T, D], and the cache."""
        num_targets, num_cached = tf.shape(target_BT)[1], 0 if cache is None else tf.shape(cache[0][0])[2]
        positions_T = num_cached + tf.range(num_targets)
        is_later_TS = tf.range(num_cached + num_targets) > positions_T[:, None]
        target_BTD = self.transformer.embed(target_BT, positions_T if positions_BT is None else positions_BT)
        source, pasts = (encoded_BSD, padding_bias(mask_BS)), None if cache is None else pasts_of(cache)
        decoded_BTD, pasts = self.transformer.decode(
            target_BTD, tf.cast(is_later_TS, tf.float32) * HIDDEN, source, pasts, training
        )
        return decoded_BTD, tuple((*own, *of_source) for own, of_source in pasts if own and of_source)


class SourceReader:
    """The encoder of the hand-written Transformer, with the call by which the library's `generate` runs one."""

    def __init__(self, body: TransformerBody):
        self.body = body

    def call(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TFBaseModelOutput:
        """The library's output: what the encoder computes, [B, S, D]."""
        refuse_arguments(
            type(self.body.stock).__name__,
            output_attentions=output_attentions or None,
            output_hidden_states=output_hidden_states or None,
        )
        return TFBaseModelOutput(last_hidden_state=self.body.encoded(input_ids, attention_mask))

    __call__ = call


def refuse_own_code(stock: Any, settings: TransformerSettings) -> None:
    """Raise UserError for a layer whose own code the Transformer would drop; layers that move keep theirs."""
    kept = {id(at(stock, theirs)) for theirs, _ in module_paths(settings)}
    for layer in stock._flatten_layers():
        is_library = type(layer).__module__.startswith(("keras.", "tf_keras.", "transformers."))
        if id(layer) not in kept and not is_library:
            raise UserError(
                f"{layer.name} ({type(layer).__name__}) has code of its own, which the hand-written Transformer would "
                "not run"
            )


def pasts_of(cache: LibraryCache) -> Cache:
    """The keys and values of the two attentions of each decoder layer, from the library's cache."""
    return [((own_keys, own_values), (keys, values)) for own_keys, own_values, keys, values in cache]


def attentions_of(transformer: Transformer) -> Iterator[tuple[layers.Layer, str]]:
    """The layers of the Transformer, each as often as it attends, with the name of its attention."""
    for layer in transformer.encoder:
        yield layer, "attention"
    for layer in transformer.decoder:
        yield layer, "attention"
        yield layer, "source_attention"


def at(layer: Any, path: str) -> Any:
    """What a layer has at a path such as "encoder.0.attention"."""
    for name in path.split("."):
        layer = layer[int(name)] if name.isdigit() else getattr(layer, name)
    return layer


def put_at(layer: Any, path: str, part: layers.Layer) -> None:
    """Set what a layer has at a path."""
    parent, _, name = path.rpartition(".")
    put(at(layer, parent) if parent else layer, name, part)
