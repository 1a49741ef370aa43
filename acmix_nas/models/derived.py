"""What a search has found, in timm's registry: `timm.create_model("acmix_nas", architecture="architecture.json")`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.models import register_model
from torch import nn

from acmix_nas.architecture import Architecture, build, skeleton
from acmix_nas.slots.backbones import as_features
from acmix_nas.util.errors import UserError

FEATURE_ARGUMENTS = ("features_only", "out_indices", "feature_cls", "output_fmt")


@register_model
def acmix_nas(pretrained: bool = False, architecture: str | Path | Architecture | None = None, **arguments: Any) -> nn.Module:
    """Build a derived network for timm: `timm.create_model("acmix_nas", architecture="architecture.json", features_only=…)`.

    Args:
        pretrained: whether the backbone starts from timm's weights, where it keeps convolutions.
        architecture: the file; required.
        arguments: `weights` (a state dict), `num_classes`, `features_only`, `out_indices` and what else timm takes.

    Raises:
        UserError: as `build` does.
    """
    if architecture is None:
        raise UserError("architecture must be given: timm.create_model('acmix_nas', architecture='architecture.json')")
    if not isinstance(architecture, Architecture):
        architecture = Architecture.load(architecture)
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        arguments.pop(name, None)  # timm passes them on to every entry; they belong to published weights
    of_features = {name: arguments.pop(name) for name in FEATURE_ARGUMENTS if name in arguments}
    network = build(architecture, pretrained=pretrained, **arguments)
    if not of_features.pop("features_only", False):
        return network
    if architecture.backbone is None:
        raise UserError("features_only needs a backbone of timm's; this architecture was searched on a module of its own")
    slots = skeleton(architecture, pretrained=False)[1]
    of_backbone = {name: value for name, value in arguments.items() if name not in ("weights", "num_classes", "backbone")}
    return as_features(network, slots, architecture.backbone, {**architecture.backbone_args, **of_backbone, **of_features})
