"""What may stand at a slot at home, and the slot that is found there."""

from __future__ import annotations

from typing import Any

from torch import nn

from acmix_nas.operators import (
    ACmix,
    Convolution,
    GlobalAttention,
    GlobalPath,
    LocalAttention,
    Operator,
    Output,
    PatchwiseAttention,
    Projection,
    ReducedProjection,
    WindowAttention,
    WindowPath,
)


class Host(nn.Module):
    """A network with one operator in it, and a convolution behind that."""

    def __init__(self, operator: nn.Module) -> None:
        super().__init__()
        self.operator = operator
        self.conv = nn.Conv2d(8, 8, 3, padding=1)


def block(position: str = "table", window: int = 7, shift: bool = False) -> Operator:
    return Operator(Projection(8, 24), Output(WindowPath(8, 2, window, shift=shift, position=position)))


def reduced(reduction: int) -> Operator:
    return Operator(ReducedProjection(8, reduction), Output(GlobalPath(8, 4, reduction=reduction, position="none")))


HOMES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "local": (lambda: LocalAttention(6, 8, 2), "local", {"in_channels": 6, "heads": 2}),
    "local_k3": (
        lambda: LocalAttention(8, 8, 8, window=3, stride=2, dilation=2, position="table"), "local_k3",
        {"heads": 8, "stride": 2, "dilation": 2, "position": "table"},
    ),
    "window": (lambda: WindowAttention(8, 8, 1, shift=True), "window", {"heads": 1, "shift": True}),
    "global": (lambda: GlobalAttention(8, 8, 4, position="none"), "global", {"heads": 4, "position": "none"}),
    "global_r2": (lambda: GlobalAttention(8, 8, 4, reduction=2), "global_r2", {"heads": 4}),
    "patchwise_k3": (
        lambda: PatchwiseAttention(8, 8, 4, window=3), "patchwise_k3", {"heads": 4, "position": "none"},
    ),
    "acmix_window_k4": (
        lambda: ACmix(6, 8, 4, attention="window", window=4, stride=2), "window_k4",
        {"in_channels": 6, "heads": 4, "stride": 2},
    ),
    "acmix_patchwise": (
        lambda: ACmix(6, 8, 4, attention="patchwise"), "patchwise", {"in_channels": 6, "heads": 4, "position": "none"},
    ),
    "acmix_attention": (lambda: ACmix(8, 8, 4, window=5, mixing="attention"), "local_k5", {"heads": 4}),
    "conv": (lambda: Convolution(8, 8, 2, dilation=2), "local", {"heads": 2, "dilation": 2}),
    "block": (block, "window", {"heads": 2, "block": True, "position": "table"}),
    "block_shift": (
        lambda: block("linear", 5, shift=True), "window_k5", {"heads": 2, "block": True, "shift": True},
    ),
    "reduced": (
        lambda: reduced(4), "global", {"heads": 4, "block": True, "position": "none", "reduction": 4},
    ),
}  # fmt: skip
