"""timm's transformers with their attention on maps, which is what a slot needs. Nothing here needs NNI."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from acmix_nas.operators import GlobalPath, Operator, Output, Path, Projection, RelativeBias, WindowPath
from acmix_nas.util.errors import UserError

__all__ = ["MapSwinBlock", "MapViTBlock", "open_blocks"]


class MapSwinBlock(SwinTransformerBlock):
    """timm's block of a Swin whose attention takes and gives maps, (B, C, H, W), and cuts its windows itself."""

    def _attn(self, x: Tensor) -> Tensor:
        out: Tensor = self.attn(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return out

    def set_input_size(self, *sizes: Any, **named: Any) -> None:
        """Do nothing: any operator of a slot takes maps of any size."""


class MapViTBlock(Block):
    """timm's block of a ViT without class token, whose attention takes and gives maps, (B, C, H, W)."""

    grid: tuple[int, int]

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        attended = self.attn(self._map(self.norm1(x))).flatten(2).transpose(1, 2)  # (B, H · W, C)
        x = x + self.drop_path1(self.ls1(attended))
        hidden: Tensor = self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x + hidden

    def _map(self, tokens: Tensor) -> Tensor:
        height, width = self.grid
        if tokens.shape[1] != height * width:  # of another image size than the network was made for
            height = width = round(tokens.shape[1] ** 0.5)
        if tokens.shape[1] != height * width:
            raise UserError(f"image must be square, or of the size that the ViT was made for; got {tokens.shape[1]} patches")
        maps: Tensor = tokens.transpose(1, 2).unflatten(2, (height, width))
        return maps


def open_blocks(network: nn.Module) -> None:
    """Put this package's operators in the place of the attentions of timm's Swin and ViT, with the same weights.

    The network computes what it did (of a Swin, on maps that its windows divide: elsewhere timm lets the padding take part, and
    here it is masked). What has no such form stays as it is: attention with a class token, normalised queries or other extras,
    blocks of another class.
    """
    for module in network.modules():
        if isinstance(module, VisionTransformer) and not module.num_prefix_tokens:
            for block in module.blocks:
                if type(block) is Block and _is_plain(block.attn):
                    _open_vit(block, module.patch_embed.grid_size)
        elif type(module) is SwinTransformerBlock:
            _open_swin(module)


def _open_vit(block: Any, grid: tuple[int, int]) -> None:
    path = GlobalPath(block.attn.attn_dim, block.attn.num_heads, position="none")
    block.attn, block.grid = _operator(block.attn, path), grid
    block.__class__ = MapViTBlock


def _open_swin(block: Any) -> None:
    attention = block.attn
    window = max(attention.window_size)
    square = attention.window_size == (window, window)
    # Heads of another width; always_partition also shifts and masks a map of a single window.
    if not square or block.always_partition or attention.qkv.out_features != 3 * attention.dim:
        return
    path = WindowPath(
        attention.dim, attention.num_heads, window, shift=any(block.target_shift_size), position="table"
    )  # fmt: skip
    assert isinstance(path.position, RelativeBias)
    path.position.table = attention.relative_position_bias_table
    block.attn = _operator(attention, path)
    block.attn_mask = None
    block.__class__ = MapSwinBlock


def _is_plain(attention: nn.Module) -> bool:
    return (
        type(attention) is Attention
        and attention.gate is None
        and attention.attn_dim == attention.proj.out_features == attention.qkv.in_features
        and all(isinstance(extra, nn.Identity) for extra in (attention.q_norm, attention.k_norm, attention.norm))
    )


@torch.no_grad()
def _operator(attention: Any, path: Path) -> Operator:
    """Make an operator with the weights of timm's attention, which are ordered alike: q, k, v, each head after head."""
    weight = attention.qkv.weight
    like: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    output = Output(path, **like)
    projection = Projection(path.channels, 3 * path.channels, attention.qkv.bias is not None, **like)
    for conv, linear in ((projection.qkv, attention.qkv), (output.proj, attention.proj)):
        conv.weight.copy_(linear.weight[:, :, None, None])
        if linear.bias is not None and conv.bias is not None:
            conv.bias.copy_(linear.bias)
        elif conv.bias is not None:
            conv.bias.zero_()
    return Operator(projection, output)
