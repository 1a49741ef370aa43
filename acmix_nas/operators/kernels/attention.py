"""Attention in C: over sliding windows, and of tiles of queries to tiles of keys."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from acmix_nas.operators.kernels.compiled import LANES, at, call

__all__ = ["Axis", "Layout", "slide", "tiles"]


class _Slide(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("batch", "heads", "depth", "height", "width", "window", "stride", "dilation")),
        ("out_height", ctypes.c_int), ("out_width", ctypes.c_int),
        ("rows", ctypes.c_void_p), ("columns", ctypes.c_void_p), ("padded_columns", ctypes.c_int),
    ]  # fmt: skip


class _Tiling(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("batch", "heads", "depth", "tiles", "queries", "keys", "masks", "lanes")),
        *((name, ctypes.c_long) for name in ("q_pitch", "q_area", "kv_pitch", "kv_area", "out_area")),
        *((name, ctypes.c_void_p) for name in ("query_at", "key_at", "out_at", "mask", "bias")),
    ]  # fmt: skip


class Axis(NamedTuple):
    """One axis of sliding windows: for each padded position the key that stands there, −1 for none (int32); and its queries."""

    keys: Tensor
    queries: int


class _SlideFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, p: Tensor | None, table: Tensor | None, heads: int, rows: Axis, columns: Axis,
        window: int, stride: int, dilation: int,
    ) -> Tensor:  # fmt: skip
        batch, height, width, channels = (*maps.shape[:3], maps.shape[3] // 3)
        ctx.of = _Slide(
            batch, heads, channels // heads, height, width, window, stride, dilation, rows.queries, columns.queries,
            rows.keys.data_ptr(), columns.keys.data_ptr(), len(columns.keys),
        )  # fmt: skip
        ctx.kept = rows, columns  # whose memory `of` points to
        out = maps.new_empty(batch, rows.queries, columns.queries, channels)
        sums = maps.new_empty(batch, heads, rows.queries, columns.queries)
        call("slide_forward", ctypes.byref(ctx.of), at(maps), at(p), at(table), at(out), at(sums))
        ctx.save_for_backward(maps, p, table, out, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        maps, p, table, out, sums = ctx.saved_tensors
        grad_out, grad = grad_out.contiguous(), torch.zeros_like(maps)
        of_table = None if table is None else table.new_zeros(maps.shape[0], ctx.of.heads, len(table))
        call(
            "slide_backward", ctypes.byref(ctx.of), at(maps), at(p), at(table), at(out), at(sums), at(grad_out),
            at(grad), at(of_table),
        )  # fmt: skip
        of_p = None if p is None else _of_positions(grad.chunk(3, dim=-1)[1], p)
        return grad, of_p, None if of_table is None else of_table.sum(0).T, *(None,) * 6


def _of_positions(of_k: Tensor, p: Tensor) -> Tensor:
    """Sum what reaches the positions, which are taken off every key: (B, H, W, C) → (pixels, D).

    One sum at a time is faster.
    """
    of_p: Tensor = -of_k.sum(0).unflatten(-1, (-1, p.shape[-1])).sum(2).flatten(0, 1)
    return of_p


def slide(
    maps: Tensor, p: Tensor | None, table: Tensor | None, heads: int, rows: Axis, columns: Axis,
    window: int, stride: int, dilation: int,
) -> Tensor:  # fmt: skip
    """Attend to the K×K neighbours of every pixel (equation 10).

    Args:
        maps: (B, 3C, H, W), channels_last.
        p: (H · W, D), taken off the keys, or None.
        table: (K², N), added to the logits of each neighbour, or None.

    Returns:
        (B, C, Ho, Wo), channels_last.
    """
    x = maps.permute(0, 2, 3, 1).float().contiguous()
    p, table = (None if extra is None else extra.float().contiguous() for extra in (p, table))
    out: Tensor = _SlideFunction.apply(x, p, table, heads, rows, columns, window, stride, dilation)
    return out.permute(0, 3, 1, 2).to(maps.dtype)


class Layout(NamedTuple):
    """Which pixels are the queries and the keys of every tile, −1 for none (int32).

    Attributes:
        queries: (tiles, T), pixels of the map.
        keys: (tiles, S), pixels of the map of keys.
        outputs: (tiles, T), pixels of the output.
        mask: (tiles or 1, S, lanes), 0 or −∞, lanes being T rounded up to `LANES`; or None.
        height, width: of the output.
    """

    queries: Tensor
    keys: Tensor
    outputs: Tensor
    mask: Tensor | None
    height: int
    width: int

    @property
    def lanes(self) -> int:
        return -(-self.queries.shape[1] // LANES) * LANES


class _TilesFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, kv: Tensor | None, p: Tensor | None, bias: Tensor | None, heads: int, layout: Layout
    ) -> Tensor:  # fmt: skip
        batch, height, width, channels = (*maps.shape[:3], maps.shape[3] // 3)
        of_kv = maps if kv is None else kv
        masks = 0 if layout.mask is None else len(layout.mask)
        ctx.of = _Tiling(
            batch, heads, channels // heads, *layout.queries.shape, layout.keys.shape[1], masks, layout.lanes,
            3 * channels, height * width, of_kv.shape[3], of_kv.shape[1] * of_kv.shape[2], layout.height * layout.width,
            *(at(tensor).value for tensor in (layout.queries, layout.keys, layout.outputs, layout.mask, bias)),
        )  # fmt: skip
        ctx.layout, ctx.reduced = layout, kv is not None
        out = maps.new_empty(batch, layout.height, layout.width, channels)
        sums = maps.new_empty(batch, heads, len(layout.queries), layout.lanes)
        q, k, v = _places(maps, of_kv, channels, ctx.reduced)
        call("tile_forward", ctypes.byref(ctx.of), q, k, v, at(p), at(out), at(sums))
        ctx.save_for_backward(maps, kv, p, bias, out, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        maps, kv, p, bias, out, sums = ctx.saved_tensors
        ctx.of.bias = at(bias).value  # which may have been put elsewhere meanwhile
        channels = out.shape[3]
        grad_out, grad = grad_out.contiguous(), torch.zeros_like(maps)
        grad_kv = torch.zeros_like(kv) if ctx.reduced else None
        of_bias = None if bias is None else bias.new_zeros(len(maps), *bias.shape)
        call(
            "tile_backward", ctypes.byref(ctx.of), *_places(maps, kv, channels, ctx.reduced), at(p), at(out), at(sums),
            at(grad_out), *_places(grad, grad_kv, channels, ctx.reduced), at(of_bias),
        )  # fmt: skip
        of_k = grad.chunk(3, dim=-1)[1] if grad_kv is None else grad_kv.chunk(2, dim=-1)[0]
        of_p = None if p is None else _of_positions(of_k, p)
        return grad, grad_kv, of_p, None if of_bias is None else of_bias.sum(0), None, None


def _places(maps: Tensor, kv: Tensor | None, channels: int, reduced: bool) -> list[ctypes.c_void_p]:
    """Return pointers to the begin of q, k and v."""
    if reduced:
        return [at(maps), at(kv), at(kv, channels)]
    return [at(maps, number * channels) for number in range(3)]


def tiles(maps: Tensor, kv: Tensor | None, p: Tensor | None, bias: Tensor | None, heads: int, layout: Layout) -> Tensor:
    """Attend from every query of a tile to every key of it that a mask leaves (equations 19 to 21).

    Args:
        maps: (B, 3C, H, W), channels_last.
        kv: (B, 2C, h, w), keys and values of a reduced map, channels_last; None takes those of `maps`.
        p: (pixels of the keys, D), taken off the keys, or None.
        bias: (1, N, T, S), added to the logits, or None.

    Returns:
        (B, C, Ho, Wo), channels_last.
    """
    x = maps.permute(0, 2, 3, 1).float().contiguous()
    kv = None if kv is None else kv.permute(0, 2, 3, 1).float().contiguous()
    p = None if p is None else p.float().contiguous()
    if bias is not None:
        missing = layout.lanes - bias.shape[2]
        bias = F.pad(bias[0].float().transpose(1, 2), (0, missing)).contiguous()  # (N, S, lanes)
    out: Tensor = _TilesFunction.apply(x, kv, p, bias, heads, layout)
    return out.permute(0, 3, 1, 2).to(maps.dtype)
