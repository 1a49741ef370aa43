"""The paper's ResNets as spaces: the 3×3 convolution of every bottleneck is a slot (Table 9, appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from acmix_nas.search_spaces.hybridize import HybridSpace, hybridize
from acmix_nas.slots.names import DEFAULT_CANDIDATES

__all__ = ["resnet"]


def resnet(depth: int = 26, candidates: Sequence[str] = DEFAULT_CANDIDATES, **arguments: Any) -> HybridSpace:
    """Make the space of ResNet 26, 38 or 50 with 4 heads in every stage.

    At home is convolution. Local attention takes windows of 7×7.

    Args:
        arguments: of `hybridize`, such as `share` or `num_classes`.

    Raises:
        UserError: as `hybridize` does.
    """
    return hybridize(f"resnet{depth}_conv", candidates, slots="layer*.conv2", heads=4, **arguments)
