"""SAN 10, 15 and 19 with patchwise attention or ACmix in every block (Table 10 and appendix C)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import ClassifierHead, DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from timm.models._manipulate import MATCH_PREV_GROUP
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.models.pyramid import Pyramid, Stage, config, create, one_per_stage
from acmix_nas.operators import WINDOW, ACmix, Operator, Projection, attention_path
from acmix_nas.util.errors import UserError

__all__ = ["SAN", "SANBlock", "SANStage", "make_operator"]

LAYERS = {"san10": (2, 1, 2, 4, 1), "san15": (3, 2, 3, 5, 2), "san19": (3, 3, 4, 6, 3)}
OPERATORS = ("patchwise", "acmix")
SQUEEZE = 4
"""A block's operator gives a quarter of the block's channels."""


def pointwise(in_channels: int, out_channels: int, bias: bool = False, **like: Any) -> nn.Conv2d:
    """Make a 1×1 convolution with He's normal initialisation, so that no later loop has to tell it from an operator's."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=bias, **like)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv


def make_operator(
    in_channels: int,
    out_channels: int,
    heads: int = 4,
    window: int = WINDOW,
    acmix: bool = True,
    mixing: str = "learned",
    shifts: str = "learned",
    kernel_size: int = 3,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Operator | ACmix:
    """Make patchwise attention, or ACmix of it and a convolution path. Queries and keys have one map each (appendix C).

    Up to 8 channels of the values share their weights: as many as divide `out_channels`, for either form.

    Shapes, of what is made: (B, in_channels, H, W) → (B, out_channels, H, W).

    Args:
        heads: N, which must divide `out_channels`.
        window: K.
        mixing, shifts, kernel_size: of ACmix alone.

    Raises:
        UserError: where an argument has no meaning; the message names it.
    """
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    if acmix:
        form: dict[str, Any] = {"mixing": mixing, "shifts": shifts, "kernel_size": kernel_size}
        return ACmix(in_channels, out_channels, heads, "patchwise", window, **form, **like)
    path = attention_path("patchwise", out_channels, heads, window=window, **like)
    return Operator(Projection(in_channels, len(path.reads(heads)) * path.head_dim, **like), path)


class SANBlock(nn.Module):
    """x + conv(ReLU(BN(operator(ReLU(BN(x)))))): the operator goes from C to C/4 channels, the 1×1 convolution back.

    Shapes: (B, C, H, W) → (B, C, H, W).

    Args:
        channels: C.
        operator: makes the operator from its input and output channels.
        drop_path: the probability that an image skips the block in training.
    """

    def __init__(
        self,
        channels: int,
        operator: Callable[[int, int], nn.Module],
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        inner = channels // SQUEEZE
        self.norm1 = nn.BatchNorm2d(channels, **like)
        self.attn = operator(channels, inner)
        self.norm2 = nn.BatchNorm2d(inner, **like)
        self.conv = pointwise(inner, channels, bias=True, **like)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.attn(F.relu(self.norm1(x)))  # (B, C/4, H, W)
        out: Tensor = self.drop_path(self.conv(F.relu(self.norm2(inner))))
        return x + out


class SANStage(Stage):
    """A transition (2×2 max pool, 1×1 convolution), the blocks, and their BN and ReLU.

    Shapes: (B, in_channels, H, W) → (B, channels, ⌈H/2⌉, ⌈W/2⌉).

    Args:
        operator: makes a block's operator from its input and output channels.
        drop_paths: one rate for each block.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        operator: Callable[[int, int], nn.Module],
        drop_paths: Sequence[float],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        # Rounded up, so that an odd map loses no border and a map of 1×1 stays one.
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv = pointwise(in_channels, channels, **like)
        self.blocks = nn.Sequential(*(SANBlock(channels, operator, rate, **like) for rate in drop_paths))
        self.norm = nn.BatchNorm2d(channels, **like)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.run_blocks(self.conv(self.pool(x)))))


class SAN(Pyramid):
    """The self-attention network of patchwise attention, as published, or with ACmix in the place of every attention.

    Shapes: (B, in_chans, H, W) → (B, num_classes). Images of any size are taken.

    Args:
        layers: the number of blocks in each stage, which may be 0.
        num_classes: 0 for none.
        global_pool: of timm's heads, "avg" or "" for none.
        drop_rate: of the pooled features.
        drop_path_rate: of the last block; that of the first is 0, and they rise in equal steps.
        channels: C of each stage, which 4 · heads must divide.
        windows: K of each stage.
        stem_channels: of the 1×1 convolution on the pixels.
        heads: N of every operator: queries and keys have C / (4 N) channels, values C / 4.
        acmix: whether ACmix takes the place of patchwise attention.
        mixing: of ACmix, see `acmix_nas.operators.Mixing`.
        shifts: of ACmix, see `acmix_nas.operators.ConvolutionPath`.
        kernel_size: k of ACmix.

    Raises:
        UserError: where a stage lacks a number, the heads do not divide the channels, or an operator refuses an argument.
    """

    stages_name = "layers"

    def __init__(
        self,
        layers: Sequence[int] = LAYERS["san10"],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        channels: Sequence[int] = (64, 256, 512, 1024, 2048),
        windows: Sequence[int] = (3, WINDOW, WINDOW, WINDOW, WINDOW),
        stem_channels: int = 64,
        heads: int = 4,
        acmix: bool = True,
        mixing: str = "learned",
        shifts: str = "learned",
        kernel_size: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        one_per_stage("layers", len(layers), channels=channels, windows=windows)
        for width in channels:
            if heads < 1 or width % (SQUEEZE * heads):
                raise UserError(f"channels must be divisible by {SQUEEZE} · heads; got channels={width} and heads={heads}")
        reductions = [2 ** (stage + 1) for stage in range(len(channels))]
        super().__init__(channels, reductions, num_classes, in_chans, global_pool)
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        form: dict[str, Any] = {"acmix": acmix, "mixing": mixing, "shifts": shifts, "kernel_size": kernel_size}

        self.conv_in = pointwise(in_chans, stem_channels, **like)
        self.norm_in = nn.BatchNorm2d(stem_channels, **like)
        before = (stem_channels, *channels[:-1])
        drop_paths: Any = calculate_drop_path_rates(drop_path_rate, list(layers), stagewise=True)
        self.layers = nn.Sequential(
            *(
                SANStage(coming, width, partial(make_operator, heads=heads, window=window, **form, **like), rates, **like)
                for coming, width, window, rates in zip(before, channels, windows, drop_paths, strict=True)
            )
        )
        self.norm = nn.Identity()  # every stage ends with a normalisation of its own
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate, **like)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return expressions that sort the parameters by depth, by stages or by blocks.

        A learning rate that decays with depth needs them.
        """
        stage = r"^layers\.(\d+)"
        blocks = [(stage + r"\.blocks\.(\d+)", None), (stage + r"\.conv", (0,)), (stage + r"\.norm", MATCH_PREV_GROUP)]
        return {"stem": r"^(?:conv|norm)_in", "blocks": stage if coarse else blocks}

    def _stem(self, x: Tensor) -> Tensor:
        return F.relu(self.norm_in(self.conv_in(x)))


CONFIG = config("conv_in", crop_pct=0.875, interpolation="bilinear")
default_cfgs = generate_default_cfgs({f"{size}_{operator}": CONFIG for size in LAYERS for operator in OPERATORS})


def _create(variant: str, pretrained: bool, **arguments: Any) -> nn.Module:
    size, _, operator = variant.partition("_")
    arguments = {"layers": LAYERS[size], "acmix": operator == "acmix", **arguments}
    return create(SAN, variant, pretrained, len(arguments["layers"]), **arguments)


@register_model
def san10_patchwise(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build SAN 10, the baseline."""
    return _create("san10_patchwise", pretrained, **arguments)


@register_model
def san15_patchwise(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build SAN 15, the baseline."""
    return _create("san15_patchwise", pretrained, **arguments)


@register_model
def san19_patchwise(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build SAN 19, the baseline."""
    return _create("san19_patchwise", pretrained, **arguments)


@register_model
def san10_acmix(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build SAN-ACmix 10."""
    return _create("san10_acmix", pretrained, **arguments)


@register_model
def san15_acmix(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build SAN-ACmix 15."""
    return _create("san15_acmix", pretrained, **arguments)


@register_model
def san19_acmix(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build SAN-ACmix 19."""
    return _create("san19_acmix", pretrained, **arguments)
