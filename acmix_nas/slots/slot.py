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

from acmix_nas.operators import (
    ATTENTIONS,
    ACmix,
    ConvolutionPath,
    Mixing,
    OnesConv2d,
    Operator,
    Output,
    Path,
    Projection,
    ReducedProjection,
    RelativeBias,
    Stage1,
    WindowPath,
    attention_path,
)
from acmix_nas.util.errors import UserError

__all__ = [
    "DEFAULT_CANDIDATES",
    "Heads",
    "OperatorName",
    "Slot",
    "check_candidates",
    "find_slots",
    "make_operator",
    "places",
    "put",
]

HOME = "home"
"""Among candidates: the attention that a slot has at home, `local` where it has none."""
DEFAULT_CANDIDATES = ("conv", HOME, f"acmix_{HOME}")
DEFAULT_HEADS = 4
KERNEL_SIZE = 3

Heads = int | Mapping[str, int] | None
"""Heads of the slots: a number, globs of slot names with numbers, or None: those at home, or as the channels allow."""


@dataclass(frozen=True)
class OperatorName:
    """A name such as `conv`, `local`, `local_k3`, `global_r2` or `acmix_window`, taken apart.

    Attributes:
        text: the name as it stands.
        attention: the name of its attention, without `acmix_`; None for `conv`.
        kind: "local", "window", "global" or "patchwise"; None for `conv`.
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


def check_candidates(candidates: Sequence[str], home: str = "local") -> tuple[str, ...]:
    """The candidates, with the name of the attention at home put in.

    Raises:
        UserError: for an unknown operator, one named twice, or none at all.
    """
    if isinstance(candidates, str):
        raise UserError(f"candidates must be a list of operators, as in ['conv', 'local']; got the text {candidates!r}")
    named = {HOME: home, f"acmix_{HOME}": f"acmix_{home}"}
    names = [named.get(name, name) for name in candidates]
    for name in names:
        OperatorName.parse(name)
    if not names:
        raise UserError("candidates must name at least one operator; got none")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"candidates must differ; got {', '.join(sorted(twice))} twice")
    return tuple(names)


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
    def depth(self) -> int:
        """D, the channels of one head and of one map."""
        return self.out_channels // self.heads

    @property
    def maps(self) -> int:
        """How many maps Stage I gives: 3N, or 2 + N where every attention is patchwise and reads no others (appendix C).

        PVT's Stage I always gives 3N.
        """
        kinds = {OperatorName.parse(name).kind for name in self.candidates} - {None}
        return 2 + self.heads if self.linear and kinds == {"patchwise"} else 3 * self.heads

    @property
    def linear(self) -> bool:
        """Whether Stage I is linear in its input, so that a convolution on it is one."""
        return self.reduction == 1


def find_slots(
    backbone: nn.Module,
    pattern: str | Sequence[str] = "*",
    heads: Heads = None,
    candidates: Sequence[str] = DEFAULT_CANDIDATES,
) -> list[Slot]:
    """Every slot of a backbone whose module path matches the glob, or one of several, in order.

    Slots are the dense 3×3 convolutions and the attentions and ACmix of this package, which `open_blocks` puts into timm's
    transformers. Dense means one group, the padding of a same-sized output, and nn.Conv2d itself: a subclass that does
    something of its own with its weight stays as it is.

    Args:
        heads: a number for all slots; or globs of slot names with numbers (the first that matches counts); or None for those
            of the attention at home, or else the largest divisor of the channels up to 4.
        candidates: operators, where "home" is the attention that stands there, or `local` in the place of a convolution.

    Raises:
        UserError: where nothing matches, or heads do not divide the channels of a slot, which it names.
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
    if not chosen:
        few = ", ".join(list(found)[:3])
        raise UserError(f"slots {' '.join(patterns)!r} match none of the {len(found)} there are ({few}, …); change the glob")
    return [_slot(name, found[name], heads, candidates, bool(i % 2)) for i, name in enumerate(chosen)]


def places(backbone: nn.Module) -> dict[str, nn.Module]:
    """Module path → what stands at every place that could be a slot."""
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
    path = home.path if isinstance(home, Operator) else home.attention or home.convolution
    assert path is not None
    inner = path.path if isinstance(path, Output) else path
    stage1 = home.projection
    reduction = stage1.reduction if isinstance(stage1, ReducedProjection) else 1
    convolves = isinstance(inner, ConvolutionPath)
    at_home = "local" if convolves else inner.name
    encoding = getattr(inner, "position", None)
    position = "table" if isinstance(encoding, RelativeBias) else "linear" if encoding is not None or convolves else "none"
    if reduction > 1:
        at_home = "global"  # with this reduction where nothing else is said
    return Slot(
        name,
        stage1.qkv.in_channels if isinstance(stage1, Projection) else path.channels,
        path.channels,
        _heads_at(name, path.channels, heads) or path.heads,
        path.stride,
        getattr(inner, "dilation", 1),
        getattr(inner, "shift", second) if isinstance(inner, WindowPath) else second,
        check_candidates(candidates, at_home),
        isinstance(path, Output),
        position,
        reduction,
    )


