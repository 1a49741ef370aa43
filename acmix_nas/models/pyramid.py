"""What SAN and PVT share: a stem, stages whose maps shrink, a normalisation, a classifier, and all that timm asks of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead, get_device_dtype
from timm.models import build_model_with_cfg, checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from acmix_nas.util.errors import UserError, one_of

__all__ = ["Pyramid", "Stage", "config", "create", "one_per_stage"]


class Stage(nn.Module):
    """A stage of a pyramid. Its forward calls `run_blocks`, which computes them again in the backward where that is asked for.

    Shapes: (B, in_channels, H, W) → (B, channels, ⌈H/s⌉, ⌈W/s⌉).
    """

    blocks: nn.Sequential
    grad_checkpointing = False

    def run_blocks(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        return out


class Pyramid(nn.Module):
    """A network of stages with timm's contract.

    A subclass makes the modules, in their order: its stem, the stages under `stages_name`, `norm` and `head`.

    Shapes: (B, in_chans, H, W) → (B, num_classes).

    Args:
        channels: C of each stage's map.
        reductions: of each stage's map, the side of the image over that of the map.
        num_classes: 0 for none.
        global_pool: of timm's heads, "avg" or "" for none.
    """

    stages_name: ClassVar[str] = "stages"
    norm: nn.Module
    head: ClassifierHead

    def __init__(
        self, channels: Sequence[int], reductions: Sequence[int], num_classes: int, in_chans: int, global_pool: str
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = channels[-1]
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": reduction, "module": f"{self.stages_name}.{number}"}
            for number, (width, reduction) in enumerate(zip(channels, reductions, strict=True))
        ]

    @property
    def _stages(self) -> nn.Sequential:
        stages: nn.Sequential = getattr(self, self.stages_name)
        return stages

    def _stem(self, x: Tensor) -> Tensor:
        """Run what comes before the first stage: here nothing."""
        return x

    def no_weight_decay(self) -> set[str]:
        """Return no names.

        α, β, biases and normalisations are vectors or less, which timm's optimizers leave alone by themselves.
        """
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Set whether the backward computes each block again instead of keeping what it needs of it."""
        for module in self.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a new classifier, and another pooling if one is named."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.head.reset(num_classes, global_pool, in_features=self.num_features, **get_device_dtype(self))
        self.head_hidden_size = self.num_features

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps of stages, after (B, C, H, W) of the last one, normalised, unless only they are asked for.

        Args:
            x: (B, in_chans, H, W).
            indices: which stages: the last so many, these, or all.
            norm: whether the last stage's map is normalised by `norm`, which no other map is.
            stop_early: whether the stages after the last one that is asked for are left out.
            output_fmt: "NCHW".

        Raises:
            UserError: for another format.
        """
        if output_fmt != "NCHW":
            raise one_of("output_fmt", output_fmt, ("NCHW",))
        stages = self._stages
        taken, last = feature_take_indices(len(stages), indices)
        maps = []
        x = self._stem(x)
        for number, stage in enumerate(stages[: last + 1] if stop_early else stages):
            x = stage(x)
            normalised = self.norm(x) if number == len(stages) - 1 else x
            if number in taken:
                maps.append(normalised if norm else x)
            x = normalised
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last of `indices`, and with them the last normalisation and the classifier.

        Returns:
            the indices, counted from the first stage.
        """
        stages = self._stages
        taken, last = feature_take_indices(len(stages), indices)
        shorter = last < len(stages) - 1
        del stages[last + 1 :]
        self.num_features = self.feature_info[last]["num_chs"]
        if prune_norm or shorter:
            self.norm = nn.Identity()
        if prune_head or shorter:
            self.reset_classifier(0, "")
        return taken

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (B, in_chans, H, W) to (B, C, ⌈H/r⌉, ⌈W/r⌉), the last stage's map, normalised. r is its reduction."""
        maps: Tensor = self.norm(self._stages(self._stem(x)))
        return maps

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map (B, C, H, W) to (B, num_classes), or to the classifier's input, (B, C)."""
        out: Tensor = self.head(x, pre_logits=pre_logits)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def one_per_stage(depths: str, stages: int, **sizes: Sequence[float]) -> None:
    """Check that every argument has a number for every stage.

    Args:
        depths: the argument that has a number of blocks for each of the `stages`, for the message.

    Raises:
        UserError: where one has more or fewer.
    """
    for name, given in sizes.items():
        if len(given) != stages:
            raise UserError(f"{name} must have one number for each of the {stages} stages of {depths}; got {list(given)}")


def config(first_conv: str, crop_pct: float, interpolation: str) -> dict[str, Any]:
    """Return timm's config of a network that is trained on ImageNet at 224×224, without weights."""
    return {
        "url": "", "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": crop_pct,
        "interpolation": interpolation, "fixed_input_size": False, "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
        "first_conv": first_conv, "classifier": "head.fc", "license": "apache-2.0",
    }  # fmt: skip


def create(network: type[Pyramid], variant: str, pretrained: bool, stages: int, **arguments: Any) -> nn.Module:
    """Build the network with timm.

    With `features_only` it gives the maps of all `stages`, unless `out_indices` names some.
    """
    feature_cfg = {"out_indices": arguments.pop("out_indices", tuple(range(stages))), "feature_cls": "getter"}
    return build_model_with_cfg(network, variant, pretrained, feature_cfg=feature_cfg, **arguments)
