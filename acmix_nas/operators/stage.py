"""What every operator is made of: Stage I, a path of Stage II, and the cost of both.

Letters used in this package: B batch, C channels, N heads, D = C / N channels of one head, H and W height and
width of the input, K window of attention, k kernel of convolution, s stride.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.operators.attend import position_name
from acmix_nas.util.errors import UserError

WINDOW = 7
"""K where nothing else is said, as in the paper (appendix C)."""

__all__ = ["WINDOW", "Macs", "Operator", "Output", "Path", "Projection", "ReducedProjection", "Stage1", "reflected", "strided"]


class Macs(NamedTuple):
    """Multiply-adds of one image, as the paper counts them (Table 1)."""

    stage1: float = 0.0
    stage2: float = 0.0

    @property
    def total(self) -> float:
        return self.stage1 + self.stage2


def strided(size: int, stride: int) -> int:
    """Return the size of a map after a stride: ceil(size / stride), that of a padded convolution."""
    return -(-size // stride)


def reflected(positions: Tensor, size: int) -> Tensor:
    """Return the pixel at each position of an axis whose borders are mirrors. The indices bounce as often as needed.

    The first and the last pixel are not doubled: with four of them, positions −4 … 7 are 2 3 2 1 0 1 2 3 2 1 0 1.

    Shapes: any, which stays.
    """
    last = size - 1
    return last - (positions.remainder(max(2 * last, 1)) - last).abs()


class Projection(nn.Module):
    """Stage I (equation 11): queries, keys and values by one fused 1×1 convolution.

    The maps of D channels come out in the order q₁…q_N, k₁…k_N, v₁…v_N. Their memory is channels_last, which is what the tiles
    of the attentions and a 1×1 convolution on the CPU want. Where the paths read only some of the 3N maps (`Path.reads`), only
    those are computed.

    Shapes: (B, in_channels, H, W) → (B, map_channels, H, W); map_channels is 3C, or D for each map that is read.
    """

    def __init__(
        self,
        in_channels: int,
        map_channels: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(in_channels, map_channels, 1, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.qkv(x.contiguous(memory_format=torch.channels_last))
        return maps

    def macs(self, height: int, width: int) -> float:
        return float(self.qkv.in_channels * self.qkv.out_channels * height * width)


class ReducedProjection(nn.Module):
    """Stage I of PVT: keys and values come from a map that an R×R convolution of stride R has reduced.

    They are spread again over the R×R pixels that they stand for, so that every path of Stage II reads maps of one size;
    `GlobalPath(reduction=R)` takes each of them once. The paper does not say how its PVT brings them to the convolution path;
    of the ways there are this one adds no more to PVT than the paper's own counts leave room for (2 G on 158 G, Table 2).

    Shapes: (B, C, H, W) → (B, 3C, H, W).
    """

    def __init__(
        self,
        channels: int,
        reduction: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.q = nn.Conv2d(channels, channels, 1, bias=bias, device=device, dtype=dtype)
        self.reduce = nn.Conv2d(channels, channels, reduction, reduction, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(channels, device=device, dtype=dtype)
        self.kv = nn.Conv2d(channels, 2 * channels, 1, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        height, width = x.shape[-2:]
        reduced = self.reduce(F.pad(x, (0, -width % self.reduction, 0, -height % self.reduction)))
        reduced = self.norm(reduced.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, C, ⌈H/R⌉, ⌈W/R⌉)
        kv = F.interpolate(self.kv(reduced), scale_factor=float(self.reduction), mode="nearest")
        return torch.cat((self.q(x), kv[..., :height, :width]), dim=1)

    def macs(self, height: int, width: int) -> float:
        channels, reduced = self.q.in_channels, strided(height, self.reduction) * strided(width, self.reduction)
        return float(channels**2 * (height * width + (self.reduction**2 + 2) * reduced))


Stage1 = Projection | ReducedProjection


class Path(nn.Module):
    """A way of aggregating the maps of Stage I: one path of Stage II (equations 7, 8 and 12).

    A subclass is an operator once `register_operator` knows it. It defines `forward` and `macs`; whatever else the package has
    to know of an operator is a property here, with a default. The output must be linear in the values, the last N maps.

    Shapes: (B, 3C, H, W) → (B, C, ⌈H/s⌉, ⌈W/s⌉). A path that reads M of the maps takes those alone,
    too: (B, M · D, H, W).

    Attributes:
        kind: the name that it is registered under, such as "local".
        settings: letter in an operator's name → argument of the constructor; {"k": "window"} reads `local_k3` as window=3.
        rows_sum_to_one: whether the weights of the values sum to one. Then a constant that is added to every value is added to
            the output.
        head_dim: D = C / N.

    Args:
        channels: C.
        heads: N, which must divide C.
        stride: s.
        dilation: distance between neighbours.

    Raises:
        UserError: where the heads do not divide the channels, or the stride or dilation is no positive number.
    """

    kind: ClassVar[str]
    settings: ClassVar[Mapping[str, str]] = {}
    rows_sum_to_one: ClassVar[bool] = True

    def __init__(self, channels: int, heads: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        for name, value in (("stride", stride), ("dilation", dilation)):
            if value < 1:
                raise UserError(f"{name} must be at least 1; got {name}={value}")
        if heads < 1 or channels % heads:
            raise UserError(f"out_channels must be divisible by heads; got out_channels={channels} and heads={heads}")
        self.channels, self.heads, self.head_dim = channels, heads, channels // heads
        self.stride, self.dilation = stride, dilation

    @classmethod
    def make(cls, channels: int, heads: int, **offered: Any) -> Path:
        """Build a path from what a slot offers (stride, dilation, shift, position, …), ignoring what it has no use for."""
        taken = signature(cls).parameters
        return cls(channels, heads, **{name: value for name, value in offered.items() if name in taken})

    @classmethod
    def reads(cls, heads: int) -> tuple[int, ...]:
        """Return which of the 3N maps of Stage I it reads, in their order q₁…q_N, k₁…k_N, v₁…v_N."""
        return tuple(range(3 * heads))

    @property
    def name(self) -> str:
        """Return its name as an operator, such as `local_k3`."""
        return self.named()

    def named(self, **offered: Any) -> str:
        """Return its name at a slot that offers these arguments. A setting that is as offered, or by default, is left out."""
        defaults = signature(type(self)).parameters
        name: str = self.kind
        for letter, argument in self.settings.items():
            value = getattr(self, argument)
            if value != offered.get(argument, defaults[argument].default):
                name += f"_{letter}{value}"
        return name

    @property
    def standing(self) -> dict[str, Any]:
        """Return how it stands at its slot, as other candidates there should: arguments of `make`."""
        return {"dilation": self.dilation, "position": position_name(getattr(self, "position", None))}

    def roll(self, x: Tensor, back: bool = False) -> Tensor:  # noqa: ARG002  for those that do
        """Move the input of Stage I to where the path wants it, or its output back. Shapes: (B, channels, H, W), which stay."""
        return x

    def on(self, stage1: nn.Module, x: Tensor, maps: Tensor | None = None) -> Tensor:
        """Run this path on that Stage I.

        Args:
            x: the input of Stage I.
            maps: its output, where another path has needed it.
        """
        out: Tensor = self(stage1(x) if maps is None else maps)
        return out

    def macs(self, height: int, width: int) -> float:
        """Count multiply-adds for an input map of this size."""
        raise NotImplementedError(f"{type(self).__name__} must define macs(height, width), the multiply-adds of one input map")


class Output(Path):
    """A path and the output projection of a transformer behind it: a 1×1 convolution with a bias."""

    def __init__(self, path: Path, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(path.channels, path.heads, path.stride, path.dilation)
        self.path = path
        self.proj = nn.Conv2d(path.channels, path.channels, 1, device=device, dtype=dtype)

    def reads(self, heads: int) -> tuple[int, ...]:  # type: ignore[override]
        return self.path.reads(heads)

    def named(self, **offered: Any) -> str:
        return self.path.named(**offered)

    @property
    def standing(self) -> dict[str, Any]:
        return self.path.standing

    def roll(self, x: Tensor, back: bool = False) -> Tensor:
        return self.path.roll(x, back)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.proj(self.path(maps))
        return out

    def macs(self, height: int, width: int) -> float:
        area = strided(height, self.stride) * strided(width, self.stride)
        return self.path.macs(height, width) + float(self.channels**2 * area)


class Operator(nn.Module):
    """An operator of one path: Stage I, then that path.

    Shapes: (B, in_channels, H, W) → (B, out_channels, ⌈H/s⌉, ⌈W/s⌉).
    """

    def __init__(self, projection: Stage1, path: Path) -> None:
        super().__init__()
        self.projection = projection
        self.path = path

    @property
    def attention(self) -> Path | None:
        """Return its attention. A convolution has None."""
        return self.path

    @property
    def convolution(self) -> Path | None:
        """Return its convolution path, where it has one."""
        return None

    @property
    def name(self) -> str:
        """Return its name, `local_k3`."""
        return self.path.name

    def forward(self, x: Tensor) -> Tensor:
        return self.path.on(self.projection, x)

    def macs(self, height: int, width: int) -> Macs:
        return Macs(self.projection.macs(height, width), self.path.macs(height, width))
