"""The paper's PVTs as spaces: the attention of every block is a slot (Table 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from acmix_nas.search_spaces.hybridize import HybridSpace, hybridize
from acmix_nas.slots.names import DEFAULT_CANDIDATES

__all__ = ["pvt"]


def pvt(size: str = "tiny", candidates: Sequence[str] = DEFAULT_CANDIDATES, **arguments: Any) -> HybridSpace:
    """Make the space of PVT tiny or small: 1, 2, 5 and 8 heads.

    At home is global attention over keys reduced 8, 4, 2 and 1 fold.

    Args:
        arguments: of `hybridize`, such as `share` or `num_classes`.

    Raises:
        UserError: as `hybridize` does.
    """
    return hybridize(f"pvt_{size}", candidates, slots="stages.*.attn", **arguments)
