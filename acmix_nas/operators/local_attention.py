"""Attention over the K×K neighbours of every pixel (equation 10)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from acmix_nas.errors import UserError, one_of
from acmix_nas.operators.attend import LinearPosition, attend, split_maps
from acmix_nas.operators.stage import WINDOW, Operator, Path, Projection, head_channels, strided

__all__ = ["BORDERS", "LocalAttention", "LocalPath"]

BORDERS = ("reflect", "mask")


class LocalPath(Path):
    """Sliding-window attention without the K²-fold unfolding.

    The map is cut into tiles of queries. Each tile needs only the keys of its own area and a margin, and takes its product
    with all of them under one constant mask. Memory grows with the margin, by some (T+K−1)²/T², not by K².

    Args:
        channels: C.
        heads: N, which must divide C.
        window: K, odd.
        dilation: distance between neighbours.
        border: "reflect" (as published for ResNet; on maps smaller than the window the indices bounce as often as needed)
            or "mask" (neighbours outside the map take no part).
        position: whether the linear encoding of the coordinates takes part.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int = WINDOW,
        stride: int = 1,
        dilation: int = 1,
        border: str = "reflect",
        position: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise UserError(f"window of local attention must be odd and positive; got window={window}")
        if border not in BORDERS:
            raise one_of("border", border, BORDERS)
        self.channels, self.heads = channels, heads
        self.window, self.stride, self.dilation, self.border = window, stride, dilation, border
        depth = head_channels(channels, heads, stride, dilation)
        self.position = LinearPosition(depth, device, dtype) if position else None

    @property
    def name(self) -> str:
        return "local" if self.window == WINDOW else f"local_k{self.window}"

    def forward(self, maps: Tensor) -> Tensor:
        q, k, v = split_maps(maps, self.heads, self.position)
        batch, height, width, channels = q.shape
        rows = Tiles(height, self.window, self.stride, self.dilation, self.border)
        columns = Tiles(width, self.window, self.stride, self.dilation, self.border)

        q = q[:, :: self.stride, :: self.stride]  # (B, Ho, Wo, C)
        q = F.pad(q, (0, 0, 0, columns.padding, 0, rows.padding))
        q = q.reshape(batch, rows.number, rows.side, columns.number, columns.side, self.heads, -1)
        q = q.permute(0, 1, 3, 5, 2, 4, 6).reshape(
            batch * rows.number * columns.number, self.heads, rows.side * columns.side, -1
        )

        kv = torch.cat((k, v), dim=-1)  # (B, H, W, 2C)
        kv = kv.index_select(1, rows.keys(kv.device).flatten()).index_select(2, columns.keys(kv.device).flatten())
        kv = kv.reshape(batch, rows.number, rows.reach, columns.number, columns.reach, 2, self.heads, -1)
        kv = kv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(2, q.shape[0], self.heads, rows.reach * columns.reach, -1)

        seen_rows, seen_columns = rows.seen(q.device), columns.seen(q.device)  # (tiles or 1, T, reach)
        mask = seen_rows[:, None, :, None, :, None] & seen_columns[None, :, None, :, None, :]
        mask = mask.reshape(-1, 1, rows.side * columns.side, rows.reach * columns.reach)
        if len(mask) > 1:
            mask = mask.repeat(batch, 1, 1, 1)
        out = attend(q, kv[0], kv[1], mask)  # (B · tiles, N, T², D)

        out = out.reshape(batch, rows.number, columns.number, self.heads, rows.side, columns.side, -1)
        out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, rows.number * rows.side, columns.number * columns.side, channels)
        return out[:, : rows.queries, : columns.queries].permute(0, 3, 1, 2)

    def macs(self, height: int, width: int) -> float:
        area = strided(height, self.stride) * strided(width, self.stride)
        products = 2.0 * self.window**2 * self.channels * area
        encoding = 2.0 * self.channels // self.heads * height * width if self.position is not None else 0.0
        return products + encoding


class Tiles:
    """How one axis of a map is cut into tiles of queries, and which keys each tile reaches."""

    def __init__(self, size: int, window: int, stride: int, dilation: int, border: str) -> None:
        self.size, self.window, self.stride, self.dilation, self.border = size, window, stride, dilation, border
        self.queries = strided(size, stride)
        # Tiles of 7 queries were the fastest up to maps of 56; they shrink to what divides a small map evenly.
        self.side = strided(self.queries, strided(self.queries, 7))
        self.number = strided(self.queries, self.side)
        self.padding = self.number * self.side - self.queries
        self.reach = (self.side - 1) * stride + (window - 1) * dilation + 1

    def positions(self, device: torch.device) -> Tensor:
        """(tiles, reach): the coordinate of each key, which may lie outside the map."""
        first = torch.arange(self.number, device=device) * (self.side * self.stride) - self.window // 2 * self.dilation
        return first[:, None] + torch.arange(self.reach, device=device)

    def keys(self, device: torch.device) -> Tensor:
        """(tiles, reach): the index of the key that stands at each position."""
        positions = self.positions(device)
        if self.border == "mask" or self.size == 1:
            return positions.clamp(0, self.size - 1)
        period = 2 * (self.size - 1)
        positions = positions.remainder(period)
        return torch.where(positions < self.size, positions, period - positions)

    def seen(self, device: torch.device) -> Tensor:
        """(tiles or 1, side, reach): whether a query of the tile sees a key of its reach."""
        queries = torch.arange(self.side, device=device)[:, None] * self.stride
        offset = torch.arange(self.reach, device=device) - queries
        seen = (offset >= 0) & (offset <= (self.window - 1) * self.dilation) & (offset % self.dilation == 0)
        if self.border != "mask":
            return seen[None]
        positions = self.positions(device)
        inside = (positions >= 0) & (positions < self.size)
        # The padding's queries have no neighbour inside; they see everything, and are cut off afterwards.
        padding = torch.arange(self.number * self.side, device=device).view(self.number, self.side) >= self.queries
        return (seen & inside[:, None]) | padding[:, :, None]


class LocalAttention(Operator):
    """Local attention with its own Stage I. Arguments as of `LocalPath`, `bias` of Stage I."""

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, stride: int = 1, bias: bool = True,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None, **path: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            Projection(in_channels, out_channels, bias, device, dtype),
            LocalPath(out_channels, heads, stride=stride, device=device, dtype=dtype, **path),
        )
