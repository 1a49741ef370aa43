"""The architecture file: what a search found, readable by a person, by the next step and by timm. Nothing here needs NNI."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from torch import nn

from acmix_nas.operators import OPERATORS
from acmix_nas.slots.backbones import backbone_origin, is_backbone, load_weights, make_backbone, open_slots
from acmix_nas.slots.finding import Heads, Slot
from acmix_nas.slots.making import make_operator, put
from acmix_nas.slots.names import OperatorName, check_candidates, kind_in
from acmix_nas.util.errors import UserError
from acmix_nas.util.files import provenance, read_document, write_document

__all__ = ["Architecture", "build"]

KIND = "architecture"
KINDS: dict[str, tuple[type, ...]] = {
    "backbone": (str, NoneType), "slots": (dict,), "candidates": (list,), "backbone_args": (dict,), "pattern": (list,),
    "heads": (int, dict, NoneType), "budget": (dict,), "seed": (int, NoneType), "data": (dict,), "task": (str, NoneType),
    "metric": (dict,), "probabilities": (dict,), "scores": (dict,), "origins": (dict,),
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """Map every slot of a backbone to one candidate, with its provenance.

    Attributes:
        backbone: timm's name; None where the backbone is a module of the user's.
        backbone_args: what timm's `create_model` takes for it.
        pattern: the globs that chose the slots.
        heads: as given to `hybridize`.
        candidates: what could have been chosen.
        slots: slot → operator.
        budget: the limits under which it was derived, such as {"macs": 1.2e6}.
        seed: of the search.
        data: what it was searched on: {"name": "digits", "num_classes": 10, "image_size": 32}, and "in_chans" where these are
            not 3.
        task: the registered name of what it was trained for; None for a task that has none.
        metric: what the search measured, such as {"val_accuracy": 0.97}.
        probabilities: slot → operator → probability, where a search has them.
        scores: slot → operator → what it adds to an architecture's score, where a search has chosen by something else.
        origins: group → name → the distribution that it comes from, of what the search used and another package registers:
            {"strategies": {"local_search": "acmix-outside 0.1"}}. `save` adds the operators and the backbone.
        made: which command made it, when, and with which versions of the packages.

    Example:
        >>> chosen = Architecture("resnet14t", {"layer1.0.conv2": "local"}, ("conv", "local"), pattern=("layer1*",))
        >>> chosen.slots["layer1.0.conv2"]
        'local'
        >>> chosen == Architecture("resnet14t", {"layer1.0.conv2": "local"}, ["conv", "local"], pattern=["layer1*"])
        True
    """

    backbone: str | None
    slots: Mapping[str, str]
    candidates: Sequence[str]
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    pattern: Sequence[str] = ("*",)
    heads: Heads = None
    budget: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = "classification"
    metric: Mapping[str, float] = field(default_factory=dict)
    probabilities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    origins: Mapping[str, Mapping[str, str]] = field(default_factory=dict, compare=False)
    made: Mapping[str, Any] = field(default_factory=provenance, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(self.candidates))
        object.__setattr__(self, "pattern", tuple(self.pattern))
        for name in ("slots", "backbone_args", "heads", "budget", "data", "metric", "probabilities", "scores"):
            # As the file will have them, so that what was saved and loaded is equal to what it was.
            object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name))))

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of the images of the search.

        Raises:
            UserError: where the architecture does not say on what images it was searched.
        """
        size = self.data.get("image_size")
        if size is None:
            raise UserError("image_size must be given: the architecture does not say on what images it was searched")
        height, width = (size, size) if isinstance(size, int) else size
        return self.data.get("in_chans", 3), height, width

    def save(self, path: str | Path) -> Path:
        """Write the file. It says where everything comes from that is neither this package's nor timm's."""
        content = asdict(self)
        made, origins = content.pop("made"), content.pop("origins")
        origins["operators"] = OPERATORS.origins(kind_in(name) for name in (*self.candidates, *self.slots.values()))
        if origin := backbone_origin(self.backbone):
            origins["backbones"] = {self.backbone: origin}
        said = {group: names for group, names in origins.items() if names}
        return write_document(Path(path), KIND, {**made, **content, **({"origins": said} if said else {})})

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read the file.

        Raises:
            UserError: where it is missing, no architecture, of another version, or names an unknown operator.
        """
        path = Path(path)
        content = read_document(path, KIND)
        where = f"architecture {str(path)!r}"
        made: dict[str, Any] = {key: content.pop(key) for key in ("made_by", "date", "versions") if key in content}
        missing = {"backbone", "slots", "candidates"} - content.keys()
        unknown = content.keys() - cls.__dataclass_fields__.keys() | content.keys() & {"made"}
        if missing or unknown:
            word, names = ("misses", missing) if missing else ("has the unknown", unknown)
            raise UserError(f"{where} {word} {', '.join(sorted(names))}; export it again")
        for name, kinds in KINDS.items():
            if name in content and not isinstance(content[name], kinds):
                expected = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
                raise UserError(f"{where}: {name} must be {expected}; it is {content[name]!r}")
        for name, right, expected in _inside(content):
            if not right:
                raise UserError(f"{where}: {name} must be {expected}; it is {_value_at(content, name)!r}")
        origins = content.get("origins", {})
        if not all(isinstance(names, dict) for names in origins.values()):
            raise UserError(f"{where}: origins must map groups to names; it is {origins!r}")
        for what, group, known in (("operator", "operators", OPERATORS.__contains__), ("backbone", "backbones", is_backbone)):
            for name, origin in origins.get(group, {}).items():
                if not known(name):
                    raise UserError(f"{where} names the {what} {name!r}, which {origin} adds; install that package")
        if not all(isinstance(glob, str) for glob in content.get("pattern", [])):
            raise UserError(f"{where}: pattern must hold globs; it is {content['pattern']!r}")
        try:
            if content["candidates"] or content["slots"]:
                check_candidates(content["candidates"])
            for slot, operator in content["slots"].items():
                check_operator(slot, operator)
        except (UserError, TypeError) as error:
            raise UserError(f"{where}: {error}") from None
        return cls(**content, made=made)

    def check_slots(self, found: Sequence[Slot]) -> None:
        """Check that these are the slots of the backbone, and the operators candidates there.

        Raises:
            UserError: naming the first slot that does not fit.
        """
        candidates = {slot.name: slot.candidates for slot in found}
        for slot, operator in self.slots.items():
            if slot not in candidates:
                raise UserError(
                    f"architecture names the unknown slot {slot!r}; backbone {self.backbone} has {', '.join(candidates)}"
                )
            if operator not in candidates[slot]:
                raise UserError(f"slot {slot!r}: {operator!r} is none of the candidates {', '.join(candidates[slot])}")
        for name in candidates:
            if name not in self.slots:
                raise UserError(f"architecture misses slot {name!r} of backbone {self.backbone}; export it again")


def _inside(content: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """Yield (name, whether it is right, what it must be) of the values within a file's fields, which builders rely on."""

    def whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    heads = content.get("heads")
    globs = heads.values() if isinstance(heads, dict) else [heads]
    yield "heads", heads is None or all(whole(one, 1) for one in globs), "a positive number, or globs with positive numbers"
    for name in ("budget", "metric"):
        yield name, all(map(number, content.get(name, {}).values())), "names with numbers"
    for name in ("probabilities", "scores"):
        rows = content.get(name, {}).values()
        yield (
            name,
            all(isinstance(row, dict) and all(map(number, row.values())) for row in rows),
            "slots with operators and numbers",
        )
    data = content.get("data", {})
    size = data.get("image_size", 1)
    sides = size if isinstance(size, list) else [size, size]
    yield "data.image_size", len(sides) == 2 and all(whole(side, 1) for side in sides), "a side, or [height, width]"
    yield "data.in_chans", whole(data.get("in_chans", 3), 1), "a positive number"
    yield "data.num_classes", data.get("num_classes") is None or whole(data["num_classes"], 0), "a number of classes"
    yield "data.name", isinstance(data.get("name", ""), str), "a text"
    for name in ("mean", "std"):
        values = data.get(name, [])
        yield f"data.{name}", isinstance(values, list) and all(map(number, values)), "a list of numbers"
    yield "data.crop_pct", number(data.get("crop_pct", 1.0)), "a number"


