"""Slots: where in a backbone a choice is made. Nothing here needs NNI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from acmix_nas.operators import ACmix, Operator, Output, Projection, ReducedProjection
from acmix_nas.slots.names import AT_CONVOLUTIONS, DEFAULT_CANDIDATES, OperatorName, check_candidates
from acmix_nas.util.errors import UserError

__all__ = ["KERNEL_SIZE", "Heads", "Slot", "find_slots", "places"]

DEFAULT_HEADS = 4
KERNEL_SIZE = 3

Heads = int | Mapping[str, int] | None
"""Heads of the slots: a number, globs of slot names with numbers, or None: those at home, or as the channels allow."""


@dataclass(frozen=True)
class Slot:
    """A place for an operator: a dense 3×3 convolution of a backbone, or an attention.

    Attributes:
        name: its module path, such as `layer2.0.conv2` or `layers.0.blocks.1.attn`.
        heads: N of every operator that may stand there.
        shift: whether window attention moves its grid here; every second slot does, or those whose attention at home does.
        candidates: the operators to choose from.
        block: whether it is the attention block of a transformer. There Stage I has a bias, an attention has an output
            projection behind it, and the normalisation is affine, since nothing normalises after it.
        position: of local and window attention.
        reduction: R of global attention where its name gives none; above 1, Stage I is that of PVT.
    """

    name: str
    in_channels: int
    out_channels: int
    heads: int
    stride: int = 1
    dilation: int = 1
    shift: bool = False
    candidates: tuple[str, ...] = check_candidates(DEFAULT_CANDIDATES)
    block: bool = False
    position: str = "linear"
    reduction: int = 1

    @property
    def head_dim(self) -> int:
        """Return D, the channels of one head and of one map."""
        return self.out_channels // self.heads

    @property
    def reads(self) -> tuple[int, ...]:
        """Return which of the 3N maps Stage I gives: all, or those that every attention reads where they agree (`Path.reads`).

        PVT's Stage I always gives all.
        """
        paths = [OperatorName.parse(name).path for name in self.candidates]
        read = {path.reads(self.heads) for path in paths if path is not None}
        return read.pop() if self.linear and len(read) == 1 else tuple(range(3 * self.heads))

    @property
    def offer(self) -> dict[str, Any]:
        """Return what it offers to an attention. See `Path.make`."""
        return {name: getattr(self, name) for name in ("stride", "dilation", "shift", "position", "reduction")}

    @property
    def linear(self) -> bool:
        """Return whether Stage I is linear in its input, so that a convolution on it is one."""
        return self.reduction == 1


def find_slots(
    backbone: nn.Module,
    pattern: str | Sequence[str] = "*",
    heads: Heads = None,
    candidates: Sequence[str] = DEFAULT_CANDIDATES,
) -> list[Slot]:
    """Return every slot of a backbone whose module path matches the glob, or one of several, in order.

    Slots are the dense 3×3 convolutions and the attentions and ACmix of this package, which `open_blocks` puts into timm's
    transformers. Dense means one group, the padding of a same-sized output, and nn.Conv2d itself: a subclass that does
    something of its own with its weight stays as it is.

    Args:
        heads: a number for all slots; or globs of slot names with numbers (the first that matches counts); or None for those
            of the attention at home, or else the largest divisor of the channels up to 4.
        candidates: operators, where "home" is the attention that stands there, or `local` in the place of a convolution.

    Raises:
        UserError: where nothing matches, a slot shares a weight with another module, or heads do not divide the channels of a
            slot, which it names.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    check_candidates(candidates)
    found = places(backbone)
    if not found:
        raise UserError(
            f"backbone {type(backbone).__name__} has no dense 3×3 convolution and no attention that works on a map; choose one "
            "that has (a ViT needs class_token=False and global_pool='avg')"
        )
    chosen = [name for name in found if any(fnmatchcase(name, glob) for glob in patterns)]
    names: dict[nn.Module, str] = {}
    for name, module in backbone.named_modules(remove_duplicate=False):
        if names.setdefault(module, name) != name and names[module] in chosen:
            raise UserError(f"slot {names[module]!r} is the same module as {name!r}; leave it out with another glob")
    owners: dict[nn.Parameter, list[str]] = {}
    for name, parameter in backbone.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter, []).append(name)
    for shared in (names for names in owners.values() if len(set(names)) > 1):
        if slot := next((slot for slot in chosen for name in shared if name.startswith(f"{slot}.")), None):
            raise UserError(f"slot {slot!r} shares a weight: {' and '.join(shared)} are one; leave it out with another glob")
    if not chosen:
        few = ", ".join(list(found)[:3])
        raise UserError(f"slots {' '.join(patterns)!r} match none of the {len(found)} there are ({few}, …); change the glob")
    return [_slot(name, found[name], heads, candidates, bool(i % 2)) for i, name in enumerate(chosen)]


def places(backbone: nn.Module) -> dict[str, nn.Module]:
    """Return module path → what stands at every place that could be a slot."""
    found: dict[str, nn.Module] = {}
    inside = None  # named_modules walks depth first: what is in an operator follows at once
    for name, module in backbone.named_modules():
        if inside is not None and name.startswith(inside):
            continue
        if isinstance(module, Operator | ACmix) or _is_dense(module):
            found[name] = module
            inside = f"{name}."
    return found


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


def _slot(name: str, home: nn.Module, heads: Heads, candidates: Sequence[str], second: bool) -> Slot:
    if isinstance(home, nn.Conv2d):
        number = _heads_at(name, home.out_channels, heads)
        if number is None:
            number = max(n for n in range(1, DEFAULT_HEADS + 1) if home.out_channels % n == 0)
        return Slot(
            name, home.in_channels, home.out_channels, number, home.stride[0], home.dilation[0], second,
            check_candidates(candidates),
        )  # fmt: skip
    assert isinstance(home, Operator | ACmix)
    path = home.attention or home.convolution
    assert path is not None
    stage1 = home.projection
    reduction = stage1.reduction if isinstance(stage1, ReducedProjection) else 1
    standing = {"shift": second, **path.standing}
    return Slot(
        name,
        stage1.qkv.in_channels if isinstance(stage1, Projection) else path.channels,
        path.channels,
        _heads_at(name, path.channels, heads) or path.heads,
        path.stride,
        standing["dilation"],
        standing["shift"],
        check_candidates(candidates, AT_CONVOLUTIONS if home.attention is None else path.named(reduction=reduction)),
        isinstance(path, Output),
        standing["position"],
        reduction,
    )


def _heads_at(name: str, channels: int, heads: Heads) -> int | None:
    """Return what the user said of this slot's heads."""
    if heads is not None and not isinstance(heads, int | Mapping):
        raise UserError(f"heads must be a number, globs with numbers, or None; got heads={heads!r}")
    if isinstance(heads, Mapping):
        number = next((n for glob, n in heads.items() if fnmatchcase(name, glob)), None)
    else:
        number = heads
    if number is not None and (number < 1 or channels % number):
        raise UserError(f"slot {name!r} has {channels} channels, which heads={number} do not divide; choose other heads for it")
    return number
