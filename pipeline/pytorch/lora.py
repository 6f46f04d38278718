"""LoRA in PyTorch: a projection that is kept as it is, and an update of low rank that is trained instead.

`pipeline/models/lora.py` says which projections get one. `pipeline/tensorflow/lora.py` has the same definitions in the
same order.
"""

# B batch · T tokens · I inputs of a projection · R rank of the update · O outputs

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.backend import Adapter
from pipeline.pytorch.sites import put


class LoraLinear(nn.Module):
    """Replaces a projection of the library: what that computes, plus scale · dropout(x) A B.

    Its weight and bias are the projection's own. Source: Hu et al. 2021, equation 3.
    """

    def __init__(self, base: Any, adapter: Adapter, first_IR: nn.Parameter, second_RO: nn.Parameter):
        super().__init__()
        self.base_layer, self.adapter = base, adapter
        self.lora_A, self.lora_B = first_IR, second_RO
        self.dropout = nn.Dropout(adapter.dropout)
        self.train(base.training)

    def forward(self, input: Tensor) -> Tensor:
        """[B, T, I] -> [B, T, O]."""
        reduced_BTR = self.dropout(input) @ self.lora_A * self.adapter.scale
        return self.base_layer(input) + reduced_BTR @ self.lora_B  # [B, T, O]

    @property
    def weight(self) -> nn.Parameter:
        """The projection's matrix, without the update."""
        return self.base_layer.weight

    @property
    def bias(self) -> nn.Parameter | None:
        """The projection's bias."""
        return self.base_layer.bias

    @property
    def in_features(self) -> int:
        """The number of its inputs."""
        return self.lora_A.shape[0]


def add_adapters(model: PreTrainedModel, adapters: Iterable[Adapter]) -> None:
    """Give projections of a stock model their updates, in place."""
    for adapter in adapters:
        path, _, name = adapter.module.rpartition(".")
        parent: Any = model.get_submodule(path)
        base = getattr(parent, name)
        start = (nn.Parameter(torch.from_numpy(value).to(base.weight)) for value in (adapter.first, adapter.second))
        put(parent, name, LoraLinear(base, adapter, *start))


def base_of(projection: Any) -> Any:
    """The projection of the library, also where it has an update."""
    return projection.base_layer if isinstance(projection, LoraLinear) else projection


def cut_adapter(merged: Any, parent: Any, names: Sequence[str]) -> None:
    """Give the projections `names` of `parent` their parts of the update that one of them all has, if it has one.

    A is shared, since all of them read the same, and the columns of B are dealt out.
    """
    if not isinstance(merged, LoraLinear):
        return
    for name, part_RO in zip(names, merged.lora_B.detach().chunk(len(names), dim=1), strict=True):
        second_RO = nn.Parameter(part_RO.clone(), merged.lora_B.requires_grad)
        put(parent, name, LoraLinear(getattr(parent, name), merged.adapter, merged.lora_A, second_RO))


def join_adapter(merged: Any, parent: Any, names: Sequence[str]) -> None:
    """Undo `cut_adapter`, with the parts of B as they are now."""
    if isinstance(merged, LoraLinear):
        merged.lora_B.data = torch.cat([getattr(parent, name).lora_B.detach() for name in names], dim=1)
