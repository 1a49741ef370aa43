"""ACmix: attention and convolution on one Stage I (section 4.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from acmix_nas.operators.convolution import ConvolutionPath
from acmix_nas.operators.registry import attention_path
from acmix_nas.operators.stage import WINDOW, Macs, Path, Projection, Stage1
from acmix_nas.util.errors import one_of

__all__ = ["MIXINGS", "ACmix", "Mixing"]

MIXINGS = ("attention", "convolution", "sum", "alpha", "convex", "learned")
"""The rows of Table 6: one path alone; (1, 1); (α, 1); (α, 1 − α); and (α, β), which is the full form."""


class Mixing(nn.Module):
    """α · attention + β · convolution (equation 13), in one of the forms of Table 6; what is learned starts at 0.5.

    Args:
        mixing: "learned" (α, β), "convex" (α, 1 − α), "alpha" (α, 1), "sum" (1, 1), or "attention" or "convolution" alone.

    Raises:
        UserError: for an unknown form.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        mixing: str = "learned",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if mixing not in MIXINGS:
            raise one_of("mixing", mixing, MIXINGS)
        self.mixing = mixing
        learned = {"learned": ("alpha", "beta"), "convex": ("alpha",), "alpha": ("alpha",)}.get(mixing, ())
        absent = {"attention": "beta", "convolution": "alpha"}.get(mixing)
        for name in ("alpha", "beta"):
            if name in learned:
                setattr(self, name, nn.Parameter(torch.tensor(0.5, device=device, dtype=dtype)))
            else:
                constant = torch.tensor(0.0 if name == absent else 1.0, device=device, dtype=dtype)
                self.register_buffer(name, constant, persistent=False)

    @property
    def strengths(self) -> tuple[Tensor, Tensor]:
        """Return α and β."""
        return self.alpha, 1 - self.alpha if self.mixing == "convex" else self.beta

    def forward(self, attention: Tensor | None, convolution: Tensor | None) -> Tensor:
        alpha, beta = self.strengths
        if attention is None or convolution is None:
            alone = attention if convolution is None else convolution
            assert alone is not None
            return alone
        return alpha * attention + beta * convolution


class ACmix(nn.Module):
    """Mix an attention and a convolution path, both fed by one Stage I: the operator of the paper.

    Shapes: (B, in_channels, H, W) → (B, out_channels, ⌈H/s⌉, ⌈W/s⌉).

    Args:
        in_channels: of the input.
        out_channels: C, of the output.
        heads: N, which must divide `out_channels`.
        attention: "local", "window", "global", "patchwise", or another that is registered (`register_operator`).
        window: K, of local, window and patchwise attention.
        kernel_size: k of the convolution path.
        stride: s, of both paths.
        dilation: of the convolution path and of local and patchwise attention.
        border: of local attention, "reflect" or "mask".
        position: "linear" encoding of the coordinates, Swin's relative position "table" (local and window), or "none".
        mixing: how the two are combined (Table 6), see `Mixing`.
        shifts: how the convolution path shifts (Table 7), see `ConvolutionPath`.
        bias: whether Stage I has a bias.
        reduction: R of global attention.
        shift: whether the grid of window attention is moved by half a window.

    Raises:
        UserError: where an argument has no meaning; the message names it.

    Example:
        >>> layer = ACmix(16, 32, heads=4, attention="local", window=3, stride=2)
        >>> layer(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
        >>> layer.alpha.item(), layer.beta.item()
        (0.5, 0.5)
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
        position: str = "linear",
        mixing: str = "learned",
        shifts: str = "learned",
        bias: bool = True,
        reduction: int = 1,
        shift: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        path = attention_path(
            attention, out_channels, heads, window=window, reduction=reduction, stride=stride, dilation=dilation,
            border=border, shift=shift, position=position, **like,
        )  # fmt: skip
        maps = len(path.reads(heads))
        projection = Projection(in_channels, maps * path.head_dim, bias, **like)
        convolution = ConvolutionPath(out_channels, heads, kernel_size, stride, dilation, shifts, maps, **like)
        self._set(projection, path, convolution, Mixing(mixing, **like))

    @classmethod
    def of(cls, projection: Stage1, attention: Path, convolution: ConvolutionPath, mixing: Mixing) -> ACmix:
        """Make an ACmix of these parts."""
        acmix = cls.__new__(cls)
        acmix._set(projection, attention, convolution, mixing)
        return acmix

    def _set(self, projection: Stage1, attention: Path, convolution: ConvolutionPath, mixing: Mixing) -> None:
        super().__init__()
        self.projection = projection
        self.attention = None if mixing.mixing == "convolution" else attention
        self.convolution = None if mixing.mixing == "attention" else convolution
        self.mixing = mixing
        self.name = f"acmix_{attention.name}"

    @property
    def alpha(self) -> Tensor:
        """Return α, the weight of the attention."""
        return self.mixing.strengths[0]

    @property
    def beta(self) -> Tensor:
        """Return β, the weight of the convolution."""
        return self.mixing.strengths[1]

    def forward(self, x: Tensor) -> Tensor:
        if self.attention is None:
            assert self.convolution is not None
            out: Tensor = self.mixing(None, self.convolution.on(self.projection, x))
            return out
        # Where the attention wants a rolled map, both paths see it: the convolution works across the seam, as published.
        x = self.attention.roll(x)
        maps = self.projection(x)
        attention = self.attention(maps)
        convolution = None if self.convolution is None else self.convolution.on(self.projection, x, maps)
        return self.attention.roll(self.mixing(attention, convolution), back=True)

    def macs(self, height: int, width: int) -> Macs:
        paths = (path for path in (self.attention, self.convolution) if path is not None)
        return Macs(self.projection.macs(height, width), sum(path.macs(height, width) for path in paths))
