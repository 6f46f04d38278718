"""The Transformer written out, to be read beside Vaswani et al. 2017, "Attention Is All You Need".

    FeedForward     section 3.3   max(0, x W₁ + b₁) W₂ + b₂
    AddAndNorm      section 3.1   LayerNorm(x + Sublayer(x)), with the dropout of section 5.4
    EncoderLayer    section 3.1   self-attention, then feed-forward
    DecoderLayer    section 3.1   masked self-attention, attention to the source, then feed-forward
    Transformer     section 3.4   embeddings and positions, both stacks of layers, and the output tied to the embeddings

`generation.py` writes texts with it, from cached keys and values. `pipeline/pytorch/transformer.py` has the same
definitions in the same order.
"""

# B batch · S source tokens · T target tokens · D model width · F feed-forward width · V vocabulary · H heads

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import Tensor
from tf_keras import initializers, layers

from pipeline.models.transformer import TransformerSettings, sinusoids
from pipeline.tensorflow.attention import MultiHeadAttention

ACTIVATIONS = {
    "relu": tf.nn.relu,
    "gelu": lambda x: tf.nn.gelu(x, approximate=False),
    # `tf.nn.silu` has a gradient of its own, by which TensorFlow keeps each graph that calls it until the process ends.
    "swish": lambda x: x * tf.sigmoid(x),
}
# Added to the score of what must not be seen or chosen.
HIDDEN = -1e9

# What the encoder made of the source [B, S, D], and what hides its padding.
Source = tuple[Tensor, Tensor]
# Keys and values [B, H, S, K] of an attention, of a decoder layer's two attentions, and of all layers.
Past = tuple[Tensor, Tensor]
Pasts = tuple[Past | None, Past | None]
Cache = list[Pasts]


class FeedForward(layers.Layer):
    """Two linear layers, applied to each position by itself (equation 2)."""

    def __init__(self, settings: TransformerSettings, **kwargs: Any):
        super().__init__(**kwargs)
        self.inner = layers.Dense(settings.feed_forward_width, name="inner")
        self.outer = layers.Dense(settings.width, name="outer")
        self.activation = ACTIVATIONS[settings.activation]
        self.dropout = layers.Dropout(settings.activation_dropout)

    def call(self, x_BTD: Tensor, training: bool = False) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        inner_BTF = self.dropout(self.activation(self.inner(x_BTD)), training=training)
        return self.outer(inner_BTF)  # [B, T, D]


class AddAndNorm(layers.Layer):
    """What is around every sublayer: dropout, the residual connection, and layer normalization."""

    def __init__(self, settings: TransformerSettings, **kwargs: Any):
        super().__init__(**kwargs)
        self.dropout = layers.Dropout(settings.dropout)
        self.norm = layers.LayerNormalization(epsilon=1e-5, name="norm")

    def call(self, x_BTD: Tensor, sublayer_BTD: Tensor, training: bool = False) -> Tensor:
        """A sublayer's input and its output, both [B, T, D] -> [B, T, D]."""
        return self.norm(x_BTD + self.dropout(sublayer_BTD, training=training))


class EncoderLayer(layers.Layer):
    """Each token of the source reads all the others."""

    def __init__(self, settings: TransformerSettings, **kwargs: Any):
        super().__init__(**kwargs)
        self.attention = MultiHeadAttention(
            settings.width, settings.num_heads, dropout=settings.attention_dropout, name="attention"
        )
        self.attention_norm = AddAndNorm(settings, name="attention_norm")
        self.feed_forward = FeedForward(settings, name="feed_forward")
        self.feed_forward_norm = AddAndNorm(settings, name="feed_forward_norm")

    def call(self, x_BSD: Tensor, bias_BHSS: Tensor, training: bool = False) -> Tensor:
        """[B, S, D] -> [B, S, D]; the bias hides padding."""
        attended_BSD, _, _ = self.attention(x_BSD, bias_BHTS=bias_BHSS, training=training)
        x_BSD = self.attention_norm(x_BSD, attended_BSD, training)
        return self.feed_forward_norm(x_BSD, self.feed_forward(x_BSD, training), training)  # [B, S, D]


class DecoderLayer(layers.Layer):
    """Each token of the target reads those before it, then the source."""

    def __init__(self, settings: TransformerSettings, **kwargs: Any):
        super().__init__(**kwargs)
        self.attention = MultiHeadAttention(
            settings.width, settings.num_heads, dropout=settings.attention_dropout, name="attention"
        )
        self.attention_norm = AddAndNorm(settings, name="attention_norm")
        self.source_attention = MultiHeadAttention(
            settings.width, settings.num_heads, dropout=settings.attention_dropout, name="source_attention"
        )
        self.source_attention_norm = AddAndNorm(settings, name="source_attention_norm")
        self.feed_forward = FeedForward(settings, name="feed_forward")
        self.feed_forward_norm = AddAndNorm(settings, name="feed_forward_norm")

    def call(
        self, x_BTD: Tensor, bias_BHTT: Tensor | None, source: Source, pasts: Pasts, training: bool = False
    ) -> tuple[Tensor, Pasts]:
        """[B, T, D] -> [B, T, D], with the keys and values for later tokens, which the bias hides from earlier ones."""
        encoded_BSD, bias_B11S = source
        attended_BTD, _, past = self.attention(x_BTD, None, bias_BHTT, pasts[0], training=training)
        x_BTD = self.attention_norm(x_BTD, attended_BTD, training)
        attended_BTD, _, source_past = self.source_attention(x_BTD, encoded_BSD, bias_B11S, pasts[1], training=training)
        x_BTD = self.source_attention_norm(x_BTD, attended_BTD, training)
        x_BTD = self.feed_forward_norm(x_BTD, self.feed_forward(x_BTD, training), training)
        return x_BTD, (past, source_past)  # [B, T, D]


