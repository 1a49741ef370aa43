"""Attention over the K×K neighbours of every pixel (equation 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from acmix_nas.operators import kernels
from acmix_nas.operators.attend import (
    LinearPosition,
    RelativeBias,
    attend,
    constant,
    encoding_macs,
    make_position,
)
from acmix_nas.operators.registry import register_operator
from acmix_nas.operators.stage import WINDOW, Operator, Path, Projection, reflected, strided
from acmix_nas.util.errors import UserError, one_of

__all__ = ["BORDERS", "LocalAttention", "LocalPath"]

BORDERS = ("reflect", "mask")


@register_operator("local")
class LocalPath(Path):
    """Sliding-window attention without the K²-fold unfolding.

    On the CPU it runs in C (`kernels.slide`), which unfolds nothing. Elsewhere the map is cut into tiles of queries. Each tile
    needs only the keys of its own area and a margin, and takes its product with all of them under one constant mask. Memory
    grows with the margin, by some (T+K−1)²/T², not by K².

    Args:
        channels: C.
        heads: N, which must divide C.
        window: K, odd.
        dilation: distance between neighbours.
        border: "reflect" (as published for ResNet; on maps smaller than the window the indices bounce as often as needed)
            or "mask" (neighbours outside the map take no part).
        position: "linear" encoding of the coordinates, relative position "table", or "none".
    """

    settings = {"k": "window"}

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int = WINDOW,
        stride: int = 1,
        dilation: int = 1,
        border: str = "reflect",
        position: str = "linear",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, heads, stride, dilation)
        if window < 1 or window % 2 == 0:
            raise UserError(f"window of local attention must be odd and positive; got window={window}")
        if border not in BORDERS:
            raise one_of("border", border, BORDERS)
        self.window, self.border = window, border
        self.position = make_position(position, channels, heads, window // 2, device, dtype)

    def forward(self, maps: Tensor) -> Tensor:
        batch, _, height, width = maps.shape
        rows = Tiles(height, self.window, self.stride, self.dilation, self.border)
        columns = Tiles(width, self.window, self.stride, self.dilation, self.border)
        if kernels.runs_on(maps):
            return self._slide(maps, rows, columns)
        q, kv = maps.permute(0, 2, 3, 1).split((self.channels, 2 * self.channels), dim=-1)

        q = q[:, :: self.stride, :: self.stride]  # (B, Ho, Wo, C)
        if rows.padding or columns.padding:
            q = F.pad(q, (0, 0, 0, columns.padding, 0, rows.padding))
        q = q.unflatten(2, (columns.number, columns.side)).unflatten(1, (rows.number, rows.side)).transpose(2, 3)
        q = q.reshape(-1, rows.side * columns.side, self.heads, self.head_dim).transpose(1, 2)  # (B · tiles, N, T², D)

        p = self.position(height, width) if isinstance(self.position, LinearPosition) else None
        kv = _gather(kv, p, rows, columns)  # (B, rows, columns, reach, reach, 2C)
        kv = kv.reshape(-1, rows.reach * columns.reach, 2, self.heads, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4)  # (B · tiles, N, reach², D)

        bias = None
        if isinstance(self.position, RelativeBias):
            bias = self.position(*tile_offsets(rows, columns, maps.device))
        out = attend(q, k, v, tile_mask(rows, columns, maps.device), bias)  # (B · tiles, N, T², D)

        out = out.transpose(1, 2).reshape(batch, rows.number, columns.number, rows.side, columns.side, self.channels)
        out = out.transpose(2, 3).reshape(batch, rows.number * rows.side, columns.number * columns.side, self.channels)
        return out[:, : rows.queries, : columns.queries].permute(0, 3, 1, 2)

    def _slide(self, maps: Tensor, rows: Tiles, columns: Tiles) -> Tensor:
        p = table = None
        if isinstance(self.position, LinearPosition):
            p = self.position(rows.size, columns.size).flatten(0, 1)
        elif isinstance(self.position, RelativeBias):
            table = self.position.table.flip(0)  # whose rows are query minus key
        down, right = (kernels.Axis(slide_keys(axis), axis.queries) for axis in (rows, columns))
        return kernels.slide(maps, p, table, self.heads, down, right, self.window, self.stride, self.dilation)

    def macs(self, height: int, width: int) -> float:
        area = strided(height, self.stride) * strided(width, self.stride)
        products = 2.0 * self.window**2 * self.channels * area
        return products + encoding_macs(self.position, height, width)


@dataclass(frozen=True)
class Tiles:
    """How one axis of a map is cut into tiles of queries, and which keys each tile reaches."""

    size: int
    window: int
    stride: int
    dilation: int
    border: str

    @property
    def queries(self) -> int:
        return strided(self.size, self.stride)

    @property
    def side(self) -> int:
        """Return the queries of a tile. 7 were the fastest up to maps of 56. Fewer divide a small map evenly."""
        return strided(self.queries, strided(self.queries, 7))

    @property
    def number(self) -> int:
        return strided(self.queries, self.side)

    @property
    def padding(self) -> int:
        return self.number * self.side - self.queries

    @property
    def step(self) -> int:
        """Return the step from a tile to the next, in keys."""
        return self.side * self.stride

    @property
    def reach(self) -> int:
        """Count the keys of a tile, from the first neighbour of its first query to the last of its last."""
        return (self.side - 1) * self.stride + (self.window - 1) * self.dilation + 1

    @property
    def before(self) -> int:
        """Count the keys before the map."""
        return self.window // 2 * self.dilation

    def positions(self, device: torch.device) -> Tensor:
        """Return (padded,): the coordinates of the keys that any tile reaches, of which some lie outside the map."""
        return torch.arange((self.number - 1) * self.step + self.reach, device=device) - self.before

    def keys(self, device: torch.device) -> Tensor:
        """Return (padded,): the index of the key that stands at each position."""
        positions = self.positions(device)
        return positions.clamp(0, self.size - 1) if self.border == "mask" else reflected(positions, self.size)

    def offsets(self, device: torch.device) -> Tensor:
        """Return (side, reach): from the first neighbour of a query to a key."""
        queries = torch.arange(self.side, device=device)[:, None] * self.stride
        return torch.arange(self.reach, device=device) - queries

    def seen(self, device: torch.device) -> Tensor:
        """Return (tiles or 1, side, reach): whether a query of the tile sees a key of its reach."""
        offset = self.offsets(device)
        seen = (offset >= 0) & (offset <= (self.window - 1) * self.dilation) & (offset % self.dilation == 0)
        if self.border != "mask":
            return seen[None]
        positions = self.positions(device).unfold(0, self.reach, self.step)  # (tiles, reach)
        inside = (positions >= 0) & (positions < self.size)
        # The padding's queries have no neighbour inside; they see everything, and are cut off afterwards.
        padding = torch.arange(self.number * self.side, device=device).view(self.number, self.side) >= self.queries
        return (seen & inside[:, None]) | padding[:, :, None]


@constant
def tile_mask(rows: Tiles, columns: Tiles, device: torch.device) -> Tensor:
    """Return the mask (tiles or 1, 1, T², reach²), 0 or −∞."""
    down, right = rows.seen(device), columns.seen(device)  # (tiles or 1, T, reach)
    seen = (down[:, None, :, None, :, None] & right[None, :, None, :, None, :]).flatten(4).flatten(2, 3).flatten(0, 1)
    return torch.zeros(seen.shape, device=device, dtype=torch.float32).masked_fill(~seen, float("-inf"))[:, None]


@constant
def tile_offsets(rows: Tiles, columns: Tiles, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return query minus key within a tile, in steps of the dilation, of its rows and its columns."""
    down, right = (axis.window // 2 - axis.offsets(device) // axis.dilation for axis in (rows, columns))
    return down, right


@constant
def tile_keys(axis: Tiles, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the key at each position of the padded axis, the positions outside the map, and the keys of these."""
    keys = axis.keys(device)
    outside = torch.cat(tuple(torch.arange(len(keys), device=device)[part] for part in (
        slice(0, axis.before), slice(axis.before + axis.size, None))))  # fmt: skip
    return keys, outside, keys[outside]


@constant
def slide_keys(axis: Tiles) -> Tensor:
    """Return the key at each position from the first query's first neighbour to the last query's last. −1 is none."""
    length = (axis.queries - 1) * axis.stride + (axis.window - 1) * axis.dilation + 1
    positions = torch.arange(length, device="cpu") - axis.before
    inside = (positions >= 0) & (positions < axis.size)
    keys = positions.where(inside, -torch.ones_like(positions)) if axis.border == "mask" else reflected(positions, axis.size)
    return keys.int()


def _gather(kv: Tensor, p: Tensor | None, rows: Tiles, columns: Tiles) -> Tensor:
    """Gather the keys and values that each tile reaches: (B, H, W, 2C) → (B, tiles, tiles, reach, reach, 2C).

    p is taken off k.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return Gather.tiles(kv, p, rows, columns)
    gathered: Tensor = Gather.apply(kv, p, rows, columns)
    return gathered


class Gather(torch.autograd.Function):
    """Its backward adds the overlapping tiles up in strips that do not overlap, columns first, then rows."""

    @staticmethod
    def tiles(kv: Tensor, p: Tensor | None, rows: Tiles, columns: Tiles) -> Tensor:
        (down, *_), (right, *_) = tile_keys(rows, kv.device), tile_keys(columns, kv.device)
        if p is not None:
            k, v = kv.chunk(2, dim=-1)
            kv = torch.cat((k - p.repeat(1, 1, k.shape[-1] // p.shape[-1]), v), dim=-1)
        kv = kv.index_select(1, down).index_select(2, right)
        return kv.unfold(1, rows.reach, rows.step).unfold(2, columns.reach, columns.step).permute(0, 1, 2, 4, 5, 3).contiguous()

    @staticmethod
    def forward(ctx: Any, kv: Tensor, p: Tensor | None, rows: Tiles, columns: Tiles) -> Tensor:
        ctx.rows, ctx.columns, ctx.p = rows, columns, None if p is None else (p.shape, p.dtype)
        return Gather.tiles(kv, p, rows, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = _add_up(grad.transpose(2, 3), ctx.columns, 3)  # (B, tiles, reach, W, 2C)
        grad = _add_up(grad, ctx.rows, 1)  # (B, H, W, 2C)
        if ctx.p is None:
            return grad, None, None, None
        shape, dtype = ctx.p
        of_p = -grad[..., : grad.shape[-1] // 2].unflatten(-1, (-1, shape[-1])).sum((0, 3), dtype=dtype)
        return grad, of_p, None, None


def _add_up(grad: Tensor, axis: Tiles, dim: int) -> Tensor:
    """Add up what each key gets from the tiles that reach it: (…, tiles, reach, …) → (…, size, …)."""
    strips = strided(axis.reach, axis.step)
    # With a stride wider than the window, keys at the end of the map may be out of every tile's reach.
    steps = max(axis.number + strips - 1, strided(axis.before + axis.size, axis.step))
    shape = [*grad.shape[:dim], steps, axis.step, *grad.shape[dim + 2 :]]
    padded = grad.new_zeros(shape)
    for strip in range(strips):
        part = grad.narrow(dim + 1, strip * axis.step, min(axis.step, axis.reach - strip * axis.step))
        padded.narrow(dim, strip, axis.number).narrow(dim + 1, 0, part.shape[dim + 1]).add_(part)
    padded = padded.flatten(dim, dim + 1)
    _, outside, keys = tile_keys(axis, grad.device)
    inside = padded.narrow(dim, axis.before, axis.size).contiguous()
    return inside.index_add_(dim, keys, padded.index_select(dim, outside)) if len(outside) else inside


class LocalAttention(Operator):
    """Local attention with its own Stage I. Arguments are those of `LocalPath`, and `bias` of Stage I."""

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, stride: int = 1, bias: bool = True,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None, **path: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            Projection(in_channels, 3 * out_channels, bias, device, dtype),
            LocalPath(out_channels, heads, stride=stride, device=device, dtype=dtype, **path),
        )
