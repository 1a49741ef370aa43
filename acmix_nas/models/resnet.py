"""ResNet 26, 38 and 50 with convolution, local attention (SASA) or ACmix in every bottleneck (Table 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import jit, nn

from acmix_nas.operators import WINDOW, ACmix, LinearPosition, LocalAttention
from acmix_nas.util.errors import one_of

__all__ = ["OPERATORS", "OperatorResNet"]

OPERATORS = ("conv", "sasa", "acmix")
LAYERS = {"resnet26": (1, 2, 4, 1), "resnet38": (2, 3, 5, 2), "resnet50": (3, 4, 6, 3)}
HEADS = 4


class OperatorResNet(ResNet):
    """timm's ResNet of bottlenecks, whose 3×3 convolutions are one operator.

    Args:
        operator: "conv", "sasa" (local attention) or "acmix"; borders are reflected, as published.
        heads: N of the attention; window: its K.
        mixing, shifts, kernel_size: of ACmix, see `acmix_nas.ACmix`.
        arguments: of timm's ResNet.
    """

    def __init__(
        self,
        layers: Sequence[int],
        operator: str = "acmix",
        heads: int = HEADS,
        window: int = WINDOW,
        mixing: str = "learned",
        shifts: str = "learned",
        kernel_size: int = 3,
        **arguments: Any,
    ) -> None:
        if operator not in OPERATORS:
            raise one_of("operator", operator, OPERATORS)
        bottleneck: Any = Bottleneck
        super().__init__(bottleneck, tuple(layers), **arguments)
        if operator == "conv":
            return
        # After timm's loop over all convolutions, which would give the shift kernels random values.
        blocks: list[Any] = [module for module in self.modules() if isinstance(module, Bottleneck)]
        for block in blocks:
            conv = block.conv2
            common: dict[str, Any] = {
                "in_channels": conv.in_channels, "out_channels": conv.out_channels, "heads": heads, "window": window,
                "stride": conv.stride[0], "dilation": conv.dilation[0],
                "device": conv.weight.device, "dtype": conv.weight.dtype,
            }  # fmt: skip
            block.conv2 = (
                LocalAttention(**common)
                if operator == "sasa"
                else ACmix(**common, mixing=mixing, shifts=shifts, kernel_size=kernel_size)
            )

    @jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Return the names of the maps of the coordinates, which are no filters."""
        positions = (name for name, module in self.named_modules() if isinstance(module, LinearPosition))
        return {f"{name}.linear.weight" for name in positions}


def _cfg() -> dict[str, Any]:
    return {
        "url": "", "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 0.875,
        "interpolation": "bilinear", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1", "classifier": "fc", "license": "apache-2.0",
    }  # fmt: skip


default_cfgs = generate_default_cfgs({f"{size}_{operator}": _cfg() for size in LAYERS for operator in OPERATORS})


def _create(variant: str, pretrained: bool, **arguments: Any) -> nn.Module:
    size, _, operator = variant.partition("_")
    arguments = {"layers": LAYERS[size], "operator": operator, **arguments}
    return build_model_with_cfg(OperatorResNet, variant, pretrained, **arguments)


@register_model
def resnet26_conv(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build ResNet-26, the baseline."""
    return _create("resnet26_conv", pretrained, **arguments)


@register_model
def resnet38_conv(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build ResNet-38, the baseline."""
    return _create("resnet38_conv", pretrained, **arguments)


@register_model
def resnet50_conv(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build ResNet-50, the baseline."""
    return _create("resnet50_conv", pretrained, **arguments)


@register_model
def resnet26_sasa(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build ResNet-26 with local attention."""
    return _create("resnet26_sasa", pretrained, **arguments)


@register_model
def resnet38_sasa(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build ResNet-38 with local attention."""
    return _create("resnet38_sasa", pretrained, **arguments)


@register_model
def resnet50_sasa(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build ResNet-50 with local attention."""
    return _create("resnet50_sasa", pretrained, **arguments)


@register_model
def resnet26_acmix(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build ResNet-ACmix 26."""
    return _create("resnet26_acmix", pretrained, **arguments)


@register_model
def resnet38_acmix(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build ResNet-ACmix 38."""
    return _create("resnet38_acmix", pretrained, **arguments)


@register_model
def resnet50_acmix(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build ResNet-ACmix 50."""
    return _create("resnet50_acmix", pretrained, **arguments)
