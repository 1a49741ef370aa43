"""The core that the softmax attentions share: positions, and the product itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LinearPosition", "attend", "split_maps"]


class LinearPosition(nn.Module):
    """A learned linear map of the coordinates (from −1 to 1, width first) to D channels: p.

    The logit of the paper's ResNet form is q_i · (k_j + p_i − p_j). Since q_i · p_i is the same for every j, the softmax
    cancels it, and attention over k − p is exactly the same (so the bias of this map has no gradient). That costs one
    subtraction instead of another K²-fold unfolding, and works for any set of neighbours.
    """

    def __init__(self, channels: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(2, channels, device=device, dtype=dtype)

    def forward(self, height: int, width: int) -> Tensor:
        """(H, W, D)"""
        weight = self.linear.weight
        rows = torch.linspace(-1, 1, height, device=weight.device, dtype=weight.dtype)
        columns = torch.linspace(-1, 1, width, device=weight.device, dtype=weight.dtype)
        return self.linear(torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1))


def split_maps(maps: Tensor, heads: int, position: LinearPosition | None) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, each (B, H, W, C) with the head's channels together; the positions are folded into k."""
    q, k, v = maps.permute(0, 2, 3, 1).chunk(3, dim=-1)
    if position is not None:
        k = k - position(k.shape[1], k.shape[2]).repeat(1, 1, heads)
    return q, k, v


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q·k / √D) · v (equation 10) over (B', N, T, D), (B', N, S, D) and a boolean mask (B' or 1, 1, T, S).

    On the CPU the product stays in float32 under autocast: the backward of bfloat16 attention is slower there.
    """
    if mask is not None:
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, float("-inf"))
    if q.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        mask = None if mask is None else mask.float()
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask).to(q.dtype)
