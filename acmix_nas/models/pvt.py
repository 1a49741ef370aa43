"""PVT tiny and small with spatial-reduction attention or ACmix in every block (Table 11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import (
    ClassifierHead,
    DropPath,
    LayerNorm2d,
    Mlp,
    calculate_drop_path_rates,
    resample_abs_pos_embed_nhwc,
    to_2tuple,
    trunc_normal_,
)
from timm.models import generate_default_cfgs, register_model
from timm.models._manipulate import MATCH_PREV_GROUP
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.models.pyramid import Pyramid, Stage, config, create, one_per_stage
from acmix_nas.operators import (
    ACmix,
    ConvolutionPath,
    GlobalPath,
    Mixing,
    Operator,
    Output,
    Projection,
    ReducedProjection,
    strided,
)

__all__ = ["PVT", "PVTBlock", "PVTStage", "PatchEmbedding", "make_operator"]

DEPTHS = {"pvt_tiny": (2, 2, 2, 2), "pvt_small": (3, 4, 6, 3)}


def make_operator(
    channels: int,
    heads: int,
    reduction: int,
    acmix: bool = True,
    mixing: str = "learned",
    shifts: str = "learned",
    kernel_size: int = 3,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Operator | ACmix:
    """Make PVT's global attention with its output projection, or ACmix of the two and a convolution path.

    There are no positions (appendix D).

    Shapes, of what is made: (B, C, H, W) → (B, C, H, W).

    Args:
        channels: C.
        heads: N, which must divide C.
        reduction: R, the side of the pixels that share a key and a value; 1 for none.
        mixing, shifts, kernel_size: of ACmix alone.

    Raises:
        UserError: where an argument has no meaning; the message names it.
    """
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    output = Output(GlobalPath(channels, heads, reduction=reduction, position="none", **like), **like)
    projection: Projection | ReducedProjection
    if reduction > 1:
        projection = ReducedProjection(channels, reduction, **like)
    else:
        projection = Projection(channels, 3 * channels, **like)
    if not acmix:
        return Operator(projection, output)
    convolution = ConvolutionPath(channels, heads, kernel_size, shifts=shifts, **like)
    return ACmix.of(projection, output, convolution, Mixing(mixing, **like))


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its kernel, and LayerNorm. Maps that the patches do not divide are padded with zeros.

    Shapes: (B, in_channels, H, W) → (B, ⌈H/P⌉, ⌈W/P⌉, C).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        patch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, channels, patch_size, patch_size, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(channels, eps=1e-6, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size))
        out: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return out


class PVTBlock(nn.Module):
    """x + operator(LN(x)), then x + MLP(LN(x)). The operator takes and gives maps, (B, C, H, W).

    Shapes: (B, H, W, C) → (B, H, W, C).

    Args:
        channels: C.
        operator: the attention or ACmix.
        mlp_ratio: hidden channels of the MLP over C.
        drop_path: the probability that an image skips either half in training.
    """

    def __init__(
        self,
        channels: int,
        operator: nn.Module,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm1 = nn.LayerNorm(channels, eps=1e-6, **like)
        self.attn = operator
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6, **like)
        self.mlp = Mlp(channels, int(channels * mlp_ratio), **like)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attn(self.norm1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H, W, C)
        x = x + self.drop_path1(attended)
        hidden: Tensor = self.drop_path2(self.mlp(self.norm2(x)))
        return x + hidden


class PVTStage(Stage):
    """Patch embedding, position embedding, blocks.

    Shapes: (B, in_channels, H, W) → (B, channels, ⌈H/P⌉, ⌈W/P⌉).

    Args:
        grid: (⌈H/P⌉, ⌈W/P⌉) of the images that the network is made for; for others the position embedding is interpolated.
        operator: makes the operator of a block.
        drop_paths: one rate for each block.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        patch_size: int,
        grid: tuple[int, int],
        operator: Callable[[], nn.Module],
        mlp_ratio: float,
        drop_paths: Sequence[float],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.patch_embed = PatchEmbedding(in_channels, channels, patch_size, **like)
        self.pos_embed = nn.Parameter(torch.empty(1, *grid, channels, **like))
        trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.Sequential(*(PVTBlock(channels, operator(), mlp_ratio, rate, **like) for rate in drop_paths))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = x + resample_abs_pos_embed_nhwc(self.pos_embed, [x.shape[1], x.shape[2]])
        return self.run_blocks(x).permute(0, 3, 1, 2)


