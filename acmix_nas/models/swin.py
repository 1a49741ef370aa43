"""Swin-ACmix T and S (Table 12). The baselines are timm's `swin_tiny_patch4_window7_224` and `swin_small_…`."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import PatchEmbed, to_2tuple
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import jit, nn

from acmix_nas.models.pyramid import config
from acmix_nas.operators import ACmix, ConvolutionPath, Mixing, Operator, Output, RelativeBias, WindowPath
from acmix_nas.slots.blocks import MapSwinBlock, open_blocks
from acmix_nas.util.errors import UserError

__all__ = ["ACmixSwin"]

DEPTHS = {"swin_tiny_acmix": (2, 2, 6, 2), "swin_small_acmix": (2, 2, 18, 2)}


class ACmixSwin(SwinTransformer):
    """timm's Swin with ACmix in the place of every window attention, as published: fc has a bias, and the output projection
    belongs to the attention alone. In a shifted block the map is rolled once, for both paths, so that the convolution path
    works across the seam, where pixels of opposite borders meet.

    Args:
        mixing: see `acmix_nas.operators.Mixing`; "convolution" is the paper's Conv-Swin, with dense convolutions (Table 6).
        shifts, kernel_size: of the convolution path, see `acmix_nas.operators.ConvolutionPath`.
        arguments: of timm's SwinTransformer; images of any size are taken.

    Raises:
        UserError: where windows are not square, heads have a width of their own, or an operator refuses an argument.
    """

    def __init__(
        self, mixing: str = "learned", shifts: str = "learned", kernel_size: int = 3, **arguments: Any
    ) -> None:  # fmt: skip
        height, width = to_2tuple(arguments.get("img_size", 224))
        arguments = {
            "strict_img_size": False, "embed_layer": partial(PatchEmbed, dynamic_img_pad=True),
            # For a narrow map timm would make a window that is no square, which has no form on maps; ours are cut to the map.
            "always_partition": height != width, **arguments,
        }  # fmt: skip
        super().__init__(**arguments)
        blocks: list[Any] = [module for module in self.modules() if isinstance(module, SwinTransformerBlock)]
        for block in blocks:
            block.always_partition = False  # it has sized timm's windows, and would keep the block closed
        open_blocks(self)
        if not all(isinstance(block, MapSwinBlock) for block in blocks):
            given = ", ".join(f"{name}={arguments.get(name)}" for name in ("window_size", "head_dim", "always_partition"))
            raise UserError(f"window_size must be one number, without head_dim and always_partition; got {given}")
        for block in blocks:
            attention = block.attn
            assert isinstance(attention, Operator)
            output = attention.path
            assert isinstance(output, Output)
            assert isinstance(output.path, WindowPath)
            weight = output.proj.weight
            like: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
            if mixing == "convolution":
                Mixing(mixing)
                block.attn = nn.Conv2d(output.channels, output.channels, kernel_size, padding=kernel_size // 2, **like)
                continue
            form: dict[str, Any] = {"kernel_size": kernel_size, "shifts": shifts, "bias": True, **like}
            convolution = ConvolutionPath(output.channels, output.heads, **form)
            output.path.rolled = output.path.shift
            block.attn = ACmix.of(attention.projection, output, convolution, Mixing(mixing, **like))

    @jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Return the names of the tables of relative positions."""
        return {f"{name}.table" for name, module in self.named_modules() if isinstance(module, RelativeBias)}


default_cfgs = generate_default_cfgs({name: config("patch_embed.proj", 0.9, "bicubic") for name in DEPTHS})


def _create(variant: str, pretrained: bool, **arguments: Any) -> nn.Module:
    arguments = {"embed_dim": 96, "num_heads": (3, 6, 12, 24), "window_size": 7, "depths": DEPTHS[variant], **arguments}
    levels = tuple(range(len(arguments["depths"])))
    feature_cfg = {"flatten_sequential": True, "out_indices": arguments.pop("out_indices", levels)}
    return build_model_with_cfg(ACmixSwin, variant, pretrained, feature_cfg=feature_cfg, **arguments)


@register_model
def swin_tiny_acmix(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build Swin-ACmix-T."""
    return _create("swin_tiny_acmix", pretrained, **arguments)


@register_model
def swin_small_acmix(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build Swin-ACmix-S."""
    return _create("swin_small_acmix", pretrained, **arguments)
