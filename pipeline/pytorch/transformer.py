"""The Transformer written out, to be read beside Vaswani et al. 2017, "Attention Is All You Need".

    FeedForward     section 3.3   max(0, x W₁ + b₁) W₂ + b₂
    AddAndNorm      section 3.1   LayerNorm(x + Sublayer(x)), with the dropout of section 5.4
    EncoderLayer    section 3.1   self-attention, then feed-forward
    DecoderLayer    section 3.1   masked self-attention, attention to the source, then feed-forward
    Transformer     section 3.4   embeddings and positions, both stacks of layers, and the output tied to the embeddings

`generation.py` writes texts with it, from cached keys and values. `pipeline/tensorflow/transformer.py` has the same
definitions in the same order.
"""

# B batch · S source tokens · T target tokens · D model width · F feed-forward width · V vocabulary · H heads

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.transformer import TransformerSettings, sinusoids
from pipeline.pytorch.attention import MultiHeadAttention

ACTIVATIONS = {"relu": nn.functional.relu, "gelu": nn.functional.gelu, "swish": nn.functional.silu}
# Added to the score of what must not be seen or chosen.
HIDDEN = -1e9

# What the encoder made of the source [B, S, D], and what hides its padding.
Source = tuple[Tensor, Tensor]
# Keys and values [B, H, S, K] of an attention, of a decoder layer's two attentions, and of all layers.
Past = tuple[Tensor, Tensor]
Pasts = tuple[Past | None, Past | None]
Cache = list[Pasts]


