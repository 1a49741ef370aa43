"""Backbones as timm makes them: by name, as a pyramid of features, and their weights. Nothing here needs NNI."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import to_2tuple
from timm.models import PretrainedCfg
from torch import nn

from acmix_nas.slots.blocks import open_blocks
from acmix_nas.slots.finding import Heads, Slot, find_slots
from acmix_nas.slots.making import put
from acmix_nas.slots.names import DEFAULT_CANDIDATES
from acmix_nas.util.errors import UserError, did_you_mean, first_line, one_of
from acmix_nas.util.registry import is_foreign, load_group, origin_of

__all__ = [
    "as_features",
    "backbone_origin",
    "is_backbone",
    "load_weights",
    "make_backbone",
    "open_backbone",
    "open_slots",
    "pretrained_config",
]


def make_backbone(backbone: str | nn.Module, arguments: dict[str, Any] | None = None) -> nn.Module:
    """Make the backbone that timm has under this name, or a copy of the module.

    Raises:
        UserError: where timm has no such name, refuses the arguments, or cannot fetch the pretrained weights.
    """
    if isinstance(backbone, nn.Module):
        return copy.deepcopy(backbone)
    if not is_backbone(backbone):
        raise UserError(
            f"backbone must be a name that timm knows; got {backbone!r}{did_you_mean(backbone, timm.list_models())}"
        )
    pretrained_config(backbone)
    try:
        return timm.create_model(backbone, **(arguments or {}))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"backbone {backbone!r} does not get its pretrained weights: {first_line(error)}") from error
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"backbone {backbone!r} does not take these arguments: {first_line(error)}") from error


def open_slots(
    network: nn.Module,
    pattern: str | Sequence[str] = "*",
    heads: Heads = None,
    candidates: Sequence[str] = DEFAULT_CANDIDATES,
) -> list[Slot]:
    """Open the attention blocks of a network, in place, and return its slots. Arguments and errors: see `find_slots`."""
    open_blocks(network)
    return find_slots(network, pattern, heads, candidates)


def open_backbone(
    backbone: str | nn.Module,
    arguments: dict[str, Any] | None = None,
    pattern: str | Sequence[str] = "*",
    heads: Heads = None,
    candidates: Sequence[str] = DEFAULT_CANDIDATES,
) -> tuple[nn.Module, list[Slot]]:
    """Make a backbone and find its slots. Arguments and errors are those of `make_backbone` and `find_slots`."""
    network = make_backbone(backbone, arguments)
    return network, open_slots(network, pattern, heads, candidates)


def is_backbone(name: str) -> bool:
    """Return whether timm, with the networks of this package and of its plugins, has a model of this name."""
    load_group("acmix_nas.backbones")
    return timm.is_model(name.split(".")[0])


def backbone_origin(name: str | None) -> str | None:
    """Return the distribution that registered a backbone with timm; None where that is timm or this package, or nobody."""
    if name is None or not is_backbone(name):
        return None
    entry = timm.model_entrypoint(name)
    return origin_of(entry) if is_foreign(entry, "timm") else None


def pretrained_config(backbone: str) -> PretrainedCfg | None:
    """Return timm's description of the pretrained weights of a backbone, such as the size of their images.

    Raises:
        UserError: where the name ends in a tag, as in "resnet18.a1_in1k", that timm does not have.
    """
    load_group("acmix_nas.backbones")
    try:
        return timm.get_pretrained_cfg(backbone)
    except RuntimeError:
        name = backbone.partition(".")[0]
        raise one_of("backbone", backbone, timm.list_pretrained(f"{name}.*") or [name]) from None


def for_size(backbone: str, arguments: Mapping[str, Any], image_size: int | tuple[int, int]) -> dict[str, Any]:
    """Return the arguments for images of this side (or height, width).

    `img_size` is set where timm builds for one size, as Swin.
    """
    config = pretrained_config(backbone)
    flexible = {"dynamic_img_size", "strict_img_size"} & arguments.keys()
    if config is None or not config.fixed_input_size or flexible:
        return dict(arguments)
    size = to_2tuple(image_size)
    built_for = to_2tuple(arguments.get("img_size", config.input_size[1:]))
    return dict(arguments) if built_for == size else {**arguments, "img_size": size[0] if size[0] == size[1] else size}


def as_features(network: nn.Module, slots: list[Slot], backbone: str, arguments: dict[str, Any]) -> nn.Module:
    """Return a network as timm's `features_only` gives its backbone: a list of maps, with `feature_info`.

    The wrapper is timm's own for this backbone, so its families (lists, hooks, getters) need no rule here. It renames
    modules, from `a.b` to `a_b` or to `model.a.b`, and may drop what comes after the last map.

    Args:
        arguments: what timm's `create_model` takes with `features_only`, such as `out_indices`.
    """
    features = make_backbone(backbone, {**arguments, "features_only": True, "pretrained": False})
    open_blocks(features)
    here = {_flat(name): name for name, _ in features.named_modules()}
    for slot in slots:
        if _flat(slot.name) in here:
            put(features, here[_flat(slot.name)], copy.deepcopy(network.get_submodule(slot.name)))
    trained = {_flat(name): value for name, value in network.state_dict().items()}
    features.load_state_dict({name: trained[_flat(name)] for name in features.state_dict()})
    return features


def _flat(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a state dict.

    Raises:
        UserError: where there is none, or it belongs to another network; the message names the first key that does not fit.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"weights: no file {str(path)!r}") from None
    except Exception as error:  # torch.load raises whatever its unpickler does
        raise UserError(f"weights {str(path)!r} cannot be read: {type(error).__name__}; is it a state dict?") from None
    expected = network.state_dict()
    for key in [*expected, *state]:
        if key not in state or key not in expected:
            missing = "misses" if key not in state else "has the unknown"
            raise UserError(f"weights {str(path)!r} {missing} {key!r}; it belongs to another architecture")
        if state[key].shape != expected[key].shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            raise UserError(f"weights {str(path)!r}: {key!r} is {shapes}; were num_classes others?")
    network.load_state_dict(state)