def _value_at(content: Mapping[str, Any], name: str) -> Any:
    first, _, second = name.partition(".")
    return content[first][second] if second else content[first]


def check_operator(slot: str, operator: str) -> None:
    """Check that the operator exists.

    Raises:
        UserError: naming the slot.
    """
    try:
        OperatorName.parse(operator)
    except (UserError, TypeError) as error:
        raise UserError(f"slot {slot!r}: {error}") from None


def skeleton(
    architecture: Architecture, num_classes: int | None = None, backbone: nn.Module | None = None, **backbone_args: Any
) -> tuple[nn.Module, list[Slot]]:
    """Return the backbone with nothing put at its slots yet, and the slots. Arguments and errors are those of `build`."""
    if backbone is None:
        if architecture.backbone is None:
            raise UserError("architecture was searched on a module of its own; pass that module as backbone=… from Python")
        arguments = {**architecture.backbone_args, **backbone_args}
        num_classes = architecture.data.get("num_classes") if num_classes is None else num_classes
        if num_classes is not None:
            arguments["num_classes"] = num_classes
        if architecture.data.get("in_chans", 3) != 3:
            arguments.setdefault("in_chans", architecture.data["in_chans"])
        backbone = make_backbone(architecture.backbone, arguments)
    if not architecture.slots:
        return backbone, []
    slots = open_slots(backbone, architecture.pattern, architecture.heads, architecture.candidates)
    architecture.check_slots(slots)
    return backbone, slots


def build(
    architecture: str | Path | Architecture,
    num_classes: int | None = None,
    weights: str | Path | None = None,
    backbone: nn.Module | None = None,
    **backbone_args: Any,
) -> nn.Module:
    """Build the network of an architecture; without slots, the backbone as it is.

    Args:
        architecture: the file, or what was read from it.
        num_classes: of the classifier; by default that of the search's data, or else the backbone's own.
        weights: a state dict (`network.pt` of a search or a retraining) to load; then no pretrained weights are fetched.
        backbone: the module to build on, where the search ran on one of the user's; it is changed in place.
        backbone_args: more for timm's `create_model`, such as `pretrained` or `drop_path_rate`.

    Returns:
        The network, on the CPU and in training mode.

    Raises:
        UserError: where the file, its slots, its operators or the weights do not fit.

    Example:
        >>> import torch
        >>> chosen = Architecture("resnet14t", {"layer1.0.conv2": "local"}, ("conv", "local"), pattern=("layer1*",))
        >>> network = build(chosen, num_classes=10)
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    if not isinstance(architecture, Architecture):
        architecture = Architecture.load(architecture)
    if weights is not None:
        backbone_args["pretrained"] = False
    network, slots = skeleton(architecture, num_classes, backbone, **backbone_args)
    for slot in slots:
        put(network, slot.name, make_operator(slot, architecture.slots[slot.name], network.get_submodule(slot.name)))
    if weights is not None:
        load_weights(network, Path(weights))
    return network
