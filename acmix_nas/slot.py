"""Slots: where in a backbone a choice is made, and what may stand there. Nothing here needs NNI."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from acmix_nas.errors import UserError
from acmix_nas.operators import ATTENTIONS, ACmix, Operator, Path, Projection, attention_path

__all__ = [
    "DEFAULT_CANDIDATES",
    "Heads",
    "OperatorName",
    "Slot",
    "check_candidates",
    "find_slots",
    "make_operator",
    "put",
]

DEFAULT_CANDIDATES = ("conv", "local", "acmix_local")
DEFAULT_HEADS = 4
KERNEL_SIZE = 3

Heads = int | Mapping[str, int] | None
"""Heads of the slots: a number, globs of slot names with numbers, or None, which adapts to the channels."""


@dataclass(frozen=True)
class OperatorName:
    """A name such as `conv`, `local`, `local_k3`, `global_r2` or `acmix_window`, taken apart.

    Attributes:
        text: the name as it stands.
        attention: the name of its attention, without `acmix_`; None for `conv`.
        kind: "local", "window" or "global"; None for `conv`.
        mixed: whether it is an ACmix.
        settings: what the name says about the attention, {"window": 3} or {"reduction": 2}.
    """

    text: str
    attention: str | None
    kind: str | None
    mixed: bool
    settings: Mapping[str, int]

    @classmethod
    def parse(cls, text: str) -> OperatorName:
        """Take a name apart.

        Raises:
            UserError: where it names no operator.
        """
        if text == "conv":
            return cls(text, None, None, False, {})
        match = re.fullmatch(rf"(acmix_)?(({'|'.join(ATTENTIONS)})(?:_(?:k(\d+)|r(\d+)))?)", text)
        if match:
            mixed, attention, kind, window, reduction = match.groups()
            if (kind == "global" and window is None) or (kind != "global" and reduction is None):
                settings = {"window": int(window)} if window else {"reduction": int(reduction)} if reduction else {}
                return cls(text, attention, kind, mixed is not None, settings)
        raise UserError(
            f"operator must be conv, {', '.join(ATTENTIONS)}, one of these attentions after acmix_, "
            f"or with a window or reduction as in local_k3, global_r2; got {text!r}"
        )


def check_candidates(candidates: Sequence[str]) -> tuple[str, ...]:
    """The candidates as a tuple.

    Raises:
        UserError: for an unknown operator, one named twice, or none at all.
    """
    if isinstance(candidates, str):
        raise UserError(f"candidates must be a list of operators, as in ['conv', 'local']; got the text {candidates!r}")
    for name in candidates:
        OperatorName.parse(name)
    if not candidates:
        raise UserError("candidates must name at least one operator; got none")
    twice = {name for name in candidates if list(candidates).count(name) > 1}
    if twice:
        raise UserError(f"candidates must differ; got {', '.join(sorted(twice))} twice")
    return tuple(candidates)


@dataclass(frozen=True)
class Slot:
    """A dense 3×3 convolution of a backbone, as a place for an operator.

    Attributes:
        name: its module path, such as `layer2.0.conv2`.
        heads: N of every operator that may stand there.
        shift: whether window attention moves its grid here; every second slot does.
    """

    name: str
    in_channels: int
    out_channels: int
    heads: int
    stride: int = 1
    dilation: int = 1
    shift: bool = False


def find_slots(backbone: nn.Module, pattern: str | Sequence[str] = "*", heads: Heads = None) -> list[Slot]:
    """Every dense 3×3 convolution of a backbone whose module path matches the glob, or one of several, in order.

    Dense means one group, the padding of a same-sized output, and nn.Conv2d itself: a subclass that does something of
    its own with its weight stays as it is.

    Args:
        heads: a number for all slots; or globs of slot names with numbers (the first that matches counts); or None for
            the largest divisor of the channels up to 4.

    Raises:
        UserError: where nothing matches, or heads do not divide the channels of a slot, which it names.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    dense = {name: module for name, module in backbone.named_modules() if _is_dense(module)}
    if not dense:
        raise UserError(f"backbone {type(backbone).__name__} has no dense 3×3 convolution; choose one that has")
    chosen = [name for name in dense if any(fnmatchcase(name, glob) for glob in patterns)]
    names: dict[nn.Module, str] = {}
    for name, module in backbone.named_modules(remove_duplicate=False):
        if names.setdefault(module, name) != name and names[module] in chosen:
            raise UserError(f"slot {names[module]!r} is the same module as {name!r}; leave it out with another glob")
    if not chosen:
        few = ", ".join(list(dense)[:3])
        raise UserError(
            f"slots {' '.join(patterns)!r} match none of the {len(dense)} dense 3×3 convolutions ({few}, …); change the glob"
        )
    return [_slot(name, dense[name], _heads_at(name, dense[name], heads), bool(i % 2)) for i, name in enumerate(chosen)]


