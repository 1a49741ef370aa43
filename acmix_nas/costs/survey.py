"""What a cost is taken of: a backbone, its slots, and how large the maps are that reach them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acmix_nas.operators import strided
from acmix_nas.slots.finding import Slot
from acmix_nas.slots.making import make_operator, put
from acmix_nas.util.errors import UserError, first_line

__all__ = ["Survey", "survey"]

DOES_NOT_RUN = (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a forward raises that was given what it cannot take."""


class Hole(nn.Module):
    """Stands for a slot while the rest of a network is surveyed."""

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self.slot = slot
        self.size: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None:
            raise UserError(f"slot {self.slot.name!r} runs more than once in a forward; leave it out with another glob")
        batch, channels, height, width = x.shape
        if channels != self.slot.in_channels:
            raise ValueError(f"slot {self.slot.name!r} takes {self.slot.in_channels} channels, and {channels} reach it")
        self.size = (height, width)
        shape = (batch, self.slot.out_channels, strided(height, self.slot.stride), strided(width, self.slot.stride))
        return x.new_empty(shape)


@dataclass(frozen=True)
class Survey:
    """A backbone and its slots, seen for images of one size.

    Attributes:
        network: the backbone, whatever stands at its slots.
        slots: its slots.
        input_size: (channels, height, width) of one image.
        sizes: slot → (height, width) of its input map.
        outputs: what the backbone returns for one image, on the meta device.
        rest: the backbone without what stands at its slots, on the meta device.
        rest_macs: multiply-adds of one image in the rest.
        rest_parameters: parameters of the rest.
    """

    network: nn.Module
    slots: Sequence[Slot]
    input_size: tuple[int, ...]
    sizes: Mapping[str, tuple[int, int]]
    outputs: Any
    rest: nn.Module
    rest_macs: float
    rest_parameters: float
    _made: dict[tuple[str, str], nn.Module] = field(default_factory=dict, repr=False, compare=False)

    def operator(self, slot: Slot, name: str) -> nn.Module:
        """Return an operator as it would stand at a slot, on the meta device; costs share it.

        Raises:
            UserError: where it does not run on the maps that reach the slot, or returns others than it must.
        """
        if (slot.name, name) not in self._made:
            made = make_operator(slot, name, device="meta")
            operator = made.get_submodule("operator") if isinstance(made, nn.Sequential) else made
            check_runs(operator, f"operator {name!r} at slot {slot.name!r}", slot, *self.sizes[slot.name])
            self._made[slot.name, name] = made
        return self._made[slot.name, name]


def check_runs(operator: nn.Module, what: str, slot: Slot, height: int, width: int) -> None:
    """Check, on the meta device, that an operator turns a map of this size into one that fits its slot.

    Args:
        what: what the operator is called in messages.

    Raises:
        UserError: where it does not.
    """
    given = (1, slot.in_channels, height, width)
    expected = (1, slot.out_channels, strided(height, slot.stride), strided(width, slot.stride))
    try:
        with torch.no_grad():
            returned = tuple(operator(torch.empty(given, device="meta")).shape)
    except DOES_NOT_RUN as error:
        raise UserError(f"{what} does not run on a map of shape {given}: {first_line(error)}") from error
    if returned != expected:
        raise UserError(f"{what} must return shape {expected} for a map of shape {given}; it returns {returned}")


def survey(network: nn.Module, slots: Sequence[Slot], input_size: Sequence[int]) -> Survey:
    """Run a network without its slots, on the meta device: nothing is computed.

    Args:
        network: a backbone, whatever stands at its slots.
        slots: its slots.
        input_size: (channels, height, width) of one image.

    Raises:
        UserError: where the network does not take such an image, or a slot takes no part in the forward or runs more than
            once.
    """
    meta = copy.deepcopy(network).to("meta").eval()
    holes = {slot.name: Hole(slot) for slot in slots}
    for name, hole in holes.items():
        put(meta, name, hole)
    shape = (1, *input_size)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            outputs = meta(torch.empty(shape, device="meta"))
    except UserError:
        raise
    except DOES_NOT_RUN as error:
        raise UserError(f"backbone does not take inputs of shape {shape}: {first_line(error)}") from error
    sizes = {}
    for name, hole in holes.items():
        if hole.size is None:
            raise UserError(f"slot {name!r} takes no part in the forward of the backbone; leave it out with another glob")
        sizes[name] = hole.size
    parameters = float(sum(parameter.numel() for parameter in meta.parameters()))
    return Survey(network, slots, tuple(input_size), sizes, outputs, meta, counter.get_total_flops() / 2, parameters)
