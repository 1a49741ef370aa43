"""Attention inside the windows of a grid (equation 19; Swin)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from acmix_nas.operators import kernels
from acmix_nas.operators.attend import LinearPosition, RelativeBias, attend, constant, encoding_macs, make_position
from acmix_nas.operators.registry import register_operator
from acmix_nas.operators.stage import WINDOW, Operator, Path, Projection, strided
from acmix_nas.util.errors import UserError

__all__ = ["WindowAttention", "WindowPath"]


@register_operator("window")
class WindowPath(Path):
    """Every pixel attends to its own window of K×K; with `shift` the grid is moved by half a window, cyclically.

    On the CPU it runs in C (`kernels.tiles`), which reads each window where it lies.

    Maps that the window does not divide are padded, after the roll, and what was padded or rolled over the border is masked.
    On a map smaller than the window, the window is the map. With a stride, the queries are those of the strided positions.

    Args:
        channels: C.
        heads: N, which must divide C.
        window: K.
        shift: whether the grid is moved.
        rolled: whether the maps come rolled by the grid's shift already, and the output is to stay so.
        position: "linear" encoding of the coordinates, relative position "table", or "none".
    """

    settings = {"k": "window"}

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int = WINDOW,
        stride: int = 1,
        shift: bool = False,
        position: str = "linear",
        rolled: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, heads, stride)
        if window < 1:
            raise UserError(f"window of window attention must be positive; got window={window}")
        self.window, self.shift, self.rolled = window, shift, rolled
        self.position = make_position(position, channels, heads, window - 1, device, dtype)

    @property
    def standing(self) -> dict[str, Any]:
        return {**super().standing, "shift": self.shift}

    def roll(self, x: Tensor, back: bool = False) -> Tensor:
        if not self.rolled:
            return x
        rows, columns = (Grid(size, self.window, self.shift) for size in x.shape[-2:])
        return roll(x.permute(0, 2, 3, 1), rows, columns, back).permute(0, 3, 1, 2)

    def forward(self, maps: Tensor) -> Tensor:
        batch, _, height, width = maps.shape
        rows, columns = Grid(height, self.window, self.shift), Grid(width, self.window, self.shift)
        if kernels.runs_on(maps):
            return self._tiles(maps, rows, columns)
        x = maps.permute(0, 2, 3, 1)
        x = cut(x if self.rolled else roll(x, rows, columns), rows, columns)  # (B, windows, K², 3C)
        q, k, v = x.unflatten(-1, (3, self.heads, self.head_dim)).permute(3, 0, 1, 4, 2, 5)  # (B, windows, N, K², D)
        bias = None
        if isinstance(self.position, LinearPosition):
            k = k - cut(roll(self.position(height, width)[None], rows, columns), rows, columns)[:, :, None]
        elif isinstance(self.position, RelativeBias):
            bias = self.position(*window_offsets(rows.window, columns.window, maps.device))
        mask = window_mask(height, width, self.window, self.shift, maps.device)
        out = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask, bias)  # (B · windows, N, K², D)

        out = out.transpose(1, 2).reshape(batch, rows.number, columns.number, rows.window, columns.window, self.channels)
        out = out.transpose(2, 3).reshape(batch, rows.number * rows.window, columns.number * columns.window, self.channels)
        out = out[:, :height, :width]
        out = out if self.rolled else roll(out, rows, columns, back=True)
        return out[:, :: self.stride, :: self.stride].permute(0, 3, 1, 2)

    def _tiles(self, maps: Tensor, rows: Grid, columns: Grid) -> Tensor:
        height, width = maps.shape[2:]
        p = bias = None
        if isinstance(self.position, LinearPosition):
            p = self.position(height, width).flatten(0, 1)
        elif isinstance(self.position, RelativeBias):
            bias = self.position(*window_offsets(rows.window, columns.window, maps.device))
        layout = window_layout(height, width, self.window, self.shift, self.stride, self.rolled)
        return kernels.tiles(maps, None, p, bias, self.heads, layout)

    def macs(self, height: int, width: int) -> float:
        area = strided(height, self.stride) * strided(width, self.stride)
        keys = Grid(height, self.window, self.shift).window * Grid(width, self.window, self.shift).window
        return 2.0 * keys * self.channels * area + encoding_macs(self.position, height, width)


def roll(x: Tensor, rows: Grid, columns: Grid, back: bool = False) -> Tensor:
    """Roll (B, H, W, channels) against the grid's shift, so that its windows start at the corner, or back with it."""
    if not (rows.shift or columns.shift):
        return x
    sign = 1 if back else -1
    return x.roll((sign * rows.shift, sign * columns.shift), dims=(1, 2))


