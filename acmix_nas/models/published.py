"""The weights that the authors of the paper published, in the networks of this package."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from acmix_nas.models.resnet import OperatorResNet
from acmix_nas.models.swin import ACmixSwin
from acmix_nas.operators import ACmix
from acmix_nas.util.errors import UserError

__all__ = ["load_published"]

Part = tuple[str, Callable[[Tensor], Tensor]]
"""A parameter of this package, and what makes its value of the published one."""


def same(value: Tensor) -> Tensor:
    return value


def as_kernel(value: Tensor) -> Tensor:
    """Return a linear layer's weight as that of a 1×1 convolution."""
    return value[:, :, None, None]


def without_kernel(value: Tensor) -> Tensor:
    """Return the weight of a 1×1 convolution as that of a linear layer."""
    return value.squeeze((2, 3))


def scalar(value: Tensor) -> Tensor:
    return value.reshape(())


# Within an operator, what both layouts share.
COMMON: dict[str, Part] = {
    "fc.weight": ("convolution.fc", without_kernel),
    "dep_conv.weight": ("convolution.shift", same),
    "rate1": ("mixing.alpha", scalar),
    "rate2": ("mixing.beta", scalar),
}
SWIN: dict[str, Part] = {
    **COMMON,
    "qkv.weight": ("projection.qkv.weight", as_kernel),
    "qkv.bias": ("projection.qkv.bias", same),
    "relative_position_bias_table": ("attention.path.position.table", same),
    "proj.weight": ("attention.proj.weight", as_kernel),
    "proj.bias": ("attention.proj.bias", same),
    "fc.bias": ("convolution.bias", same),
}
RESNET: dict[str, Part] = {
    **COMMON,
    "conv_p.weight": ("attention.position.linear.weight", without_kernel),
    "conv_p.bias": ("attention.position.linear.bias", same),
}
UNKNOWN: Part = ("", same)  # no parameter ends like this
# conv1, conv2 and conv3 of the published ResNet are the rows of one projection.
ROWS = {"conv1": 0, "conv2": 1, "conv3": 2}


def load_published(model: nn.Module, path: str | Path) -> nn.Module:
    """Read a checkpoint of the authors' code: Swin-ACmix (T, S) or ResNet-ACmix.

    Args:
        model: `swin_*_acmix` or `resnet*_acmix` of timm's registry, with as many classes as the checkpoint.
        path: a state dict, alone or under the key "model" or "state_dict", with or without DataParallel's "module." in front.

    Returns:
        The model, whose weights are now those of the file.

    Raises:
        UserError: where the file cannot be read, or a key is unknown, missing, or of another shape; the message names the
            first such key. The model is then as it was.
    """
    if not isinstance(model, ACmixSwin | OperatorResNet) or not any(isinstance(m, ACmix) for m in model.modules()):
        raise UserError(f"model must be a swin_*_acmix or a resnet*_acmix; got {type(model).__name__}")
    published = _read(Path(path))
    rename = _of_swin if isinstance(model, ACmixSwin) else _of_resnet
    expected = model.state_dict()
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for key, value in published.items():
        name, make, row = rename(key)
        if name is None:
            continue
        if name not in expected:
            raise UserError(
                f"path {str(path)!r}: {key!r} is no key of a published {type(model).__name__}; is it its checkpoint?"
            )
        shape = list(expected[name].shape)
        if row is not None:
            shape[0] //= len(ROWS)
        try:
            made = make(value)
        except (RuntimeError, IndexError):  # not even as many axes
            made = None
        if made is None or list(made.shape) != shape:
            raise UserError(
                f"path {str(path)!r}: {key!r} has the shape {tuple(value.shape)}, which does not fit {name!r} of {tuple(shape)}"
            )
        if row is None:
            found[name] = made
        else:
            parts.setdefault(name, {})[row] = made
    for name, rows in parts.items():
        if len(rows) == len(ROWS):
            found[name] = torch.cat([rows[row] for row in sorted(rows)])
    missing = next((name for name in expected if name not in found), None)
    if missing is not None:
        raise UserError(f"path {str(path)!r} has nothing for {missing!r}; the file is truncated or of another network")
    model.load_state_dict(found)
    return model


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"path: no file {str(path)!r}") from None
    except Exception as error:  # torch.load raises whatever its unpickler does
        raise UserError(
            f"path {str(path)!r} cannot be read: {type(error).__name__}; expected a whole file of tensors alone; "
            "where it holds settings or the like too, save its state dict alone"
        ) from None
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise UserError(f"path {str(path)!r} holds a {type(content).__name__}; a state dict is expected")
    strange = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        raise UserError(f"path {str(path)!r}: {strange!r} is no tensor; a state dict is expected")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


Renamed = tuple[str | None, Callable[[Tensor], Tensor], int | None]
"""The parameter here (None: not needed), what makes its value, and which third of its rows it is."""


def _of_swin(key: str) -> Renamed:
    if key.endswith((".attn_mask", ".relative_position_index")):
        return None, same, None  # made anew for any size of map
    operator = re.fullmatch(r"(layers\.\d+\.blocks\.\d+\.attn)\.(.+)", key)
    if operator:
        name, make = SWIN.get(operator[2], UNKNOWN)
        return f"{operator[1]}.{name}", make, None
    merging = re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", key)
    if merging:  # at the end of a stage there, at the start of the next one in timm
        return f"layers.{int(merging[1]) + 1}.downsample.{merging[2]}", same, None
    return re.sub(r"^head\.", "head.fc.", key), same, None


def _of_resnet(key: str) -> Renamed:
    operator = re.fullmatch(r"(layer\d+\.\d+\.conv2)\.(.+)", key)
    if not operator:
        return key, same, None
    third, _, leaf = operator[2].partition(".")
    if third in ROWS:
        return f"{operator[1]}.projection.qkv.{leaf}", same, ROWS[third]
    name, make = RESNET.get(operator[2], UNKNOWN)
    return f"{operator[1]}.{name}", make, None
