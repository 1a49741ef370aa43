"""The network of the `cued` space: four residual blocks, each with one slot, for 20×20 images."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["CuedNet"]


class CuedBlock(nn.Module):
    """x + BN(1×1(ReLU(BN(slot(x))))), then ReLU; the slot holds a 3×3 convolution until something else is put there."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slot = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.proj = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(x + self.norm2(self.proj(self.relu(self.norm1(self.slot(x))))))
        return out


class CuedNet(nn.Module):
    """One block of 16 channels on the map at half the images' side, three of 32 channels at a quarter.

    Images (B, in_chans, S, S) to logits (B, num_classes). The slots are `blocks.0.slot` to `blocks.3.slot`.
    """

    def __init__(self, num_classes: int = 5, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, 32
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.down = nn.Sequential(nn.Conv2d(16, 32, 2, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList([CuedBlock(16), CuedBlock(32), CuedBlock(32), CuedBlock(32)])
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Return the last layer, under timm's word for it."""
        return self.fc

    def forward(self, images: Tensor) -> Tensor:
        x = self.down(self.blocks[0](self.stem(images)))
        for block in self.blocks[1:]:
            x = block(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


default_cfgs = generate_default_cfgs({
    "cued_net": {
        "url": "", "num_classes": 5, "input_size": (3, 20, 20), "pool_size": (5, 5), "crop_pct": 1.0,
        "first_conv": "stem.0", "classifier": "fc",
    },
})  # fmt: skip


@register_model
def cued_net(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Build the network of the `cued` space."""
    return build_model_with_cfg(CuedNet, "cued_net", pretrained, **arguments)
