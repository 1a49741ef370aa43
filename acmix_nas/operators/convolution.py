"""The convolution path of Stage II (section 4.2 and 4.3), and what it equals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.errors import UserError
from acmix_nas.operators.stage import Operator, Path, Projection, head_channels, strided

__all__ = ["Convolution", "ConvolutionPath"]


class ConvolutionPath(Path):
    """fc and shift: the 3N maps become k² maps, which are shifted and summed (equations 7 and 8).

    The fully connected layer (3N → k² maps, shared by the D channels of a head) and the shift, a group convolution with D
    groups and learnable kernels that start as shifts (Figure 3 c), compose to one group convolution with 3N inputs per
    group. That form is used where it has fewer multiply-adds, 3N ≤ 3 + k² (up to N = 4 at k = 3: 23 → 11 ms
    forward and backward at C = 64); the two are equal, and `factored` says which one runs.

    Output channel d·N + n belongs to the head-channel d, as in the published code, while the attentions' channel h·D + d'
    belongs to the head h: ACmix adds the two as they come.

    Args:
        channels: C.
        heads: N, which must divide C.
        kernel_size: k, odd.
        dilation: distance between the taps.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"kernel_size must be odd and positive; got kernel_size={kernel_size}")
        self.channels, self.heads, self.depth = channels, heads, head_channels(channels, heads, stride, dilation)
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        taps = kernel_size**2
        # Plain parameters: a host model's loop that initialises every nn.Conv2d cannot overwrite the shifts.
        self.fc = nn.Parameter(torch.empty(taps, 3 * heads, device=device, dtype=dtype))
        self.shift = nn.Parameter(torch.empty(channels, taps, kernel_size, kernel_size, device=device, dtype=dtype))
        self.reset_parameters()

    @property
    def name(self) -> str:
        return "conv"

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.fc, a=5**0.5)
        with torch.no_grad():
            taps = self.kernel_size**2
            shifts = torch.eye(taps, dtype=self.shift.dtype, device=self.shift.device)
            self.shift.copy_(shifts.view(taps, self.kernel_size, self.kernel_size).expand_as(self.shift))

    @property
    def factored(self) -> bool:
        """Whether fc and shift run one after the other."""
        return 3 * self.heads > 3 + self.kernel_size**2

    def merged(self) -> Tensor:
        """(C, 3N, k, k): the kernel of the one group convolution that fc and shift compose to."""
        return torch.einsum("cthw,tm->cmhw", self.shift, self.fc)

    def forward(self, maps: Tensor) -> Tensor:
        padding = self.kernel_size // 2 * self.dilation
        maps = maps.unflatten(1, (3 * self.heads, self.depth))  # (B, 3N, D, H, W)
        kernel: Tensor
        if self.factored:
            inputs = torch.einsum("bmdhw,tm->bdthw", maps, self.fc)
            kernel = self.shift
        else:
            inputs = maps.transpose(1, 2)
            kernel = self.merged()
        # Autocast casts what einsum returns, and group convolution wants one type.
        return F.conv2d(
            inputs.flatten(1, 2), kernel.to(inputs.dtype), None, self.stride, padding, self.dilation, self.depth
        )  # fmt: skip

    def dense(self, projection: Tensor) -> Tensor:
        """(C, in_channels, k, k): the dense kernel that Stage I of this weight (3C, in_channels) and this path compose to.

        K[o, i] = Σ merged[o, m] · W[m, d(o), i]. Exact for a Stage I without bias: a bias would pass through the zero
        padding and differ at the border.
        """
        weight = projection.reshape(3 * self.heads, self.depth, -1)  # (3N, D, in_channels)
        merged = self.merged().unflatten(0, (self.depth, self.heads))  # (D, N, 3N, k, k)
        return torch.einsum("dnmhw,mdi->dnihw", merged, weight).flatten(0, 1)

    def macs(self, height: int, width: int) -> float:
        """(3k² + k⁴)·C per pixel (Table 1), whichever form runs."""
        taps = self.kernel_size**2
        shifted = taps**2 * self.channels * strided(height, self.stride) * strided(width, self.stride)
        return 3.0 * taps * self.channels * height * width + shifted


class Convolution(Operator):
    """A k×k convolution by way of Stage I and the convolution path. Arguments as of `ConvolutionPath`."""

    path: ConvolutionPath

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, stride: int = 1, bias: bool = True,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None, **path: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            Projection(in_channels, out_channels, bias, device, dtype),
            ConvolutionPath(out_channels, heads, stride=stride, device=device, dtype=dtype, **path),
        )
