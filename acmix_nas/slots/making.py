"""What stands at a slot: the operator that a name asks for, made of parts, with the weights of what stands there at home."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from acmix_nas.operators import (
    ACmix,
    ConvolutionPath,
    Mixing,
    OnesConv2d,
    Operator,
    Output,
    Path,
    Projection,
    ReducedProjection,
    Stage1,
    attention_path,
)
from acmix_nas.slots.finding import KERNEL_SIZE, Slot
from acmix_nas.slots.names import OperatorName

__all__ = ["attention_at", "convolution_at", "make_operator", "norm_at", "projection_at", "put", "take_over"]


def projection_at(slot: Slot, maps: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Stage1:
    """Make Stage I of this slot, giving so many maps.

    Where a backbone's convolutions stand it has no bias, so that a convolution searched on it collapses exactly into a dense
    kernel; in a transformer it has one, as at home.
    """
    if not slot.linear:
        return ReducedProjection(slot.out_channels, slot.reduction, device=device, dtype=dtype)
    return Projection(slot.in_channels, maps * slot.head_dim, slot.block, device, dtype)


def attention_at(
    slot: Slot, name: OperatorName, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Make the attention path that an operator's name asks for at this slot."""
    settings = {**slot.offer, **name.settings}
    path = attention_path(str(name.kind), slot.out_channels, slot.heads, device=device, dtype=dtype, **settings)
    return Output(path, device, dtype) if slot.block else path


def convolution_at(slot: Slot, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ConvolutionPath:
    """Make the convolution path of this slot, on all maps of its Stage I; in a transformer its fc has a bias, as published."""
    form: dict[str, Any] = {"stride": slot.stride, "dilation": slot.dilation, "maps": len(slot.reads), "bias": slot.block}
    return ConvolutionPath(slot.out_channels, slot.heads, KERNEL_SIZE, **form, device=device, dtype=dtype)


def norm_at(slot: Slot, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> nn.BatchNorm2d:
    """Make the normalisation behind an operator.

    In a supernet it makes candidates comparable before they are weighted. It stays in the derived network, so that the
    network is the supernet with that choice made; where the backbone normalises next, it changes nothing but scale. In a block
    of a transformer nothing does, so there it has a scale and a bias, which all candidates share.
    """
    return nn.BatchNorm2d(slot.out_channels, affine=slot.block, device=device, dtype=dtype)


def make_operator(
    slot: Slot,
    operator: str,
    home: nn.Module | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Make what stands at a slot of a derived network: a plain convolution, or an operator and its normalisation.

    `conv` has a bias whether or not the backbone's had: the mean that its normalisation took away in the supernet goes there.
    A plain attention keeps of Stage I only what it reads.

    Args:
        home: what stands there in the backbone, whose weights are taken over where they have a place.
    """
    name = OperatorName.parse(operator)
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    if name.path is None:
        where: dict[str, Any] = {"stride": slot.stride, "padding": slot.dilation, "dilation": slot.dilation}
        kind = OnesConv2d if slot.block and slot.linear else nn.Conv2d
        conv = kind(slot.in_channels, slot.out_channels, KERNEL_SIZE, **where, **like)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        take_over(conv, home)
        return conv
    module: Operator | ACmix
    if name.mixed:
        parts = projection_at(slot, len(slot.reads), **like), attention_at(slot, name, **like), convolution_at(slot, **like)
        module = ACmix.of(*parts, Mixing(**like))
    else:
        maps = len(name.path.reads(slot.heads))
        module = Operator(projection_at(slot, maps, **like), attention_at(slot, name, **like))
    take_over(module, home)
    return nn.Sequential(OrderedDict(operator=module, norm=norm_at(slot, **like)))


@torch.no_grad()
def take_over(part: nn.Module | None, home: nn.Module | None) -> None:
    """Copy into a new operator, or a part of one, the weights of what stands at home, where both have the same."""
    if isinstance(part, Operator | ACmix) and isinstance(home, Operator | ACmix):
        pairs: list[tuple[nn.Module | None, nn.Module | None]]
        pairs = [(part.projection, home.projection), (part.attention, home.attention)]
        if isinstance(part, ACmix) and isinstance(home, ACmix):
            pairs += [(part.convolution, home.convolution), (part.mixing, home.mixing)]
        for mine, theirs in pairs:
            take_over(mine, theirs)
    elif part is not None and home is not None and type(part) is type(home):
        weights = home.state_dict()
        for key, value in part.state_dict().items():
            if key in weights and weights[key].shape == value.shape:
                value.copy_(weights[key])
            elif key not in weights and key.rpartition(".")[2] == "bias":
                value.zero_()  # as good as none


def put(backbone: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a module path."""
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, module)