class PVT(Pyramid):
    """The pyramid vision transformer, first version, or with ACmix in the place of every attention.

    There is no class token, which in a map has no place for a convolution: the last map is normalised and averaged. Table 11
    shows none either.

    Shapes: (B, in_chans, H, W) → (B, num_classes). Images of any size are taken; those that the patches do not divide are
    padded with zeros at the bottom and on the right.

    Args:
        depths: the number of blocks in each stage.
        num_classes: 0 for none.
        global_pool: of timm's heads, "avg" or "" for none.
        drop_rate: of the pooled features.
        drop_path_rate: of the last block; that of the first is 0, and they rise in equal steps.
        img_size: the side of the images, or (height, width), for which the position embeddings are made.
        patch_size: P of the first stage; that of the others is 2.
        embed_dims: C of each stage.
        num_heads: N of each stage, which must divide C.
        mlp_ratios: E of each stage.
        reductions: R of each stage.
        acmix: whether ACmix takes the place of attention.
        mixing: of ACmix, see `acmix_nas.operators.Mixing`.
        shifts: of ACmix, see `acmix_nas.operators.ConvolutionPath`.
        kernel_size: k of ACmix.

    Raises:
        UserError: where a stage lacks a number, or an operator refuses an argument.
    """

    def __init__(
        self,
        depths: Sequence[int] = DEPTHS["pvt_tiny"],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        reductions: Sequence[int] = (8, 4, 2, 1),
        acmix: bool = True,
        mixing: str = "learned",
        shifts: str = "learned",
        kernel_size: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = {"embed_dims": embed_dims, "num_heads": num_heads, "mlp_ratios": mlp_ratios, "reductions": reductions}
        one_per_stage("depths", len(depths), **sizes)
        reached = [patch_size * 2**number for number in range(len(depths))]
        super().__init__(embed_dims, reached, num_classes, in_chans, global_pool)
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        form: dict[str, Any] = {"acmix": acmix, "mixing": mixing, "shifts": shifts, "kernel_size": kernel_size}

        stages = []
        drop_paths: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        coming, grid = in_chans, to_2tuple(img_size)
        for number, (channels, heads, ratio, reduction) in enumerate(zip(*sizes.values(), strict=True)):
            patch = 2 if number else patch_size
            grid = (strided(grid[0], patch), strided(grid[1], patch))
            operator = partial(make_operator, channels, heads, reduction, **form, **like)
            stages.append(PVTStage(coming, channels, patch, grid, operator, ratio, drop_paths[number], **like))
            coming = channels
        self.stages = nn.Sequential(*stages)
        self.norm = LayerNorm2d(self.num_features, eps=1e-6, **like)
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate, **like)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the position embeddings."""
        return {f"stages.{number}.pos_embed" for number in range(len(self.stages))}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return expressions that sort the parameters by depth, by stages or by blocks.

        A learning rate that decays with depth needs them.
        """
        stage = r"^stages\.(\d+)"
        blocks = [
            (stage + r"\.blocks\.(\d+)", None),
            (stage + r"\.(?:patch|pos)_embed", (0,)),
            (r"^norm", MATCH_PREV_GROUP),
        ]
        return {"stem": r"^stages\.0\.(?:patch|pos)_embed", "blocks": stage if coarse else blocks}


CONFIG = config("stages.0.patch_embed.proj", crop_pct=0.9, interpolation="bicubic")
default_cfgs = generate_default_cfgs({f"{size}{form}": CONFIG for size in DEPTHS for form in ("", "_acmix")})


def _create(variant: str, pretrained: bool, **arguments: Any) -> nn.Module:
    acmix = variant.endswith("_acmix")
    arguments = {"depths": DEPTHS[variant.removesuffix("_acmix")], "acmix": acmix, **arguments}
    return create(PVT, variant, pretrained, len(arguments["depths"]), **arguments)


@register_model
def pvt_tiny(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build PVT-T, the baseline."""
    return _create("pvt_tiny", pretrained, **arguments)


@register_model
def pvt_small(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build PVT-S, the baseline."""
    return _create("pvt_small", pretrained, **arguments)


@register_model
def pvt_tiny_acmix(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build PVT-ACmix-T."""
    return _create("pvt_tiny_acmix", pretrained, **arguments)


@register_model
def pvt_small_acmix(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build PVT-ACmix-S."""
    return _create("pvt_small_acmix", pretrained, **arguments)