def _is_dense(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (KERNEL_SIZE, KERNEL_SIZE)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and module.stride[0] == module.stride[1]
        and module.dilation[0] == module.dilation[1]
        and module.padding in (module.dilation, "same")
    )


def _heads_at(name: str, conv: nn.Conv2d, heads: Heads) -> int:
    channels = conv.out_channels
    if heads is not None and not isinstance(heads, int | Mapping):
        raise UserError(f"heads must be a number, globs with numbers, or None; got heads={heads!r}")
    if isinstance(heads, Mapping):
        number = next((n for glob, n in heads.items() if fnmatchcase(name, glob)), None)
    else:
        number = heads
    if number is None:
        return max(n for n in range(1, DEFAULT_HEADS + 1) if channels % n == 0)
    if number < 1 or channels % number:
        raise UserError(f"slot {name!r} has {channels} channels, which heads={number} do not divide; choose other heads for it")
    return number


def _slot(name: str, conv: nn.Conv2d, heads: int, shift: bool) -> Slot:
    return Slot(name, conv.in_channels, conv.out_channels, heads, conv.stride[0], conv.dilation[0], shift)


def attention_at(
    slot: Slot, name: OperatorName, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Path:
    """The attention path that an operator's name asks for at this slot."""
    settings: dict[str, Any] = {"stride": slot.stride, "dilation": slot.dilation, "shift": slot.shift, **name.settings}
    return attention_path(str(name.kind), slot.out_channels, slot.heads, device=device, dtype=dtype, **settings)


def norm_at(slot: Slot, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> nn.BatchNorm2d:
    """The affine-free normalisation behind an operator.

    In a supernet it makes candidates comparable before they are weighted. It stays in the derived network, so that the
    network is the supernet with that choice made; where the backbone normalises next, it changes nothing but scale.
    """
    return nn.BatchNorm2d(slot.out_channels, affine=False, device=device, dtype=dtype)


def make_operator(
    slot: Slot,
    operator: str,
    dense: nn.Conv2d | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """What stands at a slot of a derived network: a plain convolution, or an operator and its normalisation.

    Stage I has no bias, so that a convolution searched on it collapses exactly into the dense kernel. `conv` has one whether
    or not the backbone's had: the mean that its normalisation took away in the supernet goes there.

    Args:
        dense: the backbone's own convolution, whose weight `conv` starts from.
    """
    name = OperatorName.parse(operator)
    size: dict[str, Any] = {"in_channels": slot.in_channels, "out_channels": slot.out_channels}
    if name.kind is None:
        where: dict[str, Any] = {"stride": slot.stride, "padding": slot.dilation, "dilation": slot.dilation}
        conv = nn.Conv2d(**size, kernel_size=KERNEL_SIZE, **where, device=device, dtype=dtype)
        assert conv.bias is not None
        if dense is not None:
            conv.weight.data.copy_(dense.weight.data)
        nn.init.zeros_(conv.bias) if dense is None or dense.bias is None else conv.bias.data.copy_(dense.bias.data)
        return conv
    if name.mixed:
        settings: dict[str, Any] = {"stride": slot.stride, "dilation": slot.dilation, "shift": slot.shift, **name.settings}
        module: nn.Module = ACmix(
            **size, heads=slot.heads, attention=name.kind, bias=False, device=device, dtype=dtype, **settings
        )
    else:
        projection = Projection(slot.in_channels, slot.out_channels, bias=False, device=device, dtype=dtype)
        module = Operator(projection, attention_at(slot, name, device, dtype))
    return nn.Sequential(OrderedDict(operator=module, norm=norm_at(slot, device, dtype)))


def put(backbone: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a module path."""
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, module)
