"""What runs in C on the CPU: native.c, compiled on the machine that runs it, and its functions with their gradients.

A compiler is all it needs; where there is none, or `ACMIX_NAS_NATIVE=0` says so, PyTorch's forms of the same functions run.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.autograd.function import once_differentiable

__all__ = ["LANES", "MOST_MAPS", "Axis", "Layout", "combine", "moments", "runs_on", "slide", "tiles"]

LANES = 16
"""Queries in a vector of native.c."""
SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fopenmp", "-fPIC", "-shared")
SWITCH = "ACMIX_NAS_NATIVE"

logger = logging.getLogger(__name__)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, from the user's cache where this machine has compiled them before; None where it cannot."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if os.environ.get(SWITCH) == "0" or compiler is None:
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        logger.warning(
            "attention runs in PyTorch's form, since native.c could not be compiled: %s", said.strip().splitlines()[0]
        )
        return None


def _compiled(compiler: str) -> Path:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    key = "\n".join([SOURCE.read_text(), version, *FLAGS, platform.machine(), platform.processor(), *flags])
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "acmix-nas"
    made = folder / f"native-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:  # several processes may compile at once: the last rename stays
            target = Path(place) / made.name
            subprocess.run(
                [compiler, *FLAGS, str(SOURCE), "-o", str(target), "-lm"], capture_output=True, text=True, check=True
            )
            target.replace(made)
    return made


def runs_on(maps: Tensor) -> bool:
    """Whether the kernels can take these maps: on the CPU, float32 or under autocast, and no graph is being made of them."""
    if maps.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing() or detect_fake_mode() is not None:
        return False
    lower = maps.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled("cpu")
    return (maps.dtype == torch.float32 or lower) and library() is not None


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


def _at(tensor: Tensor | None, skip: int = 0) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr() + skip * tensor.element_size())


def _call(name: str, *arguments: Any) -> None:
    if getattr(library(), name)(*arguments, torch.get_num_threads()):
        raise MemoryError(f"{name} of native.c could not get the memory that it works in")


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
        _call("slide_forward", ctypes.byref(ctx.of), _at(maps), _at(p), _at(table), _at(out), _at(sums))
        ctx.save_for_backward(maps, p, table, out, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        maps, p, table, out, sums = ctx.saved_tensors
        grad_out, grad = grad_out.contiguous(), torch.zeros_like(maps)
        of_table = None if table is None else table.new_zeros(maps.shape[0], ctx.of.heads, len(table))
        _call(
            "slide_backward", ctypes.byref(ctx.of), _at(maps), _at(p), _at(table), _at(out), _at(sums), _at(grad_out),
            _at(grad), _at(of_table),
        )  # fmt: skip
        of_p = None if p is None else _of_positions(grad.chunk(3, dim=-1)[1], p)
        return grad, of_p, None if of_table is None else of_table.sum(0).T, *(None,) * 6


def _of_positions(of_k: Tensor, p: Tensor) -> Tensor:
    """What reaches the positions, which are taken off every key: (B, H, W, C) → (pixels, D). One sum at a time is faster."""
    return -of_k.sum(0).unflatten(-1, (-1, p.shape[-1])).sum(2).flatten(0, 1)


def slide(
    maps: Tensor, p: Tensor | None, table: Tensor | None, heads: int, rows: Axis, columns: Axis,
    window: int, stride: int, dilation: int,
) -> Tensor:  # fmt: skip
    """Attention over the K×K neighbours of every pixel (equation 10).

    Args:
        maps: (B, 3C, H, W), channels_last.
        p: (H · W, D), taken off the keys, or None.
        table: (K², N), added to the logits of each neighbour, or None.

    Returns:
        (B, C, Ho, Wo), channels_last.
    """
    x = maps.permute(0, 2, 3, 1).float().contiguous()
    p, table = (None if extra is None else extra.float().contiguous() for extra in (p, table))
    out = _SlideFunction.apply(x, p, table, heads, rows, columns, window, stride, dilation)
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
        batch, channels = maps.shape[0], maps.shape[3] // 3
        of_kv = maps if kv is None else kv
        masks = 0 if layout.mask is None else len(layout.mask)
        ctx.of = _Tiling(
            batch, heads, channels // heads, *layout.queries.shape, layout.keys.shape[1], masks, layout.lanes,
            3 * channels, maps[0, ..., 0].numel(), of_kv.shape[3], of_kv[0, ..., 0].numel(), layout.height * layout.width,
            *(_at(tensor).value for tensor in (layout.queries, layout.keys, layout.outputs, layout.mask, bias)),
        )  # fmt: skip
        ctx.layout, ctx.reduced = layout, kv is not None
        out = maps.new_empty(batch, layout.height, layout.width, channels)
        sums = maps.new_empty(batch, heads, len(layout.queries), layout.lanes)
        q, k, v = _places(maps, of_kv, channels, ctx.reduced)
        _call("tile_forward", ctypes.byref(ctx.of), q, k, v, _at(p), _at(out), _at(sums))
        ctx.save_for_backward(maps, kv, p, bias, out, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        maps, kv, p, bias, out, sums = ctx.saved_tensors
        ctx.of.bias = _at(bias).value  # which may have been put elsewhere meanwhile
        channels = out.shape[3]
        grad_out, grad = grad_out.contiguous(), torch.zeros_like(maps)
        grad_kv = torch.zeros_like(kv) if ctx.reduced else None
        of_bias = None if bias is None else bias.new_zeros(len(maps), *bias.shape)
        _call(
            "tile_backward", ctypes.byref(ctx.of), *_places(maps, kv, channels, ctx.reduced), _at(p), _at(out), _at(sums),
            _at(grad_out), *_places(grad, grad_kv, channels, ctx.reduced), _at(of_bias),
        )  # fmt: skip
        of_k = grad.chunk(3, dim=-1)[1] if grad_kv is None else grad_kv.chunk(2, dim=-1)[0]
        of_p = None if p is None else _of_positions(of_k, p)
        return grad, grad_kv, of_p, None if of_bias is None else of_bias.sum(0), None, None


def _places(maps: Tensor, kv: Tensor | None, channels: int, reduced: bool) -> list[ctypes.c_void_p]:
    """Where q, k and v begin."""
    if reduced:
        return [_at(maps), _at(kv), _at(kv, channels)]
    return [_at(maps, number * channels) for number in range(3)]


def tiles(maps: Tensor, kv: Tensor | None, p: Tensor | None, bias: Tensor | None, heads: int, layout: Layout) -> Tensor:
    """Attention of every query of a tile to every key of it that a mask leaves (equations 19 to 21).

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
        bias = torch.nn.functional.pad(bias[0].float().transpose(1, 2), (0, missing)).contiguous()  # (N, S, lanes)
    out = _TilesFunction.apply(x, kv, p, bias, heads, layout)
    return out.permute(0, 3, 1, 2).to(maps.dtype)


