"""The convolution path of Stage II (section 4.2 and 4.3), and what it equals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.operators.stage import Operator, Path, Projection, strided
from acmix_nas.util.errors import UserError, one_of

__all__ = ["SHIFTS", "Convolution", "ConvolutionPath", "OnesConv2d"]


DENSE = 64
"""Channels up to which the path runs as a dense convolution of Stage I's input, where it can."""
SHIFTS = ("tensor", "fixed", "random", "learned")
"""The rows of Table 7: Figure 3 a; c.I; c.II with a random start; c.II started as shifts, which is the full form."""


class ConvolutionPath(Path):
    """fc and shift: the 3N maps become k² maps, which are shifted and summed (equations 7 and 8).

    The fully connected layer makes k² of the 3N maps, and is shared by the D channels of a head. The shift is a group
    convolution with D groups and learnable kernels that start as shifts (Figure 3 c). The two compose to one group convolution
    with 3N inputs per group. That form is used where it has fewer multiply-adds, 3N ≤ 3 + k² (up to N = 4 at k = 3: 23 → 11 ms
    forward and backward at C = 64). The two forms are equal, and `factored` says which one runs.

    Output channel d·N + n belongs to the head-channel d, as in the published code. The attentions' channel h·D + d' belongs to
    the head h. ACmix adds the two as they come.

    Args:
        channels: C.
        heads: N, which must divide C.
        kernel_size: k, odd.
        dilation: distance between the taps.
        shifts: "tensor" shifts; "fixed" kernels, which give the same; learnable kernels from a "random" start; or "learned",
            learnable kernels that start as shifts.
        maps: how many maps of D channels come in; 3N by default, fewer where the attention beside it reads fewer.
        bias: whether fc has one, as in the published Swin.
    """

    kind = "conv"

    def __init__(
        self,
        channels: int,
        heads: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        shifts: str = "learned",
        maps: int | None = None,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, heads, stride, dilation)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"kernel_size must be odd and positive; got kernel_size={kernel_size}")
        if shifts not in SHIFTS:
            raise one_of("shifts", shifts, SHIFTS)
        self.kernel_size, self.shifts, self.maps = kernel_size, shifts, maps or 3 * heads
        taps = kernel_size**2
        # Plain parameters: a host model's loop that initialises every nn.Conv2d cannot overwrite the shifts.
        self.fc = nn.Parameter(torch.empty(taps, self.maps, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(taps, device=device, dtype=dtype)) if bias else None
        self.shift: nn.Parameter | None = None
        if shifts != "tensor":
            kernels = torch.empty(channels, taps, kernel_size, kernel_size, device=device, dtype=dtype)
            self.shift = nn.Parameter(kernels, requires_grad=shifts != "fixed")
        self.reset_parameters()

    @property
    def standing(self) -> dict[str, Any]:
        return {**super().standing, "position": "linear"}

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.fc, a=5**0.5)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -(self.maps**-0.5), self.maps**-0.5)
        if self.shift is not None and self.shifts == "random":
            nn.init.kaiming_uniform_(self.shift, a=5**0.5)
        elif self.shift is not None:
            with torch.no_grad():
                taps = self.kernel_size**2
                shifts = torch.eye(taps, dtype=self.shift.dtype, device=self.shift.device)
                self.shift.copy_(shifts.view(taps, self.kernel_size, self.kernel_size).expand_as(self.shift))

    @property
    def factored(self) -> bool:
        """Return whether fc and shift run one after the other."""
        return self.shift is None or self.maps > 3 + self.kernel_size**2

    def kernels(self) -> Tensor:
        """Return (C, k², k, k): what shifts and sums the k² maps."""
        if self.shift is not None:
            return self.shift
        taps = self.kernel_size**2
        shifts = torch.eye(taps, dtype=self.fc.dtype, device=self.fc.device)
        return shifts.view(taps, self.kernel_size, self.kernel_size).expand(self.channels, -1, -1, -1)

    def merged(self) -> Tensor:
        """Return (C, 3N, k, k): the kernel of the one group convolution that fc and shift compose to."""
        return torch.einsum("cthw,tm->cmhw", self.kernels(), self.fc)

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps.unflatten(1, (self.maps, self.head_dim))  # (B, 3N, D, H, W)
        if self.shift is None:
            return self._shift_tensors(self._light(maps))
        kernel: Tensor
        if self.factored:
            inputs = self._light(maps)
            kernel = self.shift
        else:
            inputs = maps.transpose(1, 2)
            kernel = self.merged()
        # Autocast casts what einsum returns, and group convolution wants one type.
        out = self._convolve(inputs.flatten(1, 2), kernel.to(inputs.dtype), self.head_dim)
        if self.bias is None or self.factored:
            return out
        ones = torch.ones_like(maps[:1, :1, 0])  # the bias passes through the zero padding: less of it at the border
        return out + self._convolve(ones, self.bias_kernel().to(ones.dtype), 1)

    def _light(self, maps: Tensor) -> Tensor:
        """Apply fc: (B, 3N, D, H, W) → (B, D, k², H, W)."""
        light = torch.einsum("bmdhw,tm->bdthw", maps, self.fc)
        return light if self.bias is None else light + self.bias[:, None, None].to(light.dtype)

    def _convolve(self, inputs: Tensor, kernel: Tensor, groups: int) -> Tensor:
        padding = self.kernel_size // 2 * self.dilation
        return F.conv2d(inputs, kernel, None, self.stride, padding, self.dilation, groups)

    def _shift_tensors(self, light: Tensor) -> Tensor:
        """Shift by equations 4 and 8: (B, D, k², H, W) → (B, C, Ho, Wo), the N channels of a head-channel alike."""
        height, width = light.shape[-2:]
        padding = self.kernel_size // 2 * self.dilation
        light = F.pad(light, (padding,) * 4)
        out = torch.zeros_like(light[:, :, 0, : height : self.stride, : width : self.stride])
        for tap in range(self.kernel_size**2):
            down, right = (step * self.dilation for step in divmod(tap, self.kernel_size))
            out = out + light[:, :, tap, down : down + height : self.stride, right : right + width : self.stride]
        return out.repeat_interleave(self.heads, dim=1)

    def bias_kernel(self) -> Tensor:
        """Return (C, 1, k, k): what fc's bias adds, as a convolution of ones."""
        assert self.bias is not None
        return torch.einsum("cthw,t->chw", self.kernels(), self.bias)[:, None]

    def dense(self, projection: Tensor) -> Tensor:
        """Return (C, in_channels, k, k): the kernel that Stage I of this weight (3C, in_channels) and this path compose to.

        K[o, i] = Σ merged[o, m] · W[m, d(o), i]. A bias of Stage I passes through the zero padding like one more channel of
        ones, and so is one more column of the weight.
        """
        weight = projection.reshape(self.maps, self.head_dim, -1)  # (3N, D, in_channels)
        merged = self.merged().unflatten(0, (self.head_dim, self.heads))  # (D, N, 3N, k, k)
        return torch.einsum("dnmhw,mdi->dnihw", merged, weight).flatten(0, 1)

    def collapses(self, stage1: nn.Module) -> bool:
        """Return whether `of_input` is the way to run this path on that Stage I.

        The dense kernel has C / 3N times the multiply-adds of the merged one, but in a convolution that is made for them.
        Forward and backward it was the faster one at all of 24 to 64 channels, whatever the heads (0.4 to 0.96 of the time,
        28² and 7² maps). It was the slower one at most of 96 and more (up to 2.1).
        """
        return isinstance(stage1, Projection) and stage1.qkv.in_channels <= DENSE

    def of_input(self, x: Tensor, stage1: Projection) -> Tensor:
        """Run `self(stage1(x))` as one dense convolution of x (equality 4 of docs/equalities.md), without Stage I's maps."""
        bias = stage1.qkv.bias
        out = self._convolve(x.contiguous(memory_format=torch.channels_last), self.dense(stage1.qkv.weight.flatten(1)), 1)
        columns = [] if bias is None else [self.dense(bias[:, None])]
        columns += [] if self.bias is None else [self.bias_kernel()]
        if not columns:
            return out
        ones = torch.ones_like(x[:1, :1])  # biases pass through the zero padding: less of them at the border
        return out + self._convolve(ones, sum(columns[1:], columns[0]), 1)

    def on(self, stage1: nn.Module, x: Tensor, maps: Tensor | None = None) -> Tensor:
        """Run this path on that Stage I, as every path does, in the faster of the two forms."""
        if self.collapses(stage1):
            assert isinstance(stage1, Projection)
            return self.of_input(x, stage1)
        return super().on(stage1, x, maps)

    def macs(self, height: int, width: int) -> float:
        """Count (3k² + k⁴)·C per pixel (Table 1), whichever form runs. Tensor shifts only add."""
        taps = self.kernel_size**2
        light = float(self.maps * taps * self.head_dim * height * width)
        if self.shift is None:
            return light
        return light + taps**2 * self.channels * strided(height, self.stride) * strided(width, self.stride)


class Convolution(Operator):
    """A k×k convolution by way of Stage I and the convolution path. Arguments are those of `ConvolutionPath`."""

    path: ConvolutionPath

    @property
    def attention(self) -> None:
        return None

    @property
    def convolution(self) -> ConvolutionPath:
        return self.path

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, stride: int = 1, bias: bool = True,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None, **path: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            Projection(in_channels, 3 * out_channels, bias, device, dtype),
            ConvolutionPath(out_channels, heads, stride=stride, device=device, dtype=dtype, **path),
        )


class OnesConv2d(nn.Conv2d):
    """A convolution that sees one channel more, of ones: a bias that passes through the zero padding.

    The convolution path on a Stage I with a bias is one of these, at the border too (equality 4 of docs/equalities.md).
    """

    def __init__(self, in_channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_channels + 1, *args, **kwargs)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        return super().forward(torch.cat((input, torch.ones_like(input[:, :1])), dim=1))
