"""The paper's SANs as spaces: the patchwise attention of every block is a slot (Table 10, appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from acmix_nas.search_spaces.hybridize import HybridSpace, hybridize
from acmix_nas.slots.names import DEFAULT_CANDIDATES

__all__ = ["san"]


def san(depth: int = 10, candidates: Sequence[str] = DEFAULT_CANDIDATES, **arguments: Any) -> HybridSpace:
    """Make the space of SAN 10, 15 or 19.

    At home is patchwise attention, over 3×3 pixels in the first stage and 7×7 in the others.

    Among `conv`, patchwise attention and ACmix on it, Stage I is the paper's: one map of queries, one of keys, four of values.

    Args:
        arguments: of `hybridize`, such as `share` or `num_classes`.

    Raises:
        UserError: as `hybridize` does.
    """
    return hybridize(f"san{depth}_patchwise", candidates, slots="layers.*.attn", **arguments)