class _Mixture(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("maps", "pairs", "channels")),
        ("pixels", ctypes.c_long), ("pair", ctypes.c_void_p), ("map", ctypes.c_void_p),
    ]  # fmt: skip


MOST_MAPS = 16
"""MAPS of native.c."""


def _mixture(maps: Sequence[Tensor], pairs: Sequence[tuple[int, int]]) -> _Mixture:
    """Maps (B, H, W, C); it keeps alive what it points to."""
    numbers = (ctypes.c_int * (2 * len(pairs)))(*(index for pair in pairs for index in pair))
    of = _Mixture(len(maps), len(pairs), maps[0].shape[3], maps[0][..., 0].numel())
    of.pair, of.map = ctypes.addressof(numbers), ctypes.addressof(places := _each(maps))
    of.kept = numbers, places
    return of


def _each(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


class _MomentsFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs: Sequence[tuple[int, int]], *maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        channels = maps[0].shape[3]
        mean, variance, covariance = (maps[0].new_empty(number, channels) for number in (len(maps), len(maps), len(pairs)))
        _call("moments_forward", ctypes.byref(_mixture(maps, pairs)), _at(mean), _at(variance), _at(covariance))
        ctx.pairs = pairs
        ctx.save_for_backward(mean, *maps)
        return mean, variance, covariance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mean, *maps = ctx.saved_tensors
        of_maps = [torch.empty_like(x) for x in maps]
        grads = tuple(grad.contiguous() for grad in grads)
        of = _mixture(maps, ctx.pairs)
        _call("moments_backward", ctypes.byref(of), _at(mean), *map(_at, grads), _each(of_maps))
        return None, *of_maps


class _CombineFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factors: Tensor, shift: Tensor, *maps: Tensor) -> Tensor:
        out = torch.empty_like(maps[0])
        _call("combine_forward", ctypes.byref(_mixture(maps, ())), _at(factors), _at(shift), _at(out))
        ctx.save_for_backward(factors, *maps)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        factors, *maps = ctx.saved_tensors
        grad_out, of_maps = grad_out.contiguous(), [torch.empty_like(x) for x in maps]
        of_factors, of_shift = torch.empty_like(factors), factors.new_empty(factors.shape[1])
        _call(
            "combine_backward", ctypes.byref(_mixture(maps, ())), _at(factors), _at(grad_out), _each(of_maps), _at(of_factors),
            _at(of_shift),
        )  # fmt: skip
        return of_factors, of_shift, *of_maps


def moments(maps: Sequence[Tensor], pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances (maps, C), without Bessel's correction, and covariances of pairs of maps (pairs, C), in one pass.

    Args:
        maps: at most `MOST_MAPS`, each (B, C, H, W).
    """
    mean, variance, covariance = _MomentsFunction.apply(pairs, *_pixels_last(maps))
    return mean, variance, covariance


def combine(maps: Sequence[Tensor], factors: Tensor, shift: Tensor) -> Tensor:
    """Σ factor · map + shift, (B, C, H, W), of factors (maps, C) and a shift (C), in one pass."""
    out: Tensor = _CombineFunction.apply(factors.contiguous(), shift.contiguous(), *_pixels_last(maps))
    return out.permute(0, 3, 1, 2)


def _pixels_last(maps: Sequence[Tensor]) -> list[Tensor]:
    return [x.permute(0, 2, 3, 1).contiguous() for x in maps]
