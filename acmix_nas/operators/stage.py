"""What every operator is made of: Stage I, a path of Stage II, and the cost of both.

Letters used in this package: B batch, C channels, N heads, D = C / N channels of one head, H and W height and
width of the input, K window of attention, k kernel of convolution, s stride.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from acmix_nas.errors import UserError

WINDOW = 7
"""K where nothing else is said, as in the paper (appendix C)."""

__all__ = ["WINDOW", "Macs", "Operator", "Path", "Projection", "strided"]


class Macs(NamedTuple):
    """Multiply-adds of one image, as the paper counts them (Table 1)."""

    stage1: float = 0.0
    stage2: float = 0.0

    @property
    def total(self) -> float:
        return self.stage1 + self.stage2


def strided(size: int, stride: int) -> int:
    """The size of a map after a stride: ceil(size / stride), as of a padded convolution."""
    return -(-size // stride)


def head_channels(channels: int, heads: int, stride: int = 1, dilation: int = 1) -> int:
    """D, the channels of one head.

    Raises:
        UserError: where the heads do not divide the channels, or the stride or dilation is no positive number.
    """
    for name, value in (("stride", stride), ("dilation", dilation)):
        if value < 1:
            raise UserError(f"{name} must be at least 1; got {name}={value}")
    if heads < 1 or channels % heads:
        raise UserError(f"out_channels must be divisible by heads; got out_channels={channels} and heads={heads}")
    return channels // heads


class Projection(nn.Module):
    """Stage I (equation 11): queries, keys and values by one fused 1×1 convolution.

    The 3N maps of D channels come out in the order q₁…q_N, k₁…k_N, v₁…v_N, in channels_last memory, which is what
    the tiles of the attentions and a 1×1 convolution on the CPU want.

    Shapes: (B, in_channels, H, W) → (B, 3 · out_channels, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.qkv = nn.Conv2d(in_channels, 3 * out_channels, 1, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.qkv(x.contiguous(memory_format=torch.channels_last))

    def macs(self, height: int, width: int) -> float:
        return 3.0 * self.in_channels * self.out_channels * height * width


class Path(nn.Module):
    """A way of aggregating the maps of Stage I: one path of Stage II (equations 7, 8 and 12).

    Shapes: (B, 3C, H, W) → (B, C, ⌈H/s⌉, ⌈W/s⌉).
    """

    channels: int
    heads: int

    @property
    def name(self) -> str:
        """What the path is called as an operator, `local_k3`."""
        raise NotImplementedError

    def macs(self, height: int, width: int) -> float:
        """Multiply-adds for an input map of this size."""
        raise NotImplementedError


class Operator(nn.Module):
    """An operator of one path: Stage I, then that path.

    Shapes: (B, in_channels, H, W) → (B, out_channels, ⌈H/s⌉, ⌈W/s⌉).
    """

    def __init__(self, projection: Projection, path: Path) -> None:
        super().__init__()
        self.projection = projection
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        return self.path(self.projection(x))

    def macs(self, height: int, width: int) -> Macs:
        return Macs(self.projection.macs(height, width), self.path.macs(height, width))