def _heads_at(name: str, channels: int, heads: Heads) -> int | None:
    """What the user said of this slot's heads."""
    if heads is not None and not isinstance(heads, int | Mapping):
        raise UserError(f"heads must be a number, globs with numbers, or None; got heads={heads!r}")
    if isinstance(heads, Mapping):
        number = next((n for glob, n in heads.items() if fnmatchcase(name, glob)), None)
    else:
        number = heads
    if number is not None and (number < 1 or channels % number):
        raise UserError(f"slot {name!r} has {channels} channels, which heads={number} do not divide; choose other heads for it")
    return number


def projection_at(slot: Slot, maps: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Stage1:
    """Stage I of this slot, giving so many maps.

    Where a backbone's convolutions stand it has no bias, so that a convolution searched on it collapses exactly into a dense
    kernel; in a transformer it has one, as at home.
    """
    if not slot.linear:
        return ReducedProjection(slot.out_channels, slot.reduction, device=device, dtype=dtype)
    return Projection(slot.in_channels, maps * slot.depth, slot.block, device, dtype)


def attention_at(
    slot: Slot, name: OperatorName, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Path:
    """The attention path that an operator's name asks for at this slot."""
    settings: dict[str, Any] = {
        "stride": slot.stride, "dilation": slot.dilation, "shift": slot.shift, "position": slot.position,
        "reduction": slot.reduction, **name.settings,
    }  # fmt: skip
    path = attention_path(str(name.kind), slot.out_channels, slot.heads, device=device, dtype=dtype, **settings)
    return Output(path, device, dtype) if slot.block else path


def convolution_at(slot: Slot, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ConvolutionPath:
    """The convolution path of this slot, on all maps of its Stage I; in a transformer its fc has a bias, as published."""
    form: dict[str, Any] = {"stride": slot.stride, "dilation": slot.dilation, "maps": slot.maps, "bias": slot.block}
    return ConvolutionPath(slot.out_channels, slot.heads, KERNEL_SIZE, **form, device=device, dtype=dtype)


def norm_at(slot: Slot, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> nn.BatchNorm2d:
    """The normalisation behind an operator.

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
    """What stands at a slot of a derived network: a plain convolution, or an operator and its normalisation.

    `conv` has a bias whether or not the backbone's had: the mean that its normalisation took away in the supernet goes there.
    Plain patchwise attention keeps of Stage I only what it reads.

    Args:
        home: what stands there in the backbone, whose weights are taken over where they have a place.
    """
    name = OperatorName.parse(operator)
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    if name.kind is None:
        where: dict[str, Any] = {"stride": slot.stride, "padding": slot.dilation, "dilation": slot.dilation}
        kind = OnesConv2d if slot.block and slot.linear else nn.Conv2d
        conv = kind(slot.in_channels, slot.out_channels, KERNEL_SIZE, **where, **like)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        take_over(conv, home)
        return conv
    module: Operator | ACmix
    if name.mixed:
        parts = projection_at(slot, slot.maps, **like), attention_at(slot, name, **like), convolution_at(slot, **like)
        module = ACmix.of(*parts, Mixing(**like))
    else:
        maps = 2 + slot.heads if name.kind == "patchwise" else slot.maps
        module = Operator(projection_at(slot, maps, **like), attention_at(slot, name, **like))
    take_over(module, home)
    return nn.Sequential(OrderedDict(operator=module, norm=norm_at(slot, **like)))


@torch.no_grad()
def take_over(part: nn.Module | None, home: nn.Module | None) -> None:
    """Copy into a new operator, or a part of one, the weights of what stands at home, where both have the same."""
    if isinstance(part, Operator | ACmix) and isinstance(home, Operator | ACmix):
        pairs: list[tuple[nn.Module | None, nn.Module | None]]
        pairs = [(part.projection, home.projection), (_attention(part), _attention(home))]
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


def _attention(operator: Operator | ACmix) -> nn.Module | None:
    return operator.path if isinstance(operator, Operator) else operator.attention


def put(backbone: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a module path."""
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, module)
