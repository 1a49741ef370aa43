"""ACmix: attention and convolution on one Stage I (section 4.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from acmix_nas.errors import one_of
from acmix_nas.operators.convolution import ConvolutionPath
from acmix_nas.operators.global_attention import GlobalPath
from acmix_nas.operators.local_attention import LocalPath
from acmix_nas.operators.stage import WINDOW, Macs, Path, Projection
from acmix_nas.operators.window_attention import WindowPath

__all__ = ["ATTENTIONS", "MIXINGS", "ACmix", "Mixing", "attention_path"]

ATTENTIONS = ("local", "window", "global")
MIXINGS = ("learned", "fixed")


def attention_path(
    kind: str,
    channels: int,
    heads: int,
    *,
    window: int = WINDOW,
    reduction: int = 1,
    stride: int = 1,
    dilation: int = 1,
    border: str = "reflect",
    shift: bool = False,
    position: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """The attention path of this kind; what a kind has no use for (a border, a window) it ignores.

    Raises:
        UserError: for an unknown kind, or heads that do not divide the channels.
    """
    common: dict[str, Any] = {"stride": stride, "position": position, "device": device, "dtype": dtype}
    if kind == "local":
        return LocalPath(channels, heads, window, dilation=dilation, border=border, **common)
    if kind == "window":
        return WindowPath(channels, heads, window, shift=shift, **common)
    if kind == "global":
        return GlobalPath(channels, heads, reduction=reduction, **common)
    raise one_of("attention", kind, ATTENTIONS)


class Mixing(nn.Module):
    """α · attention + β · convolution (equation 13), both scalars started at 0.5; "fixed" keeps them there."""

    def __init__(
        self,
        mixing: str = "learned",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if mixing not in MIXINGS:
            raise one_of("mixing", mixing, MIXINGS)
        for name in ("alpha", "beta"):
            value = torch.tensor(0.5, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(value, requires_grad=mixing == "learned"))

    alpha: nn.Parameter
    beta: nn.Parameter

    def forward(self, attention: Tensor, convolution: Tensor) -> Tensor:
        return self.alpha * attention + self.beta * convolution


class ACmix(nn.Module):
    """The operator of the paper: one Stage I feeds an attention and a convolution path, and both are mixed.

    Shapes: (B, in_channels, H, W) → (B, out_channels, ⌈H/s⌉, ⌈W/s⌉).

    Args:
        heads: N, which must divide `out_channels`.
        attention: "local", "window" or "global".
        window: K, of local and window attention.
        kernel_size: k of the convolution path.
        dilation: of the convolution path and of local attention.
        border: of local attention, "reflect" or "mask".
        position: whether the linear encoding of the coordinates takes part.
        mixing: "learned" or "fixed" α and β.
        bias: whether Stage I has a bias.
        reduction: R of global attention.
        shift: whether the grid of window attention is moved by half a window.

    Raises:
        UserError: where an argument has no meaning; the message names it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 4,
        attention: str = "local",
        window: int = WINDOW,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        border: str = "reflect",
        position: bool = True,
        mixing: str = "learned",
        bias: bool = True,
        reduction: int = 1,
        shift: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.projection = Projection(in_channels, out_channels, bias, device, dtype)
        self.attention = attention_path(
            attention, out_channels, heads, window=window, reduction=reduction, stride=stride, dilation=dilation,
            border=border, shift=shift, position=position, device=device, dtype=dtype,
        )  # fmt: skip
        self.convolution = ConvolutionPath(out_channels, heads, kernel_size, stride, dilation, device, dtype)
        self.mixing = Mixing(mixing, device, dtype)

    @property
    def name(self) -> str:
        """What it is called as an operator, `acmix_local_k3`."""
        return f"acmix_{self.attention.name}"

    @property
    def alpha(self) -> nn.Parameter:
        """α, the weight of the attention."""
        return self.mixing.alpha

    @property
    def beta(self) -> nn.Parameter:
        """β, the weight of the convolution."""
        return self.mixing.beta

    def forward(self, x: Tensor) -> Tensor:
        maps = self.projection(x)
        return self.mixing(self.attention(maps), self.convolution(maps))

    def macs(self, height: int, width: int) -> Macs:
        stage2 = self.attention.macs(height, width) + self.convolution.macs(height, width)
        return Macs(self.projection.macs(height, width), stage2)
