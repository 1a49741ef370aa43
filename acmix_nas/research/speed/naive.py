"""The baselines: the operators as one writes them down from the paper, neighbourhoods unfolded K² fold."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.operators import WINDOW, ACmix, ConvolutionPath, LocalPath, PatchwiseAttention, PatchwisePath, Projection
from acmix_nas.operators.attend import LinearPosition

__all__ = ["NaiveACmix", "NaivePatchwise"]


class NaiveACmix(nn.Module):
    """ACmix on local attention, in the form that was published for ResNet (equations 11 to 13; Figure 3 c).

    Three 1×1 convolutions make q, k and v; k, v and the positional encoding are unfolded; fc and the group convolution run one
    after the other. The border is reflected by PyTorch's padding, so H and W must be larger than K // 2. With a stride, Stage I
    and fc still run at full resolution.

    Shapes: (B, in_channels, H, W) → (B, out_channels, ⌈H/s⌉, ⌈W/s⌉).
    """

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, window: int = WINDOW, kernel_size: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.window, self.stride = heads, out_channels // heads, window, stride
        taps = kernel_size**2
        self.q = nn.Conv2d(in_channels, out_channels, 1)
        self.k = nn.Conv2d(in_channels, out_channels, 1)
        self.v = nn.Conv2d(in_channels, out_channels, 1)
        self.encode = nn.Conv2d(2, self.head_dim, 1)
        self.pad = nn.ReflectionPad2d(window // 2)
        self.fc = nn.Conv2d(3 * heads, taps, 1, bias=False)
        self.shift = nn.Conv2d(
            taps * self.head_dim, out_channels, kernel_size, stride, kernel_size // 2, groups=self.head_dim, bias=False
        )
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.beta = nn.Parameter(torch.tensor(0.5))

    @classmethod
    @torch.no_grad()
    def from_ours(cls, acmix: ACmix) -> NaiveACmix:
        """Make the same function with a copy of the weights.

        Args:
            acmix: on local attention with reflected borders and linear positions, with a bias in Stage I.
        """
        attention, convolution, projection = acmix.attention, acmix.convolution, acmix.projection
        assert isinstance(attention, LocalPath)
        assert isinstance(attention.position, LinearPosition)
        assert isinstance(convolution, ConvolutionPath)
        assert isinstance(projection, Projection)
        assert convolution.shift is not None
        qkv, encode = projection.qkv, attention.position.linear
        naive = cls(
            qkv.in_channels, attention.channels, attention.heads, attention.window, convolution.kernel_size, attention.stride
        ).to(qkv.weight)
        _copy_stage1(projection, naive.q, naive.k, naive.v)
        naive.encode.weight.copy_(encode.weight[:, :, None, None])
        naive.encode.bias.copy_(encode.bias)  # type: ignore[union-attr]
        naive.fc.weight.copy_(convolution.fc[:, :, None, None])
        naive.shift.weight.copy_(convolution.shift)
        naive.alpha.copy_(acmix.alpha)
        naive.beta.copy_(acmix.beta)
        return naive

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)  # each (B, C, H, W)
        return self.alpha * self.attend(q, k, v) + self.beta * self.convolve(q, k, v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend by equation 10, with the logits q_i · (k_j + p_i − p_j) / √D."""
        height, width = q.shape[2:]
        columns = torch.linspace(-1, 1, width, device=q.device, dtype=q.dtype).expand(height, width)
        rows = torch.linspace(-1, 1, height, device=q.device, dtype=q.dtype)[:, None].expand(height, width)
        p = self.encode(torch.stack((columns, rows))[None])  # (1, D, H, W)

        q, k, v = (maps.reshape(-1, self.head_dim, height, width) for maps in (q, k, v))  # (B · N, D, H, W)
        q_i, p_i = (maps[:, :, None, :: self.stride, :: self.stride] for maps in (q, p))
        logits = (q_i * (self.neighbours(k) + p_i - self.neighbours(p))).sum(1) * self.head_dim**-0.5  # (B · N, K², Ho, Wo)
        out: Tensor = (logits.softmax(1)[:, None] * self.neighbours(v)).sum(2)
        return out.reshape(-1, self.heads * self.head_dim, *out.shape[2:])

    def neighbours(self, maps: Tensor) -> Tensor:
        """Unfold (B, D, H, W) → (B, D, K², Ho, Wo)."""
        return _unfold(self.pad(maps), self.window, self.stride)

    def convolve(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Convolve by equations 7 and 8: fc of the 3N maps, then the group convolution that shifts and sums."""
        batch, _, height, width = q.shape
        maps = torch.cat([x.reshape(batch, self.heads, self.head_dim, -1) for x in (q, k, v)], dim=1)  # (B, 3N, D, H · W)
        light = self.fc(maps).transpose(1, 2)  # (B, D, k², H · W)
        out: Tensor = self.shift(light.reshape(batch, -1, height, width))
        return out


class NaivePatchwise(nn.Module):
    """Patchwise attention in SAN's form (equation 18, appendix C): the query and its K² keys unfolded into one long map.

    H and W must be larger than K // 2, as for `NaiveACmix`.

    Args:
        share: channels of values that share their weights.

    Shapes: (B, in_channels, H, W) → (B, out_channels, ⌈H/s⌉, ⌈W/s⌉).
    """

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, window: int = WINDOW, stride: int = 1, share: int = 8
    ) -> None:
        super().__init__()
        self.window, self.stride, self.groups, head_dim = window, stride, out_channels // share, out_channels // heads
        self.q = nn.Conv2d(in_channels, head_dim, 1)
        self.k = nn.Conv2d(in_channels, head_dim, 1)
        self.v = nn.Conv2d(in_channels, out_channels, 1)
        self.pad = nn.ReflectionPad2d(window // 2)
        features = (window**2 + 1) * head_dim
        self.norm1 = nn.BatchNorm2d(features)
        self.squeeze = nn.Conv2d(features, self.groups, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(self.groups)
        self.expand = nn.Conv2d(self.groups, self.groups * window**2, 1)

    @classmethod
    @torch.no_grad()
    def from_ours(cls, attention: PatchwiseAttention) -> NaivePatchwise:
        """Make the same function with a copy of the weights and running statistics. Stage I must have a bias."""
        path, projection = attention.path, attention.projection
        assert isinstance(path, PatchwisePath)
        assert isinstance(projection, Projection)
        qkv = projection.qkv
        naive = cls(
            qkv.in_channels, path.channels, path.heads, path.window, path.stride, path.channels // path.groups
        ).to(qkv.weight)  # fmt: skip
        _copy_stage1(projection, naive.q, naive.k, naive.v)
        for name in ("norm1", "squeeze", "norm2", "expand"):
            naive.get_submodule(name).load_state_dict(path.get_submodule(name).state_dict())
        return naive.train(attention.training)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)  # (B, D, H, W) twice, and (B, C, H, W)
        keys = _unfold(self.pad(k), self.window, self.stride)  # (B, D, K², Ho, Wo)
        features = torch.cat((q[..., :: self.stride, :: self.stride], keys.flatten(1, 2)), dim=1)
        hidden = self.squeeze(F.relu(self.norm1(features)))  # (B, G, Ho, Wo)
        weight = self.expand(F.relu(self.norm2(hidden))).unflatten(1, (1, self.groups, self.window**2))
        values = _unfold(self.pad(v), self.window, self.stride).unflatten(1, (-1, self.groups))  # (B, C / G, G, K², Ho, Wo)
        out: Tensor = (weight * values).sum(3).flatten(1, 2)
        return out


def _unfold(padded: Tensor, window: int, stride: int) -> Tensor:
    """Unfold (B, C, Hp, Wp) → (B, C, K², Ho, Wo)."""
    height, width = ((size - window) // stride + 1 for size in padded.shape[2:])
    return F.unfold(padded, window, stride=stride).reshape(*padded.shape[:2], window**2, height, width)


def _copy_stage1(projection: Projection, *parts: nn.Conv2d) -> None:
    """Give the rows of the fused Stage I to convolutions of their own."""
    for name, value in projection.qkv.named_parameters():
        for part, rows in zip(parts, value.split([part.out_channels for part in parts]), strict=True):
            part.get_parameter(name).copy_(rows)