class Transformer(layers.Layer):
    """The encoder and the decoder, with one matrix for the embeddings of both and for the output.

    >>> import tensorflow as tf
    >>> settings = TransformerSettings(vocab_size=11, width=6, num_heads=2, feed_forward_width=8, num_encoder_layers=1)
    >>> model = Transformer(settings)
    >>> source_BS, mask_BS = tf.constant([[5, 7, 1], [3, 1, 0]]), tf.constant([[1, 1, 1], [1, 1, 0]])
    >>> logits_BTV = model(source_BS, mask_BS, target_BT=tf.constant([[0, 4, 9, 2], [0, 8, 2, 3]]))
    >>> list(logits_BTV.shape)
    [2, 4, 11]
    """

    def __init__(self, settings: TransformerSettings, **kwargs: Any):
        super().__init__(**kwargs)
        self.settings = settings
        near_one: Any = initializers.RandomNormal(stddev=settings.width**-0.5)  # once they are times √D, in `embed`
        self.embedding = layers.Embedding(settings.vocab_size, settings.width, near_one, name="embedding")
        self.encoder = [EncoderLayer(settings, name=f"encoder.{i}") for i in range(settings.num_encoder_layers)]
        self.decoder = [DecoderLayer(settings, name=f"decoder.{i}") for i in range(settings.num_decoder_layers)]
        self.source_dropout = layers.Dropout(settings.dropout)
        self.target_dropout = layers.Dropout(settings.dropout)
        # Neither of them is trained.
        table_LD = tf.constant(sinusoids(settings.max_positions, settings.width))
        self.positions = tf.Variable(table_LD, trainable=False, name="positions")
        self.output_bias = tf.Variable(tf.zeros(settings.vocab_size), trainable=False, name="output_bias")
        # Keras makes the other weights at the first call.
        token_11 = tf.zeros([1, 1], tf.int32)
        self(token_11, token_11, token_11)

    def call(self, source_BS: Tensor, mask_BS: Tensor, target_BT: Tensor, training: bool = False) -> Tensor:
        """Logits [B, T, V] of the token after each of the target, whose first is `start_id`.

        `mask_BS` is 1 on tokens of the source and 0 on padding.
        """
        bias_B11S = padding_bias(mask_BS)
        encoded_BSD = self.encode(self.embed(source_BS), bias_B11S, training)
        source = (encoded_BSD, bias_B11S)
        decoded_BTD, _ = self.decode(self.embed(target_BT), causal_bias(target_BT), source, None, training)
        return self.logits(decoded_BTD)  # [B, T, V]

    def embed(self, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """Embeddings times √D, plus positions, which count from 0 unless given, [B, T, D] (sections 3.4 and 3.5)."""
        if positions_BT is None:
            positions_BT = tf.range(tf.shape(tokens_BT)[1])
        x_BTD = self.embedding(tokens_BT) * self.settings.width**0.5
        return x_BTD + tf.cast(tf.gather(self.positions, positions_BT), x_BTD.dtype)  # [B, T, D]

    def encode(self, x_BSD: Tensor, bias_BHSS: Tensor, training: bool = False) -> Tensor:
        """What the encoder makes of an embedded source, [B, S, D], with the first dropout of section 5.4."""
        x_BSD = self.source_dropout(x_BSD, training=training)
        for layer in self.encoder:
            x_BSD = layer(x_BSD, bias_BHSS, training)
        return x_BSD

    def decode(
        self, x_BTD: Tensor, bias_BHTT: Tensor | None, source: Source, cache: Cache | None, training: bool = False
    ) -> tuple[Tensor, Cache]:
        """What the decoder makes of an embedded target, [B, T, D], and the cache for the token that comes next.

        With the cache of the tokens before, the target is that one token, and needs no bias.
        """
        new_cache: Cache = []
        x_BTD = self.target_dropout(x_BTD, training=training)
        for layer, pasts in zip(self.decoder, cache or [(None, None)] * len(self.decoder), strict=True):
            x_BTD, pasts = layer(x_BTD, bias_BHTT, source, pasts, training)
            new_cache.append(pasts)
        return x_BTD, new_cache

    def logits(self, decoded_BTD: Tensor) -> Tensor:
        """The score of each token of the vocabulary, by the embeddings' matrix, [B, T, V]."""
        return tf.tensordot(decoded_BTD, self.embedding.embeddings, [[2], [1]]) + self.output_bias


def padding_bias(mask_BS: Tensor) -> Tensor:
    """What hides padding, whose mask is 0, from every query: [B, 1, 1, S]."""
    return (1 - tf.cast(mask_BS, tf.float32)[:, None, None, :]) * HIDDEN


def causal_bias(target_BT: Tensor) -> Tensor:
    """What hides later tokens from each: [T, T]."""
    ones_TT = tf.ones([tf.shape(target_BT)[1], tf.shape(target_BT)[1]])
    return (1 - tf.linalg.band_part(ones_TT, -1, 0)) * HIDDEN
