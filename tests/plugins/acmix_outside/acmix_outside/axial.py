"""Axial attention: every pixel attends to its row and its column."""

import torch
from torch import Tensor

from acmix_nas.operators import Path, register_operator, strided


@register_operator("axial")
class AxialPath(Path):
    """One softmax over the W keys of a query's row and the H keys of its column; the pixel itself is in both.

    Shapes: (B, 3C, H, W) → (B, C, ⌈H/s⌉, ⌈W/s⌉).
    """

    def __init__(self, channels: int, heads: int, stride: int = 1) -> None:
        super().__init__(channels, heads, stride)

    def forward(self, maps: Tensor) -> Tensor:
        s = self.stride
        q, k, v = maps.unflatten(1, (3, self.heads, self.head_dim)).unbind(1)  # (B, N, D, H, W)
        q = q[..., ::s, ::s] * self.head_dim**-0.5  # (B, N, D, Ho, Wo)
        rows, columns = (x[..., ::s, :] for x in (k, v)), (x[..., ::s] for x in (k, v))
        (row_k, row_v), (column_k, column_v) = rows, columns  # (B, N, D, Ho, W) and (B, N, D, H, Wo)
        along = torch.einsum("bndhw,bndhj->bnhwj", q, row_k)  # (B, N, Ho, Wo, W)
        down = torch.einsum("bndhw,bndjw->bnhwj", q, column_k)  # (B, N, Ho, Wo, H)
        weights = torch.cat((along, down), dim=-1).softmax(dim=-1).split((along.shape[-1], down.shape[-1]), dim=-1)
        out = torch.einsum("bnhwj,bndhj->bndhw", weights[0], row_v) + torch.einsum("bnhwj,bndjw->bndhw", weights[1], column_v)
        return out.flatten(1, 2)

    def macs(self, height: int, width: int) -> float:
        return 2.0 * (height + width) * self.channels * strided(height, self.stride) * strided(width, self.stride)
