"""Attention over the whole map (equation 20; ViT, and PVT with a spatial reduction)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from acmix_nas.operators import kernels
from acmix_nas.operators.attend import LinearPosition, attend, constant, encoding_macs, make_position
from acmix_nas.operators.registry import register_operator
from acmix_nas.operators.stage import Operator, Path, Projection, strided
from acmix_nas.util.errors import UserError

__all__ = ["GlobalAttention", "GlobalPath"]


@register_operator("global")
class GlobalPath(Path):
    """Every pixel attends to the whole map, or to its means over R×R pixels; in C on the CPU (`kernels.tiles`).

    The means are taken of k and v, after Stage I. Since Stage I is linear this equals projecting the means of x, and
    it leaves Stage I to be shared.

    Args:
        channels: C.
        heads: N, which must divide C.
        reduction: R; 1 keeps every key.
        position: "linear" encoding of the coordinates, or "none".
    """

    settings = {"r": "reduction"}

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
        super().__init__(channels, heads, stride)
        if reduction < 1:
            raise UserError(f"reduction of global attention must be positive; got reduction={reduction}")
        self.reduction = reduction
        self.position = make_position(position, channels, heads, None, device, dtype)

    @classmethod
    def make(cls, channels: int, heads: int, **offered: Any) -> Path:
        # A table has a size, and the whole map has not: there the coordinates speak.
        if offered.get("position") == "table":
            offered["position"] = "linear"
        return super().make(channels, heads, **offered)

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[2:]
        p = self.position(height, width).permute(2, 0, 1) if isinstance(self.position, LinearPosition) else None
        kv = None
        if self.reduction > 1:
            kv = self._means(maps[:, self.channels :])
            p = None if p is None else self._means(p)
        p = None if p is None else p.flatten(1).T  # (H·W / R², D)
        if kernels.runs_on(maps):
            return kernels.tiles(maps, kv, p, None, self.heads, whole_map(height, width, self.stride, self.reduction))
        q = maps[:, : self.channels, :: self.stride, :: self.stride]
        kv = maps[:, self.channels :] if kv is None else kv
        rows, columns = q.shape[2:]
        q = q.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, Ho·Wo, D)
        kv = kv.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (2, self.heads, -1))  # (B, H·W / R², 2, N, D)
        k, v = kv.permute(2, 0, 3, 1, 4)
        out = attend(q, k if p is None else k - p, v)  # (B, N, Ho·Wo, D)
        return out.transpose(1, 2).reshape(-1, rows, columns, self.channels).permute(0, 3, 1, 2)

    def _means(self, maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, self.reduction, ceil_mode=True, count_include_pad=False)

    def macs(self, height: int, width: int) -> float:
        area = strided(height, self.stride) * strided(width, self.stride)
        keys = strided(height, self.reduction) * strided(width, self.reduction)
        return 2.0 * keys * self.channels * area + encoding_macs(self.position, height, width)


@constant
def whole_map(height: int, width: int, stride: int, reduction: int) -> kernels.Layout:
    """Return the layout in which the map is one tile."""
    pixels = torch.arange(height * width, device="cpu", dtype=torch.int32)
    queries = pixels.view(height, width)[::stride, ::stride].reshape(1, -1).contiguous()  # a view, of a map of one row
    keys = pixels[None, : strided(height, reduction) * strided(width, reduction)]
    outputs = pixels[None, : queries.numel()]
    return kernels.Layout(queries, keys, outputs, None, strided(height, stride), strided(width, stride))


class GlobalAttention(Operator):
    """Global attention with its own Stage I. Arguments are those of `GlobalPath`, and `bias` of Stage I."""

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, stride: int = 1, bias: bool = True,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None, **path: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            Projection(in_channels, 3 * out_channels, bias, device, dtype),
            GlobalPath(out_channels, heads, stride=stride, device=device, dtype=dtype, **path),
        )
