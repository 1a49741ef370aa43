"""Attention over the whole map (equation 20; ViT, and PVT with a spatial reduction)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from acmix_nas.errors import UserError
from acmix_nas.operators.attend import LinearPosition, attend, split_maps
from acmix_nas.operators.stage import Operator, Path, Projection, head_channels, strided

__all__ = ["GlobalAttention", "GlobalPath"]


class GlobalPath(Path):
    """Every pixel attends to the whole map, or to its means over R×R pixels.

    The means are taken of k and v, after Stage I. Since Stage I is linear this equals projecting the means of x, and
    it leaves Stage I to be shared.

    Args:
        channels: C.
        heads: N, which must divide C.
        reduction: R; 1 keeps every key.
        position: whether the linear encoding of the coordinates takes part.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        stride: int = 1,
        reduction: int = 1,
        position: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if reduction < 1:
            raise UserError(f"reduction of global attention must be positive; got reduction={reduction}")
        self.channels, self.heads, self.stride, self.reduction = channels, heads, stride, reduction
        depth = head_channels(channels, heads, stride)
        self.position = LinearPosition(depth, device, dtype) if position else None

    @property
    def name(self) -> str:
        return "global" if self.reduction == 1 else f"global_r{self.reduction}"

    def forward(self, maps: Tensor) -> Tensor:
        q, k, v = split_maps(maps, self.heads, self.position)
        q = q[:, :: self.stride, :: self.stride]
        batch, height, width, channels = q.shape
        kv = torch.cat((k, v), dim=-1)  # (B, H, W, 2C)
        if self.reduction > 1:
            means = F.avg_pool2d(kv.permute(0, 3, 1, 2), self.reduction, ceil_mode=True, count_include_pad=False)
            kv = means.permute(0, 2, 3, 1)
        q = q.reshape(batch, height * width, self.heads, -1).transpose(1, 2)  # (B, N, Ho·Wo, D)
        kv = kv.flatten(1, 2).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (2, B, N, H·W / R², D)
        out = attend(q, kv[0], kv[1]).transpose(1, 2).reshape(batch, height, width, channels)
        return out.permute(0, 3, 1, 2)

    def macs(self, height: int, width: int) -> float:
        area = strided(height, self.stride) * strided(width, self.stride)
        keys = strided(height, self.reduction) * strided(width, self.reduction)
        encoding = 2.0 * self.channels // self.heads * height * width if self.position is not None else 0.0
        return 2.0 * keys * self.channels * area + encoding


class GlobalAttention(Operator):
    """Global attention with its own Stage I. Arguments as of `GlobalPath`, `bias` of Stage I."""

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, stride: int = 1, bias: bool = True,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None, **path: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            Projection(in_channels, out_channels, bias, device, dtype),
            GlobalPath(out_channels, heads, stride=stride, device=device, dtype=dtype, **path),
        )
