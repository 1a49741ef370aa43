"""A cost of our own: the bytes of the maps that the slots of a network put out, for one image in float32."""

from __future__ import annotations

import torch

from acmix_nas import Cost, register_cost
from acmix_nas.costs.registry import Entries
from acmix_nas.costs.survey import Survey


@register_cost("activations")
class Activations(Cost):
    """Bytes of one image. An ACmix keeps the outputs of both paths; what is no slot is left out."""

    aliases = ("maps",)
    unit = "KiB"
    units = {"": 1.0, "KiB": 1.0, "MiB": 1024.0}
    example = "96KiB"

    def table(self, of: Survey) -> Entries:
        operators: dict[str, dict[str, float]] = {}
        for slot in of.slots:
            x = torch.empty(1, slot.in_channels, *of.sizes[slot.name], device="meta")
            with torch.no_grad():
                outputs = {name: of.operator(slot, name)(x) for name in slot.candidates}
            paths = {name: 1 + name.startswith("acmix_") for name in slot.candidates}
            operators[slot.name] = {name: paths[name] * out.nbytes / 1024 for name, out in outputs.items()}
        return Entries(operators, rest=0.0)
