"""Attention inside the windows of a grid (equation 19; Swin)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from acmix_nas.errors import UserError
from acmix_nas.operators.attend import LinearPosition, attend, split_maps
from acmix_nas.operators.stage import WINDOW, Operator, Path, Projection, head_channels, strided

__all__ = ["WindowAttention", "WindowPath"]


class WindowPath(Path):
    """Every pixel attends to its own window of K×K; with `shift` the grid is moved by half a window, cyclically.

    Maps that the window does not divide are padded, and what was padded or rolled over the border is masked. On a map
    smaller than the window, the window is the map. With a stride, the queries are those of the strided positions.

    Args:
        channels: C.
        heads: N, which must divide C.
        window: K.
        shift: whether the grid is moved.
        position: whether the linear encoding of the coordinates takes part.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int = WINDOW,
        stride: int = 1,
        shift: bool = False,
        position: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if window < 1:
            raise UserError(f"window of window attention must be positive; got window={window}")
        self.channels, self.heads, self.window, self.stride, self.shift = channels, heads, window, stride, shift
        depth = head_channels(channels, heads, stride)
        self.position = LinearPosition(depth, device, dtype) if position else None

    @property
    def name(self) -> str:
        return "window" if self.window == WINDOW else f"window_k{self.window}"

    def forward(self, maps: Tensor) -> Tensor:
        q, k, v = split_maps(maps, self.heads, self.position)
        height, width = q.shape[1:3]
        rows, columns = Grid(height, self.window, self.shift), Grid(width, self.window, self.shift)
        qkv = torch.cat((q, k, v), dim=-1)  # (B, H, W, 3C)
        qkv = F.pad(qkv, (0, 0, 0, columns.padding, 0, rows.padding))
        if rows.shift or columns.shift:
            qkv = qkv.roll((-rows.shift, -columns.shift), dims=(1, 2))
        qkv = qkv.reshape(q.shape[0], rows.number, rows.window, columns.number, columns.window, 3, self.heads, -1)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7)  # (3, B, rows, columns, N, K, K, D)
        shape = qkv.shape
        qkv = qkv.reshape(3, -1, self.heads, rows.window * columns.window, shape[-1])

        out = attend(qkv[0], qkv[1], qkv[2], self._mask(rows, columns, q.shape[0], q.device))

        out = out.reshape(shape[1:]).permute(0, 1, 4, 2, 5, 3, 6)
        out = out.reshape(q.shape[0], rows.number * rows.window, columns.number * columns.window, self.channels)
        if rows.shift or columns.shift:
            out = out.roll((rows.shift, columns.shift), dims=(1, 2))
        return out[:, : height : self.stride, : width : self.stride].permute(0, 3, 1, 2)

    @staticmethod
    def _mask(rows: Grid, columns: Grid, batch: int, device: torch.device) -> Tensor | None:
        """(B · windows, 1, K², K²): only pixels of one region see each other; the padding is a region of its own."""
        if not (rows.shift or columns.shift or rows.padding or columns.padding):
            return None
        region_rows, region_columns = rows.regions(device), columns.regions(device)
        region = 3 * region_rows[:, :, None, None] + region_columns[None, None]  # (rows, K, columns, K)
        outside = (region_rows < 0)[:, :, None, None] | (region_columns < 0)[None, None]
        region = region.masked_fill(outside, -1).permute(0, 2, 1, 3).reshape(rows.number * columns.number, 1, -1)
        return (region[..., :, None] == region[..., None, :]).repeat(batch, 1, 1, 1)

    def macs(self, height: int, width: int) -> float:
        area = strided(height, self.stride) * strided(width, self.stride)
        keys = Grid(height, self.window, self.shift).window * Grid(width, self.window, self.shift).window
        encoding = 2.0 * self.channels // self.heads * height * width if self.position is not None else 0.0
        return 2.0 * keys * self.channels * area + encoding


class Grid:
    """How one axis of a map is cut into windows."""

    def __init__(self, size: int, window: int, shift: bool) -> None:
        self.size, self.window = size, min(window, size)
        self.number = strided(size, self.window)
        self.padding = self.number * self.window - size
        self.shift = self.window // 2 if shift and self.number > 1 else 0

    def regions(self, device: torch.device) -> Tensor:
        """(windows, K): the region of each position after the roll; −1 in the padding."""
        index = torch.arange(self.number * self.window, device=device)
        origin = (index + self.shift) % len(index)
        region = (index >= len(index) - self.window).int() + (index >= len(index) - self.shift).int()
        return region.masked_fill(origin >= self.size, -1).view(self.number, self.window)


class WindowAttention(Operator):
    """Window attention with its own Stage I. Arguments as of `WindowPath`, `bias` of Stage I."""

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, stride: int = 1, bias: bool = True,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None, **path: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            Projection(in_channels, out_channels, bias, device, dtype),
            WindowPath(out_channels, heads, stride=stride, device=device, dtype=dtype, **path),
        )
