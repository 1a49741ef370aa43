"""Moments and linear combinations of maps in C, in one pass each."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from acmix_nas.operators.kernels.compiled import at, call

__all__ = ["MOST_MAPS", "combine", "moments"]


class _Mixture(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("maps", "pairs", "channels")),
        ("pixels", ctypes.c_long), ("pair", ctypes.c_void_p), ("map", ctypes.c_void_p),
    ]  # fmt: skip


MOST_MAPS = 16
"""MAPS of mixture.c."""


def _mixture(maps: Sequence[Tensor], pairs: Sequence[tuple[int, int]]) -> _Mixture:
    """Describe maps (B, H, W, C) to C. It keeps alive what it points to."""
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
        call("moments_forward", ctypes.byref(_mixture(maps, pairs)), at(mean), at(variance), at(covariance))
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
        call("moments_backward", ctypes.byref(of), at(mean), *map(at, grads), _each(of_maps))
        return None, *of_maps


class _CombineFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factors: Tensor, shift: Tensor, *maps: Tensor) -> Tensor:
        out = torch.empty_like(maps[0])
        call("combine_forward", ctypes.byref(_mixture(maps, ())), at(factors), at(shift), at(out))
        ctx.save_for_backward(factors, *maps)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        factors, *maps = ctx.saved_tensors
        grad_out, of_maps = grad_out.contiguous(), [torch.empty_like(x) for x in maps]
        of_factors, of_shift = torch.empty_like(factors), factors.new_empty(factors.shape[1])
        call(
            "combine_backward", ctypes.byref(_mixture(maps, ())), at(factors), at(grad_out), _each(of_maps), at(of_factors),
            at(of_shift),
        )  # fmt: skip
        return of_factors, of_shift, *of_maps


def moments(maps: Sequence[Tensor], pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute means and variances (maps, C), and covariances of pairs of maps (pairs, C), in one pass.

    The variances are without Bessel's correction.

    Args:
        maps: at most `MOST_MAPS`, each (B, C, H, W).
    """
    mean, variance, covariance = _MomentsFunction.apply(pairs, *_pixels_last(maps))
    return mean, variance, covariance


def combine(maps: Sequence[Tensor], factors: Tensor, shift: Tensor) -> Tensor:
    """Compute Σ factor · map + shift, (B, C, H, W), of factors (maps, C) and a shift (C), in one pass."""
    out: Tensor = _CombineFunction.apply(factors.contiguous(), shift.contiguous(), *_pixels_last(maps))
    return out.permute(0, 3, 1, 2)


def _pixels_last(maps: Sequence[Tensor]) -> list[Tensor]:
    return [x.permute(0, 2, 3, 1).contiguous() for x in maps]
