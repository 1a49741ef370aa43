"""The core that the softmax attentions share: positions, and the product itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch.nn import functional as F

from acmix_nas.util.errors import one_of

__all__ = [
    "POSITIONS",
    "LinearPosition",
    "RelativeBias",
    "attend",
    "constant",
    "encoding_macs",
    "make_position",
    "position_name",
]

POSITIONS = ("linear", "table", "none")


class LinearPosition(nn.Module):
    """A learned linear map of the coordinates (from −1 to 1, width first) to D channels: p.

    The logit of the paper's ResNet form is q_i · (k_j + p_i − p_j). Since q_i · p_i is the same for every j, the softmax
    cancels it. Attention over k − p is exactly the same, so the bias of this map has no gradient. That costs one subtraction
    instead of another K²-fold unfolding, and works for any set of neighbours.
    """

    def __init__(self, channels: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(2, channels, device=device, dtype=dtype)

    def forward(self, height: int, width: int) -> Tensor:
        """Return (H, W, D)."""
        weight = self.linear.weight
        rows = torch.linspace(-1, 1, height, device=weight.device, dtype=weight.dtype)
        columns = torch.linspace(-1, 1, width, device=weight.device, dtype=weight.dtype)
        encoding: Tensor = self.linear(torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1))
        return encoding


class RelativeBias(nn.Module):
    """A learned number for every offset between query and key, up to a reach, and every head: B of equation 21, as in Swin.

    Row (a + r)(2r + 1) + b + r of the table, r the reach, belongs to the offset (a, b), query minus key, height first.
    """

    def __init__(
        self, reach: int, heads: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self.reach = reach
        self.table = nn.Parameter(torch.empty((2 * reach + 1) ** 2, heads, device=device, dtype=dtype))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return (1, N, Th · Tw, Sh · Sw) from the offsets of rows (Th, Sh) and columns (Tw, Sw), clamped to the reach."""
        side = 2 * self.reach + 1
        rows, columns = ((offsets + self.reach).clamp(0, side - 1) for offsets in (rows, columns))
        index = side * rows[:, None, :, None] + columns[None, :, None, :]  # (Th, Tw, Sh, Sw)
        return self.table[index.flatten(2).flatten(0, 1)].permute(2, 0, 1)[None]


def make_position(
    position: str, channels: int, heads: int, reach: int | None,
    device: torch.device | str | None = None, dtype: torch.dtype | None = None,
) -> LinearPosition | RelativeBias | None:  # fmt: skip
    """Make the module that tells an attention where its keys are.

    Args:
        position: "linear", "table" or "none".
        reach: the largest offset of a table; None where the attention has no largest one.

    Raises:
        UserError: for an unknown position, or a table without a reach.
    """
    known = POSITIONS if reach is not None else tuple(p for p in POSITIONS if p != "table")
    if position not in known:
        raise one_of("position", position, known)
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    if position == "table":
        assert reach is not None
        return RelativeBias(reach, heads, **like)
    return LinearPosition(channels // heads, **like) if position == "linear" else None


def position_name(position: nn.Module | None) -> str:
    """Return the argument of `make_position` that makes such a position."""
    if isinstance(position, RelativeBias):
        return "table"
    return "none" if position is None else "linear"


def encoding_macs(position: nn.Module | None, height: int, width: int) -> float:
    """Count the multiply-adds of the positions themselves: those of the linear map."""
    return 2.0 * position.linear.out_features * height * width if isinstance(position, LinearPosition) else 0.0


Made = TypeVar("Made")


def constant(make: Callable[..., Made]) -> Callable[..., Made]:
    """Keep what a function of sizes and a device has made: masks and indices, which are the same in every forward.

    Where a graph is made of the forward they are made anew, and belong to the graph. What is kept must not follow the default
    device and type of the forward that came first: `make` says both.
    """
    kept = lru_cache(maxsize=256)(make)

    @wraps(make)
    def get(*sizes: Any) -> Made:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or detect_fake_mode() is not None:
            return make(*sizes)
        with torch.inference_mode(False), torch.no_grad():
            return kept(*sizes)

    return get


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Compute softmax(q·k / √D + bias) · v (equations 10 and 21) over (B·M, N, T, D) and (B·M, N, S, D).

    M counts the windows or tiles of a map.

    Args:
        mask: (M or 1, 1, T, S), 0 where a key takes part and −∞ where it does not.
        bias: (1, N, T, S).

    On the CPU the product stays in float32 under autocast: the backward of bfloat16 attention is slower there.
    """
    if mask is not None:
        bias = mask.to(q.dtype) if bias is None else bias + mask
    if bias is not None:
        if bias.shape[0] > 1:
            bias = bias.repeat(q.shape[0] // bias.shape[0], 1, 1, 1)
        bias = bias.to(q.dtype)
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            bias = None if bias is None else bias.float()
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias).to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    # The layout that an exported product claims is not that of what it is later decomposed into.
    return out.clone(memory_format=torch.contiguous_format) if torch.compiler.is_exporting() else out
