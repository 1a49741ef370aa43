"""Attention over the whole map (equation 20; ViT, and PVT with a spatial reduction)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from acmix_nas.errors import UserError
from acmix_nas.operators.attend import LinearPosition, attend, encoding_macs, make_position
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
        position: "linear" encoding of the coordinates, or "none".
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        stride: int = 1,
        reduction: int = 1,
        position: str = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if reduction < 1:
            raise UserError(f"reduction of global attention must be positive; got reduction={reduction}")
        self.channels, self.heads, self.stride, self.reduction = channels, heads, stride, reduction
        head_channels(channels, heads, stride)
        self.position = make_position(position, channels, heads, None, device, dtype)

    @property
    def name(self) -> str:
        return "global" if self.reduction == 1 else f"global_r{self.reduction}"

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[2:]
        q, kv = maps.split((self.channels, 2 * self.channels), dim=1)
        if self.reduction > 1:
            kv = F.avg_pool2d(kv, self.reduction, ceil_mode=True, count_include_pad=False)
        q = q[..., :: self.stride, :: self.stride]
        rows, columns = q.shape[2:]
        q = q.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, Ho·Wo, D)
        kv = kv.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (2, self.heads, -1))  # (B, H·W / R², 2, N, D)
        k, v = kv.permute(2, 0, 3, 1, 4)
        if isinstance(self.position, LinearPosition):
            p = self.position(height, width).permute(2, 0, 1)
            if self.reduction > 1:
                p = F.avg_pool2d(p, self.reduction, ceil_mode=True, count_include_pad=False)
            k = k - p.flatten(1).T
        out = attend(q, k, v)  # (B, N, Ho·Wo, D)
        return out.transpose(1, 2).reshape(-1, rows, columns, self.channels).permute(0, 3, 1, 2)

    def macs(self, height: int, width: int) -> float:
        area = strided(height, self.stride) * strided(width, self.stride)
        keys = strided(height, self.reduction) * strided(width, self.reduction)
        return 2.0 * keys * self.channels * area + encoding_macs(self.position, height, width)


class GlobalAttention(Operator):
    """Global attention with its own Stage I. Arguments as of `GlobalPath`, `bias` of Stage I."""

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, stride: int = 1, bias: bool = True,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None, **path: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            Projection(in_channels, 3 * out_channels, bias, device, dtype),
            GlobalPath(out_channels, heads, stride=stride, device=device, dtype=dtype, **path),
        )
