"""A small backbone for small images, registered with timm."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


def block(channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


class Pebble(nn.Module):
    """Three 3×3 convolutions behind a stem. Images (B, in_chans, S, S) to logits (B, num_classes)."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, 16
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 8, 2, 2), nn.ReLU())
        self.blocks = nn.Sequential(block(8, 8, 1), block(8, 16, 2), block(16, 16, 1))
        self.fc = nn.Linear(self.num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(images)).mean(dim=(2, 3)))


default_cfgs = generate_default_cfgs({
    "pebble": {"url": "", "num_classes": 10, "input_size": (3, 16, 16), "first_conv": "stem.0", "classifier": "fc"},
})  # fmt: skip


@register_model
def pebble(pretrained: bool = False, **arguments: Any) -> nn.Module:
    return build_model_with_cfg(Pebble, "pebble", pretrained, **arguments)
