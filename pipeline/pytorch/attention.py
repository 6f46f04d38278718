"""Multi-head attention written out, to be read beside Vaswani et al. 2017, "Attention Is All You Need".

    attend               equation 1      softmax(Q Kᵀ / √d_k) V
    MultiHeadAttention   section 3.2.2   Concat(head_1, ..., head_h) Wᴼ, head_i = attend(Q Wᵢᵠ, K Wᵢᴷ, V Wᵢⱽ)

`pipeline/tensorflow/attention.py` has the same definitions in the same order.
"""

# B batch · T query tokens · S key tokens · H heads · K head width · D model width · N = H * K

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def attend(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    bias_BHTS: Tensor | None = None,
    scale: float | None = None,
    dropout: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix values by query-key similarity; returns the mixture [B, H, T, K] and its weights [B, H, T, S].

    `bias_BHTS` (anything that broadcasts to it) is added to the scores: 0 keeps a pair, a large finite
    negative hides it. `scale` None means 1 / √K. `dropout` is applied to the weights.
    Raises ValueError if there are more or fewer keys than values.
    Source: Vaswani et al. 2017, eq. 1; T5 passes scale=1 and its position bias.
    """
    if k_BHSK.shape[2] != v_BHSK.shape[2]:
        raise ValueError(f"attend: {k_BHSK.shape[2]} keys, but {v_BHSK.shape[2]} values; each key needs one value")
    scale = float(q_BHTK.shape[3] ** -0.5) if scale is None else scale
    # Scaling the queries instead of the scores computes the same from fewer numbers if K < S.
    scores_BHTS = (q_BHTK * scale) @ k_BHSK.transpose(2, 3)
    # 16-bit floats keep too few bits to add a bias and normalize in; 64-bit ones stay as they are.
    scores_BHTS = scores_BHTS.to(torch.promote_types(scores_BHTS.dtype, torch.float32))
    if bias_BHTS is not None:
        scores_BHTS = scores_BHTS + bias_BHTS
    weights_BHTS = torch.softmax(scores_BHTS, dim=3).to(v_BHSK.dtype)
    if dropout is not None:
        weights_BHTS = dropout(weights_BHTS)
    return weights_BHTS @ v_BHSK, weights_BHTS  # [B, H, T, K], [B, H, T, S]


def split_heads(x_BTN: Tensor, num_heads: int) -> Tensor:
    """Cut the last dimension into heads: [B, T, H * K] -> [B, H, T, K]."""
    x_BTHK = torch.unflatten(x_BTN, 2, (num_heads, -1))
    return x_BTHK.transpose(1, 2)  # [B, H, T, K]


def merge_heads(x_BHTK: Tensor) -> Tensor:
    """Put the heads side by side again, the inverse of `split_heads`: [B, H, T, K] -> [B, T, H * K]."""
    x_BTHK = x_BHTK.transpose(1, 2)
    return x_BTHK.flatten(2)  # [B, T, N]


class MultiHeadAttention(nn.Module):
    """Attention in `num_heads` subspaces at once, with its four projections (section 3.2.2).

    `width` is D; `head_width` K defaults to D / H; `dropout` is the rate on the attention weights; `scale`
    None means 1 / √K. Raises ValueError if D is not a multiple of H and no `head_width` is given.

    >>> import torch
    >>> attention = MultiHeadAttention(width=6, num_heads=2)
    >>> tokens_BTD = torch.ones(1, 5, 6)
    >>> output_BTD, weights_BHTS, (k_BHSK, v_BHSK) = attention(tokens_BTD, return_weights=True)
    >>> list(output_BTD.shape), list(weights_BHTS.shape), list(k_BHSK.shape)
    ([1, 5, 6], [1, 2, 5, 5], [1, 2, 5, 3])
    >>> next_B1D, _, (k_BHSK, _) = attention(tokens_BTD[:, :1], past=(k_BHSK, v_BHSK))
    >>> list(next_B1D.shape), list(k_BHSK.shape)
    ([1, 1, 6], [1, 2, 6, 3])
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        head_width: int | None = None,
        use_bias: bool = True,
        dropout: float = 0.0,
        scale: float | None = None,
    ):
        super().__init__()
        if head_width is None and width % num_heads:
            raise ValueError(f"MultiHeadAttention: width {width} is not a multiple of num_heads {num_heads}")
        head_width = head_width or width // num_heads
        self.num_heads = num_heads
        self.scale = head_width**-0.5 if scale is None else scale
        self.query = nn.Linear(width, num_heads * head_width, bias=use_bias)
        self.key = nn.Linear(width, num_heads * head_width, bias=use_bias)
        self.value = nn.Linear(width, num_heads * head_width, bias=use_bias)
        self.out = nn.Linear(num_heads * head_width, width, bias=use_bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries_BTD: Tensor,
        source_BSD: Tensor | None = None,
        bias_BHTS: Tensor | None = None,
        past: tuple[Tensor, Tensor] | Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        return_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """Attend from `queries_BTD` to themselves, or to `source_BSD` if it is given (cross-attention).

        `past` is the last element of an earlier result: keys and values [B, H, S, K] that need no second
        projection. In self-attention the new ones are appended to them; the source of cross-attention does
        not grow, so there they are used as they are. `past` may also be a function, such as a cache: it takes
        the new keys and values and returns all that the queries attend to.
        Returns the output [B, T, D], the weights [B, H, T, S] (None unless asked for), and (keys, values).
        """
        q_BHTK = split_heads(self.query(queries_BTD), self.num_heads)
        if source_BSD is not None and isinstance(past, tuple):
            k_BHSK, v_BHSK = past
        else:
            source_BSD = queries_BTD if source_BSD is None else source_BSD
            k_BHSK = split_heads(self.key(source_BSD), self.num_heads)
            v_BHSK = split_heads(self.value(source_BSD), self.num_heads)
            if callable(past):
                k_BHSK, v_BHSK = past(k_BHSK, v_BHSK)
            elif past is not None:
                k_BHSK = torch.cat([past[0], k_BHSK], dim=2)
                v_BHSK = torch.cat([past[1], v_BHSK], dim=2)
        mixed_BHTK, weights_BHTS = attend(q_BHTK, k_BHSK, v_BHSK, bias_BHTS, self.scale, self.dropout)
        output_BTD = self.out(merge_heads(mixed_BHTK))
        return output_BTD, weights_BHTS if return_weights else None, (k_BHSK, v_BHSK)
