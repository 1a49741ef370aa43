"""The formulas of the paper as they read, slow and obvious: the oracle of the tests.

Nothing here is imported from the package. Neighbourhoods are unfolded, positions are added to every logit, fc and shift
run one after the other.

Letters: B batch, C channels, N heads, D = C / N, H and W height and width, K window, k kernel, s stride.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def project(x: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Equation 11: q, k, v, each (B, N, D, H, W)."""
    maps = torch.einsum("oi,bihw->bohw", weight.flatten(1), x)
    if bias is not None:
        maps = maps + bias[None, :, None, None]
    q, k, v = (part.unflatten(1, (heads, -1)) for part in maps.chunk(3, dim=1))
    return q, k, v


def coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """(2, H, W): width first, each from −1 to 1."""
    columns = torch.linspace(-1, 1, width, dtype=like.dtype).repeat(height, 1)
    rows = torch.linspace(-1, 1, height, dtype=like.dtype).repeat(width, 1).T
    return torch.stack((columns, rows))


def encode(height: int, width: int, weight: Tensor, bias: Tensor) -> Tensor:
    """(D, H, W): the learned linear map of the coordinates."""
    return torch.einsum("dc,chw->dhw", weight, coordinates(height, width, weight)) + bias[:, None, None]


def pad_index(size: int, radius: int, border: str) -> tuple[Tensor, Tensor]:
    """The index of each position of a padded axis, and whether the position lies inside."""
    inside = np.pad(np.ones(size, dtype=bool), radius)
    mode = "reflect" if border == "reflect" and size > 1 else "edge"
    index = np.pad(np.arange(size), radius, mode=mode)
    return torch.from_numpy(index), torch.from_numpy(inside)


def neighbours(maps: Tensor, window: int, stride: int, dilation: int, border: str) -> tuple[Tensor, Tensor]:
    """The K² neighbours of every strided pixel: (..., K², Ho, Wo), and whether each exists, (K², Ho, Wo)."""
    height, width = maps.shape[-2:]
    radius = window // 2 * dilation
    rows, rows_inside = pad_index(height, radius, border)
    columns, columns_inside = pad_index(width, radius, border)
    padded = maps[..., rows, :][..., columns]
    inside = rows_inside[:, None] & columns_inside[None, :]
    views, exists = [], []
    for a in range(window):
        for b in range(window):
            down, right = slice(a * dilation, a * dilation + height, stride), slice(b * dilation, b * dilation + width, stride)
            views.append(padded[..., down, right])
            exists.append(inside[down, right])
    return torch.stack(views, dim=-3), torch.stack(exists)


def local_attention(
    q: Tensor, k: Tensor, v: Tensor, position: tuple[Tensor, Tensor] | None,
    window: int, stride: int = 1, dilation: int = 1, border: str = "reflect",
) -> Tensor:  # fmt: skip
    """Equations 10, 12 and 21 over N_K(i, j): logits q_i · (k_j + p_i − p_j) / √D. Returns (B, C, Ho, Wo)."""
    depth, height, width = q.shape[2:]
    q = q[..., ::stride, ::stride]
    keys, exists = neighbours(k, window, stride, dilation, border)  # (B, N, D, K², Ho, Wo)
    values, _ = neighbours(v, window, stride, dilation, border)
    if position is not None:
        p = encode(height, width, *position)
        p_j, _ = neighbours(p, window, stride, dilation, border)  # (D, K², Ho, Wo)
        keys = keys + p[:, None, ::stride, ::stride] - p_j
    logits = torch.einsum("bndhw,bndjhw->bnjhw", q, keys) / depth**0.5
    if border == "mask":
        logits = logits.masked_fill(~exists, float("-inf"))
    return torch.einsum("bnjhw,bndjhw->bndhw", logits.softmax(dim=2), values).flatten(1, 2)


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, position: tuple[Tensor, Tensor] | None,
    window: int, stride: int = 1, shift: bool = False,
) -> Tensor:  # fmt: skip
    """Equation 19, pixel by pixel: which pixels share a window (and, after the shift, a side of the seam)."""
    height, width = q.shape[-2:]

    def cells(size: int) -> Tensor:
        """The window of each coordinate; a pair that the roll brings together across the seam gets two."""
        side = min(window, size)
        number = -(-size // side)
        padded = number * side
        move = side // 2 if shift and number > 1 else 0
        cell = torch.empty(size, dtype=torch.long)
        for i in range(size):
            rolled = (i - move) % padded
            wrapped = rolled >= padded - move if move else False
            cell[i] = rolled // side + (number if wrapped else 0)
        return cell

    cell = (cells(height)[:, None] * 1000 + cells(width)[None, :]).flatten()
    return _attend_among(q, k, v, position, cell[:, None] == cell[None, :], stride)


def global_attention(
    q: Tensor, k: Tensor, v: Tensor, position: tuple[Tensor, Tensor] | None, stride: int = 1
) -> Tensor:  # fmt: skip
    """Equation 20."""
    size = q.shape[-2] * q.shape[-1]
    return _attend_among(q, k, v, position, torch.ones(size, size, dtype=torch.bool), stride)


def _attend_among(
    q: Tensor, k: Tensor, v: Tensor, position: tuple[Tensor, Tensor] | None, together: Tensor, stride: int
) -> Tensor:
    depth, height, width = q.shape[2:]
    logits = torch.einsum("bndi,bndj->bnij", q.flatten(3), k.flatten(3))
    if position is not None:
        p = encode(height, width, *position).flatten(1)
        logits = logits + torch.einsum("bndi,dij->bnij", q.flatten(3), p[:, :, None] - p[:, None, :])
    weights = (logits / depth**0.5).masked_fill(~together, float("-inf")).softmax(dim=-1)
    out = torch.einsum("bnij,bndj->bndi", weights, v.flatten(3)).unflatten(3, (height, width))
    return out.flatten(1, 2)[..., ::stride, ::stride]


def convolution(
    q: Tensor, k: Tensor, v: Tensor, fc: Tensor, shift: Tensor, stride: int = 1, dilation: int = 1
) -> Tensor:  # fmt: skip
    """Section 4.2 and 4.3: fc makes k² maps of the 3N, then the group convolution of Figure 3 c shifts and sums them."""
    depth = q.shape[2]
    kernel = shift.shape[-1]
    maps = torch.cat((q, k, v), dim=1)  # (B, 3N, D, H, W)
    light = torch.einsum("tm,bmdhw->bdthw", fc, maps)  # (B, D, k², H, W)
    return F.conv2d(
        light.flatten(1, 2), shift, stride=stride, padding=kernel // 2 * dilation, dilation=dilation, groups=depth
    )  # fmt: skip


def shift_tensors(light: Tensor, kernel: int) -> Tensor:
    """Equations 7 and 8 with tensor shifts: (B, k², H, W) → (B, H, W)."""
    height, width = light.shape[-2:]
    radius = kernel // 2
    padded = F.pad(light, (radius,) * 4)
    parts = [
        padded[:, p * kernel + q, p : p + height, q : q + width] for p in range(kernel) for q in range(kernel)
    ]  # fmt: skip
    return torch.stack(parts).sum(dim=0)
