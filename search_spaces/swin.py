"""The paper's Swins as spaces: the attention of every block is a slot (Table 12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from acmix_nas.search_spaces.hybridize import HybridSpace, hybridize
from acmix_nas.slots.names import DEFAULT_CANDIDATES

__all__ = ["swin"]


def swin(size: str = "tiny", candidates: Sequence[str] = DEFAULT_CANDIDATES, **arguments: Any) -> HybridSpace:
    """Make the space of timm's Swin, tiny or small: 3, 6, 12 and 24 heads.

    At home are windows of 7×7, shifted in every second block.

    Args:
        arguments: of `hybridize`, such as `share`, `num_classes` or `pretrained`, whose weights the attention at home keeps.

    Raises:
        UserError: as `hybridize` does.
    """
    return hybridize(f"swin_{size}_patch4_window7_224", candidates, slots="layers.*.attn", **arguments)
