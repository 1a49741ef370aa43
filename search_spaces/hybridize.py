"""Any backbone as a search space."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from nni.nas.strategy import DARTS, Proxyless
from nni.nas.strategy.base import Strategy
from torch import Tensor, nn

from acmix_nas.search_spaces.hybrid_slot import HybridSlot, MixedSlot, ProxylessSlot, SampledSlot
from acmix_nas.slots.backbones import open_backbone
from acmix_nas.slots.finding import Heads
from acmix_nas.slots.making import put
from acmix_nas.slots.names import DEFAULT_CANDIDATES
from acmix_nas.supernet.candidates import SHARING
from acmix_nas.util.errors import one_of

__all__ = ["HybridSpace", "hybridize"]


class HybridSpace(ModelSpace):
    """A backbone in which every slot is a `HybridSlot`. NNI's strategies, one-shot and multi-trial, run on it unchanged.

    Args: see `hybridize`.
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        candidates: Sequence[str] = DEFAULT_CANDIDATES,
        slots: str | Sequence[str] = "*",
        heads: Heads = None,
        share: str = "all",
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if share not in SHARING:
            raise one_of("share", share, SHARING)
        self.backbone, self.slots = open_backbone(backbone, backbone_args, slots, heads, candidates)
        self.backbone.train()  # a module of the user's may come as it was evaluated
        for slot in self.slots:
            put(self.backbone, slot.name, HybridSlot(slot, share, self.backbone.get_submodule(slot.name)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.backbone(x)
        return out

    def inherit(self, choice: Mapping[str, str]) -> nn.Module:
        """Return the network of a choice with the weights of the space, sharing none of them with it.

        It equals the supernet with that choice made, to rounding, and needs no NNI. The space may stand as it is, or be turned
        into a supernet by a one-shot strategy.

        Raises:
            nni.mutable.SampleValidationError: where the choice misses a slot or names no candidate.
        """
        self.validate(dict(choice))
        network: nn.Module = copy.deepcopy(self.freeze(dict(choice)).backbone)
        return network

    def extra_oneshot_hooks(self, strategy: Strategy) -> list[Any]:
        """Return how its slots become a supernet under this strategy, which NNI asks a space for."""
        if isinstance(strategy, Proxyless):
            return [ProxylessSlot.mutate]
        if isinstance(strategy, DARTS):
            return [MixedSlot.mutate]
        return [SampledSlot.mutate]


def hybridize(
    backbone: str | nn.Module,
    candidates: Sequence[str] = DEFAULT_CANDIDATES,
    slots: str | Sequence[str] = "*",
    heads: Heads = None,
    share: str = "all",
    **backbone_args: Any,
) -> HybridSpace:
    """Turn a backbone into a search space: every dense 3×3 convolution, or attention of a transformer, becomes a choice.

    Args:
        backbone: timm's name, or a module, which is copied.
        candidates: the operators of every slot; "home" is the attention that stands there, `local` in place of a convolution.
        slots: a glob of module paths, or several.
        heads: a number for all slots; globs of slot names with numbers; or None, which keeps those of
            an attention and adapts to the channels of a convolution.
        share: "all" puts every candidate on the shared Stage I; "attention" leaves `conv` a dense kernel of its own, and
            with it the backbone's pretrained weight; "none" shares nothing, which is NNI's stock way.
        backbone_args: what timm's `create_model` takes, such as `num_classes` or `pretrained`.

    Returns:
        The search space, with the weights of the backbone where it has a use for them.

    Raises:
        UserError: where a name is unknown, nothing matches, or heads do not divide the channels of a slot.

    Example:
        >>> space = hybridize("resnet14t", slots="layer1*", num_classes=10)
        >>> {slot.name: slot.candidates for slot in space.slots}
        {'layer1.0.conv2': ('conv', 'local', 'acmix_local')}
    """
    return HybridSpace(backbone, candidates, slots, heads, share, backbone_args)