class FeedForward(nn.Module):
    """Two linear layers, applied to each position by itself (equation 2)."""

    def __init__(self, settings: TransformerSettings):
        super().__init__()
        self.inner = nn.Linear(settings.width, settings.feed_forward_width)
        self.outer = nn.Linear(settings.feed_forward_width, settings.width)
        self.activation = ACTIVATIONS[settings.activation]
        self.dropout = nn.Dropout(settings.activation_dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        inner_BTF = self.dropout(self.activation(self.inner(x_BTD)))
        return self.outer(inner_BTF)  # [B, T, D]


class AddAndNorm(nn.Module):
    """What is around every sublayer: dropout, the residual connection, and layer normalization."""

    def __init__(self, settings: TransformerSettings):
        super().__init__()
        self.dropout = nn.Dropout(settings.dropout)
        self.norm = nn.LayerNorm(settings.width, eps=1e-5)

    def forward(self, x_BTD: Tensor, sublayer_BTD: Tensor) -> Tensor:
        """A sublayer's input and its output, both [B, T, D] -> [B, T, D]."""
        return self.norm(x_BTD + self.dropout(sublayer_BTD))


class EncoderLayer(nn.Module):
    """Each token of the source reads all the others."""

    def __init__(self, settings: TransformerSettings):
        super().__init__()
        self.attention = MultiHeadAttention(settings.width, settings.num_heads, dropout=settings.attention_dropout)
        self.attention_norm = AddAndNorm(settings)
        self.feed_forward = FeedForward(settings)
        self.feed_forward_norm = AddAndNorm(settings)

    def forward(self, x_BSD: Tensor, bias_BHSS: Tensor | None) -> Tensor:
        """[B, S, D] -> [B, S, D]; the bias hides padding."""
        attended_BSD, _, _ = self.attention(x_BSD, bias_BHTS=bias_BHSS)
        x_BSD = self.attention_norm(x_BSD, attended_BSD)
        return self.feed_forward_norm(x_BSD, self.feed_forward(x_BSD))  # [B, S, D]


class DecoderLayer(nn.Module):
    """Each token of the target reads those before it, then the source."""

    def __init__(self, settings: TransformerSettings):
        super().__init__()
        self.attention = MultiHeadAttention(settings.width, settings.num_heads, dropout=settings.attention_dropout)
        self.attention_norm = AddAndNorm(settings)
        self.source_attention = MultiHeadAttention(
            settings.width, settings.num_heads, dropout=settings.attention_dropout
        )
        self.source_attention_norm = AddAndNorm(settings)
        self.feed_forward = FeedForward(settings)
        self.feed_forward_norm = AddAndNorm(settings)

    def forward(self, x_BTD: Tensor, bias_BHTT: Tensor | None, source: Source, pasts: Pasts) -> tuple[Tensor, Pasts]:
        """[B, T, D] -> [B, T, D], with the keys and values for later tokens, which the bias hides from earlier ones."""
        encoded_BSD, bias_B11S = source
        attended_BTD, _, past = self.attention(x_BTD, None, bias_BHTT, pasts[0])
        x_BTD = self.attention_norm(x_BTD, attended_BTD)
        attended_BTD, _, source_past = self.source_attention(x_BTD, encoded_BSD, bias_B11S, pasts[1])
        x_BTD = self.source_attention_norm(x_BTD, attended_BTD)
        x_BTD = self.feed_forward_norm(x_BTD, self.feed_forward(x_BTD))
        return x_BTD, (past, source_past)  # [B, T, D]


class Transformer(nn.Module):
    """The encoder and the decoder, with one matrix for the embeddings of both and for the output.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> settings = TransformerSettings(vocab_size=11, width=6, num_heads=2, feed_forward_width=8, num_encoder_layers=1)
    >>> model = Transformer(settings).eval()
    >>> source_BS, mask_BS = torch.tensor([[5, 7, 1], [3, 1, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    >>> logits_BTV = model(source_BS, mask_BS, target_BT=torch.tensor([[0, 4, 9, 2], [0, 8, 2, 3]]))
    >>> list(logits_BTV.shape)
    [2, 4, 11]
    """

    # Neither of them is trained.
    positions: Tensor
    output_bias: Tensor

    def __init__(self, settings: TransformerSettings):
        super().__init__()
        self.settings = settings
        self.embedding = nn.Embedding(settings.vocab_size, settings.width)
        nn.init.normal_(self.embedding.weight, std=settings.width**-0.5)  # times √D in `embed`, they are about 1
        self.encoder = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.num_encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(settings) for _ in range(settings.num_decoder_layers))
        self.source_dropout = nn.Dropout(settings.dropout)
        self.target_dropout = nn.Dropout(settings.dropout)
        self.register_buffer("positions", torch.from_numpy(sinusoids(settings.max_positions, settings.width)))
        self.register_buffer("output_bias", torch.zeros(settings.vocab_size))

    def forward(self, source_BS: Tensor, mask_BS: Tensor, target_BT: Tensor) -> Tensor:
        """Logits [B, T, V] of the token after each of the target, whose first is `start_id`.

        `mask_BS` is 1 on tokens of the source and 0 on padding.
        """
        bias_B11S = padding_bias(mask_BS)
        encoded_BSD = self.encode(self.embed(source_BS), bias_B11S)
        decoded_BTD, _ = self.decode(self.embed(target_BT), causal_bias(target_BT), (encoded_BSD, bias_B11S), None)
        return self.logits(decoded_BTD)  # [B, T, V]

    def embed(self, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """Embeddings times √D, plus positions, which count from 0 unless given, [B, T, D] (sections 3.4 and 3.5)."""
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD = self.embedding(tokens_BT) * self.settings.width**0.5
        return x_BTD + self.positions[positions_BT]  # [B, T, D]

    def encode(self, x_BSD: Tensor, bias_BHSS: Tensor) -> Tensor:
        """What the encoder makes of an embedded source, [B, S, D], with the first dropout of section 5.4."""
        x_BSD = self.source_dropout(x_BSD)
        for layer in self.encoder:
            x_BSD = layer(x_BSD, bias_BHSS)
        return x_BSD

    def decode(
        self, x_BTD: Tensor, bias_BHTT: Tensor | None, source: Source, cache: Cache | None
    ) -> tuple[Tensor, Cache]:
        """What the decoder makes of an embedded target, [B, T, D], and the cache for the token that comes next.

        With the cache of the tokens before, the target is that one token, and needs no bias.
        """
        new_cache: Cache = []
        x_BTD = self.target_dropout(x_BTD)
        for layer, pasts in zip(self.decoder, cache or [(None, None)] * len(self.decoder), strict=True):
            x_BTD, pasts = layer(x_BTD, bias_BHTT, source, pasts)
            new_cache.append(pasts)
        return x_BTD, new_cache

    def logits(self, decoded_BTD: Tensor) -> Tensor:
        """The score of each token of the vocabulary, by the embeddings' matrix, [B, T, V]."""
        return decoded_BTD @ self.embedding.weight.T + self.output_bias


def padding_bias(mask_BS: Tensor) -> Tensor:
    """What hides padding, whose mask is 0, from every query: [B, 1, 1, S]."""
    return (1 - mask_BS[:, None, None, :]) * HIDDEN


def causal_bias(target_BT: Tensor) -> Tensor:
    """What hides later tokens from each: [T, T]."""
    ones_TT = torch.ones(target_BT.shape[1], target_BT.shape[1], device=target_BT.device)
    return ones_TT.triu(1) * HIDDEN
