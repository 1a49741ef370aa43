"""The formulas of the paper as they read, slow and obvious: the oracle of the tests.

Nothing here is imported from the package. Neighbourhoods are unfolded, positions are added to every logit, fc and shift
run one after the other.

Letters: B batch, C channels, N heads, D = C / N, H and W height and width, K window, k kernel, s stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def project(x: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Project by equation 11: q, k, v, each (B, N, D, H, W)."""
    maps = torch.einsum("oi,bihw->bohw", weight.flatten(1), x)
    if bias is not None:
        maps = maps + bias[None, :, None, None]
    q, k, v = (part.unflatten(1, (heads, -1)) for part in maps.chunk(3, dim=1))
    return q, k, v


def project_reduced(
    x: Tensor, q: nn.Conv2d, reduce: nn.Conv2d, norm: nn.LayerNorm, kv: nn.Conv2d, reduction: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Project by PVT's Stage I, R×R pixels after R×R pixels: q, and the cells' k and v at every pixel, each (B, C, H, W)."""
    assert q.bias is not None
    assert reduce.bias is not None
    assert kv.bias is not None
    queries = torch.einsum("oi,bihw->bohw", q.weight.flatten(1), x) + q.bias[:, None, None]
    rows = []
    for i in range(0, x.shape[2], reduction):
        row = []
        for j in range(0, x.shape[3], reduction):
            cell = x[:, :, i : i + reduction, j : j + reduction]  # cut off at the border, where zeros would follow
            kernel = reduce.weight[:, :, : cell.shape[2], : cell.shape[3]]
            one = torch.einsum("oihw,bihw->bo", kernel, cell) + reduce.bias
            one = F.layer_norm(one, one.shape[1:], norm.weight, norm.bias, norm.eps)
            both = torch.einsum("oi,bi->bo", kv.weight.flatten(1), one) + kv.bias  # (B, 2C)
            row.append(both[:, :, None, None].expand(-1, -1, *cell.shape[2:]))
        rows.append(torch.cat(row, dim=3))
    keys, values = torch.cat(rows, dim=2).chunk(2, dim=1)
    return queries, keys, values


def coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """Return (2, H, W): width first, each from −1 to 1."""
    columns = torch.linspace(-1, 1, width, dtype=like.dtype).repeat(height, 1)
    rows = torch.linspace(-1, 1, height, dtype=like.dtype).repeat(width, 1).T
    return torch.stack((columns, rows))


def encode(height: int, width: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (D, H, W): the learned linear map of the coordinates."""
    return torch.einsum("dc,chw->dhw", weight, coordinates(height, width, weight)) + bias[:, None, None]


def pad_index(size: int, radius: int, border: str) -> tuple[Tensor, Tensor]:
    """Return the index of each position of a padded axis, and whether the position lies inside."""
    inside = np.pad(np.ones(size, dtype=bool), radius)
    mode: Literal["reflect", "edge"] = "reflect" if border == "reflect" and size > 1 else "edge"
    index = np.pad(np.arange(size), radius, mode=mode)
    return torch.from_numpy(index), torch.from_numpy(inside)


def neighbours(maps: Tensor, window: int, stride: int, dilation: int, border: str) -> tuple[Tensor, Tensor]:
    """Return the K² neighbours of every strided pixel, (..., K², Ho, Wo), and whether each exists, (K², Ho, Wo)."""
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
    window: int, stride: int = 1, dilation: int = 1, border: str = "reflect", table: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attend by equations 10, 12 and 21 over N_K(i, j): logits q_i · (k_j + p_i − p_j) / √D + B. Return (B, C, Ho, Wo)."""
    head_dim, height, width = q.shape[2:]
    q = q[..., ::stride, ::stride]
    keys, exists = neighbours(k, window, stride, dilation, border)  # (B, N, D, K², Ho, Wo)
    values, _ = neighbours(v, window, stride, dilation, border)
    if position is not None:
        p = encode(height, width, *position)
        p_j, _ = neighbours(p, window, stride, dilation, border)  # (D, K², Ho, Wo)
        keys = keys + p[:, None, ::stride, ::stride] - p_j
    logits = torch.einsum("bndhw,bndjhw->bnjhw", q, keys) / head_dim**0.5
    if table is not None:
        radius = window // 2
        offsets = [(radius - a, radius - b) for a in range(window) for b in range(window)]
        bias = torch.stack([relative_bias(table, *offset) for offset in offsets])  # (K², N)
        logits = logits + bias.T[:, :, None, None]
    if border == "mask":
        logits = logits.masked_fill(~exists, float("-inf"))
    return torch.einsum("bnjhw,bndjhw->bndhw", logits.softmax(dim=2), values).flatten(1, 2)


def relative_bias(table: Tensor, down: int, right: int) -> Tensor:
    """Return (N,): what Swin's table of (2r + 1)² rows holds for a query so far below and right of its key."""
    side = round(len(table) ** 0.5)
    return table[(down + side // 2) * side + right + side // 2]


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, position: tuple[Tensor, Tensor] | None,
    window: int, stride: int = 1, shift: bool = False, table: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attend by equation 19, pixel by pixel: which pixels share a window (and, after the shift, a side of the seam)."""
    height, width = q.shape[-2:]

    def cells(size: int) -> Tensor:
        """Return the window of each coordinate. A pair that the roll brings together across the seam gets two."""
        side = min(window, size)
        number = -(-size // side)
        move = side // 2 if shift and number > 1 else 0
        cell = torch.empty(size, dtype=torch.long)
        for i in range(size):
            rolled = (i - move) % size
            cell[i] = rolled // side + (number if i < move else 0)
        return cell

    cell = (cells(height)[:, None] * 1000 + cells(width)[None, :]).flatten()
    return _attend_among(q, k, v, position, cell[:, None] == cell[None, :], stride, table)


def global_attention(
    q: Tensor, k: Tensor, v: Tensor, position: tuple[Tensor, Tensor] | None, stride: int = 1
) -> Tensor:  # fmt: skip
    """Attend by equation 20."""
    size = q.shape[-2] * q.shape[-1]
    return _attend_among(q, k, v, position, torch.ones(size, size, dtype=torch.bool), stride)


def _attend_among(
    q: Tensor, k: Tensor, v: Tensor, position: tuple[Tensor, Tensor] | None, together: Tensor, stride: int,
    table: Tensor | None = None,
) -> Tensor:  # fmt: skip
    head_dim, height, width = q.shape[2:]
    logits = torch.einsum("bndi,bndj->bnij", q.flatten(3), k.flatten(3))
    if position is not None:
        p = encode(height, width, *position).flatten(1)
        logits = logits + torch.einsum("bndi,dij->bnij", q.flatten(3), p[:, :, None] - p[:, None, :])
    logits = logits / head_dim**0.5
    if table is not None:
        nowhere = table.new_zeros(table.shape[1])
        pixels = [(i, j) for i in range(height) for j in range(width)]
        bias = [
            relative_bias(table, a[0] - b[0], a[1] - b[1]) if together[i, j] else nowhere
            for i, a in enumerate(pixels) for j, b in enumerate(pixels)
        ]  # fmt: skip
        logits = logits + torch.stack(bias).unflatten(0, (len(pixels), -1)).permute(2, 0, 1)
    weights = logits.masked_fill(~together, float("-inf")).softmax(dim=-1)
    out: Tensor = torch.einsum("bnij,bndj->bndi", weights, v.flatten(3)).unflatten(3, (height, width))
    return out.flatten(1, 2)[..., ::stride, ::stride]


def convolution(
    q: Tensor, k: Tensor, v: Tensor, fc: Tensor, shift: Tensor | None, stride: int = 1, dilation: int = 1,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Convolve by sections 4.2 and 4.3: fc makes k² maps of the 3N, then Figure 3 c's group convolution shifts and sums them.

    Without kernels the shifts are those of Figure 3 a, and the N channels of a head-channel are alike.
    """
    heads, head_dim = v.shape[1:3]
    maps = torch.cat((q, k, v), dim=1)  # (B, 3N, D, H, W)
    light = torch.einsum("tm,bmdhw->bdthw", fc, maps)  # (B, D, k², H, W)
    if bias is not None:
        light = light + bias[:, None, None]
    kernel = round(len(fc) ** 0.5)
    if shift is None:
        parts = [shift_tensors(light[:, d], kernel, stride, dilation) for d in range(head_dim) for _ in range(heads)]
        return torch.stack(parts, dim=1)
    return F.conv2d(
        light.flatten(1, 2), shift, stride=stride, padding=kernel // 2 * dilation, dilation=dilation, groups=head_dim
    )  # fmt: skip


def shift_tensors(light: Tensor, kernel: int, stride: int = 1, dilation: int = 1) -> Tensor:
    """Shift tensors by equations 7 and 8: (B, k², H, W) → (B, Ho, Wo)."""
    height, width = light.shape[-2:]
    padded = F.pad(light, (kernel // 2 * dilation,) * 4)
    parts = []
    for p in range(kernel):
        for q in range(kernel):
            shifted = padded[:, p * kernel + q, p * dilation : p * dilation + height, q * dilation : q * dilation + width]
            parts.append(shifted[:, ::stride, ::stride])
    return torch.stack(parts).sum(dim=0)


def patchwise_attention(
    q: Tensor, k: Tensor, v: Tensor, norm1: nn.Module, squeeze: Tensor, norm2: nn.Module, expand: tuple[Tensor, Tensor],
    window: int, stride: int = 1, dilation: int = 1,
) -> Tensor:  # fmt: skip
    """Attend by equation 18 as SAN has it, over q and k (B, D, H, W) and v (B, C, H, W). Return (B, C, Ho, Wo).

    norm1 and norm2 are PyTorch's batch norms; squeeze (G, (K² + 1) · D), expand (G · K², G) and its bias.
    """
    keys, _ = neighbours(k, window, stride, dilation, "reflect")  # (B, D, K², Ho, Wo)
    values, _ = neighbours(v, window, stride, dilation, "reflect")
    x = torch.cat((q[..., ::stride, ::stride], keys.flatten(1, 2)), dim=1)
    hidden = torch.einsum("gc,bchw->bghw", squeeze, norm1(x).relu())
    weight = torch.einsum("og,bghw->bohw", expand[0], norm2(hidden).relu()) + expand[1][:, None, None]
    weight = weight.unflatten(1, (-1, window**2))  # (B, G, K², Ho, Wo)
    groups = weight.shape[1]
    return torch.stack([(weight[:, c % groups] * values[:, c]).sum(1) for c in range(v.shape[1])], dim=1)


# The networks as the authors published them (Tables 9 and 12). Their state dicts have exactly the published keys.


def published_convolution(maps: Tensor, fc: nn.Conv2d, dep_conv: nn.Conv2d) -> Tensor:
    """Convolve by equations 7 and 8 the 3N maps (B, 3N, D, H, W): output channel d · N + n. Return (B, C, Ho, Wo)."""
    light = [fc(maps[:, :, d]) for d in range(maps.shape[2])]  # D times (B, 9, H, W)
    out: Tensor = dep_conv(torch.cat(light, dim=1))
    return out


class PublishedWindowACmix(nn.Module):
    """ACmix of Swin, on a map that may be rolled: (B, H, W, C) → (B, H, W, C)."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.window = heads, channels // heads, window
        side = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(side**2, heads))
        rows = torch.arange(window).repeat_interleave(window)
        columns = torch.arange(window).repeat(window)
        down = rows[:, None] - rows[None, :] + window - 1  # query minus key
        right = columns[:, None] - columns[None, :] + window - 1
        self.register_buffer("relative_position_index", down * side + right)  # (K², K²)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.fc = nn.Conv2d(3 * heads, 9, 1)
        self.dep_conv = nn.Conv2d(9 * self.head_dim, channels, 3, padding=1, groups=self.head_dim, bias=False)
        self.rate1 = nn.Parameter(torch.tensor([0.5]))
        self.rate2 = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Add the mask (windows, K², K²) to the logits, and attend."""
        qkv = self.qkv(x).unflatten(3, (3, self.heads, self.head_dim))  # (B, H, W, 3, N, D)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # (N, K², K²)
        attention = torch.zeros_like(x)
        number = 0
        for top in range(0, x.shape[1], self.window):
            for left in range(0, x.shape[2], self.window):
                inside = (slice(None), slice(top, top + self.window), slice(left, left + self.window))
                q, k, v = qkv[inside].flatten(1, 2).unbind(dim=2)  # (B, K², N, D)
                logits = torch.einsum("bind,bjnd->bnij", q * self.head_dim**-0.5, k) + bias
                if mask is not None:
                    logits = logits + mask[number]
                out = torch.einsum("bnij,bjnd->bind", logits.softmax(dim=-1), v)
                attention[inside] = out.flatten(2).unflatten(1, (self.window, self.window))
                number += 1
        maps = qkv.flatten(3, 4).permute(0, 3, 4, 1, 2)  # (B, 3N, D, H, W)
        convolution = published_convolution(maps, self.fc, self.dep_conv).permute(0, 2, 3, 1)
        projected: Tensor = self.proj(attention)
        return self.rate1 * projected + self.rate2 * convolution


class PublishedSwinBlock(nn.Module):
    """(B, H, W, C) → (B, H, W, C), for one size of map, which the window divides or covers."""

    attn_mask: Tensor

    def __init__(self, channels: int, heads: int, window: int, shifted: bool, height: int, width: int) -> None:
        super().__init__()
        if min(height, width) <= window:
            window, shifted = min(height, width), False
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(channels)
        self.attn = PublishedWindowACmix(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(channels, 4 * channels))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(4 * channels, channels))
        if shifted:
            # What the roll has brought over the border lies in the last rows and columns, and is no neighbour of the rest.
            below = (torch.arange(height) >= height - self.shift)[:, None].expand(height, width)
            beside = (torch.arange(width) >= width - self.shift)[None, :].expand(height, width)
            masks = []
            for top in range(0, height, window):
                for left in range(0, width, window):
                    inside = (slice(top, top + window), slice(left, left + window))
                    a, b = below[inside].flatten(), beside[inside].flatten()
                    apart = (a[:, None] != a[None, :]) | (b[:, None] != b[None, :])
                    masks.append(apart * -100.0)
            self.register_buffer("attn_mask", torch.stack(masks))

    def mix(self, x: Tensor) -> Tensor:
        """Apply ACmix to the map, rolled first and back at the end."""
        if not self.shift:
            out: Tensor = self.attn(x, None)
            return out
        rolled: Tensor = self.attn(x.roll((-self.shift, -self.shift), dims=(1, 2)), self.attn_mask)
        return rolled.roll((self.shift, self.shift), dims=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm1(x))
        hidden: Tensor = self.mlp(self.norm2(x))
        return x + hidden


class PublishedMerging(nn.Module):
    """(B, H, W, C) → (B, H/2, W/2, 2C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        quarters = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        out: Tensor = self.reduction(self.norm(torch.cat(quarters, dim=-1)))
        return out


class PublishedSwinStage(nn.Module):
    """Blocks, every second one shifted, and the merging at their end, unless the stage is the last."""

    def __init__(self, channels: int, heads: int, window: int, depth: int, height: int, width: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            PublishedSwinBlock(channels, heads, window, number % 2 == 1, height, width) for number in range(depth)
        )
        self.downsample = None if last else PublishedMerging(channels)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PublishedPatches(nn.Module):
    """(B, 3, H, W) → (B, H/4, W/4, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return out


class PublishedSwin(nn.Module):
    """Swin-ACmix (Table 12) for one size of image, (B, 3, H, W) → (B, classes); by default Swin-ACmix-T."""

    def __init__(
        self, size: tuple[int, int] = (224, 224), channels: int = 96, depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24), window: int = 7, classes: int = 1000,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch_embed = PublishedPatches(channels)
        self.layers = nn.ModuleList()
        for stage, (depth, number) in enumerate(zip(depths, heads, strict=True)):
            height, width = (side // 4 // 2**stage for side in size)
            last = stage == len(depths) - 1
            self.layers.append(PublishedSwinStage(channels * 2**stage, number, window, depth, height, width, last))
        self.norm = nn.LayerNorm(channels * 2 ** (len(depths) - 1))
        self.head = nn.Linear(self.norm.normalized_shape[0], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)  # (B, H/4, W/4, C)
        for stage in self.layers:
            x = stage(x)
        out: Tensor = self.head(self.norm(x).mean(dim=(1, 2)))
        return out


class PublishedLocalACmix(nn.Module):
    """ACmix of ResNet: N = 4, K = 7, reflected borders. (B, C, H, W) → (B, C, ⌈H/s⌉, ⌈W/s⌉), H and W at least 4."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.head_dim, self.stride = channels // 4, stride
        self.rate1 = nn.Parameter(torch.tensor([0.5]))
        self.rate2 = nn.Parameter(torch.tensor([0.5]))
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.conv_p = nn.Conv2d(2, self.head_dim, 1)
        self.fc = nn.Conv2d(12, 9, 1, bias=False)
        self.dep_conv = nn.Conv2d(9 * self.head_dim, channels, 3, stride, padding=1, groups=self.head_dim, bias=False)

    def around(self, maps: Tensor) -> Tensor:
        """Return the 49 neighbours of every strided pixel: (B, D, H, W) → (B, D, 49, Ho, Wo)."""
        height, width = maps.shape[-2:]
        padded = F.pad(maps, (3, 3, 3, 3), mode="reflect")
        views = [padded[..., a : a + height, b : b + width] for a in range(7) for b in range(7)]
        return torch.stack(views, dim=2)[..., :: self.stride, :: self.stride]

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        across = torch.linspace(-1, 1, width, dtype=x.dtype)[None, :].expand(height, width)
        down = torch.linspace(-1, 1, height, dtype=x.dtype)[:, None].expand(height, width)
        p = self.conv_p(torch.stack((across, down))[None])  # (1, D, H, W)
        p_i = p[:, :, None, :: self.stride, :: self.stride]
        q, k, v = (conv(x).unflatten(1, (4, self.head_dim)) for conv in (self.conv1, self.conv2, self.conv3))
        heads = []
        for h in range(4):
            q_i = q[:, h, :, None, :: self.stride, :: self.stride] * self.head_dim**-0.5  # (B, D, 1, Ho, Wo)
            logits = (q_i * (self.around(k[:, h]) + p_i - self.around(p))).sum(dim=1, keepdim=True)
            heads.append((logits.softmax(dim=2) * self.around(v[:, h])).sum(dim=2))
        attention = torch.cat(heads, dim=1)  # channel h · D + d
        convolution = published_convolution(torch.cat((q, k, v), dim=1), self.fc, self.dep_conv)
        return self.rate1 * attention + self.rate2 * convolution


class PublishedBottleneck(nn.Module):
    """(B, inputs, H, W) → (B, 4 · channels, ⌈H/s⌉, ⌈W/s⌉)."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = PublishedLocalACmix(channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = None
        if stride != 1 or inputs != 4 * channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * channels, 1, stride, bias=False), nn.BatchNorm2d(4 * channels)
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        out = self.bn3(self.conv3(out))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class PublishedResNet(nn.Module):
    """ResNet-ACmix (Table 9), (B, 3, H, W) → (B, classes); by default ResNet-ACmix 26."""

    def __init__(
        self, layers: Sequence[int] = (1, 2, 4, 1), channels: Sequence[int] = (64, 128, 256, 512), classes: int = 1000
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, (depth, number) in enumerate(zip(layers, channels, strict=True), start=1):
            blocks = []
            for block in range(depth):
                blocks.append(PublishedBottleneck(inputs, number, 2 if stage > 1 and block == 0 else 1))
                inputs = 4 * number
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, stride=2, padding=1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        out: Tensor = self.fc(x.mean(dim=(2, 3)))
        return out