def cut(x: Tensor, rows: Grid, columns: Grid) -> Tensor:
    """Cut (B, H, W, channels) → (B, windows, K², channels)."""
    if rows.padding or columns.padding:
        x = F.pad(x, (0, 0, 0, columns.padding, 0, rows.padding))
    x = x.unflatten(2, (columns.number, columns.window)).unflatten(1, (rows.number, rows.window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


@constant
def window_mask(height: int, width: int, window: int, shift: bool, device: torch.device) -> Tensor | None:
    """Return (windows, 1, K², K²), 0 or −∞: only pixels of one region see each other. The padding is a region of its own."""
    rows, columns = Grid(height, window, shift), Grid(width, window, shift)
    if not (rows.shift or columns.shift or rows.padding or columns.padding):
        return None
    region_rows, region_columns = rows.regions(device), columns.regions(device)
    region = 2 * region_rows[:, :, None, None] + region_columns[None, None]  # (rows, K, columns, K)
    outside = (region_rows < 0)[:, :, None, None] | (region_columns < 0)[None, None]
    region = region.masked_fill(outside, -1).permute(0, 2, 1, 3).reshape(rows.number * columns.number, 1, -1)
    apart = region[..., :, None] != region[..., None, :]
    return torch.zeros(apart.shape, device=device, dtype=torch.float32).masked_fill(apart, float("-inf"))


@constant
def window_layout(height: int, width: int, window: int, shift: bool, stride: int, rolled: bool) -> kernels.Layout:
    """Return the layout in which every window is a tile, read from the map where it lies, written where its queries belong."""
    rows, columns = Grid(height, window, shift), Grid(width, window, shift)
    down, right = rows.pixels(rolled), columns.pixels(rolled)  # (windows, K)

    def at(down: Tensor, right: Tensor, width: int) -> Tensor:
        """Return (windows, K²): the pixels of both axes, −1 where one of them has none."""
        down, right = down[:, None, :, None], right[None, :, None, :]
        none = (down < 0) | (right < 0)
        return (down * width + right).masked_fill(none, -1).flatten(2).flatten(0, 1).int()

    # A stride takes every so many pixel of the map.
    down_kept, right_kept = (index.masked_fill(index % stride != 0, -1) for index in (down, right))
    down_out, right_out = (index.where(index < 0, index // stride) for index in (down_kept, right_kept))
    keys, queries = at(down, right, width), at(down_kept, right_kept, width)
    mask = window_mask(height, width, window, shift, torch.device("cpu"))
    if mask is not None:
        missing = -keys.shape[1] % kernels.LANES
        mask = F.pad(mask[:, 0].transpose(1, 2), (0, missing)).contiguous()  # (windows, K² of keys, lanes)
    out_width = strided(width, stride)
    return kernels.Layout(queries, keys, at(down_out, right_out, out_width), mask, strided(height, stride), out_width)


@constant
def window_offsets(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return query minus key within a window, of its rows and its columns."""
    index = (torch.arange(size, device=device) for size in (rows, columns))
    down, right = (i[:, None] - i for i in index)
    return down, right


class Grid:
    """How one axis of a map is cut into windows."""

    def __init__(self, size: int, window: int, shift: bool) -> None:
        self.size, self.window = size, min(window, size)
        self.number = strided(size, self.window)
        self.padding = self.number * self.window - size
        self.shift = self.window // 2 if shift and self.number > 1 else 0

    def pixels(self, rolled: bool) -> Tensor:
        """Return (windows, K): the pixel of the map at each place, −1 in the padding. A rolled map has its own pixels."""
        index = torch.arange(self.number * self.window, device="cpu")
        pixels = index if rolled else (index + self.shift) % self.size
        return pixels.masked_fill(index >= self.size, -1).view(self.number, self.window)

    def regions(self, device: torch.device) -> Tensor:
        """Return (windows, K): 1 for what the roll brought over the border, 0 for the rest, −1 in the padding."""
        index = torch.arange(self.number * self.window, device=device)
        region = (index >= self.size - self.shift).int()
        return region.masked_fill(index >= self.size, -1).view(self.number, self.window)


class WindowAttention(Operator):
    """Window attention with its own Stage I. Arguments are those of `WindowPath`, and `bias` of Stage I."""

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, stride: int = 1, bias: bool = True,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None, **path: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            Projection(in_channels, 3 * out_channels, bias, device, dtype),
            WindowPath(out_channels, heads, stride=stride, device=device, dtype=dtype, **path),
        )
