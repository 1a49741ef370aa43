"""A weighted sum of normalised mixtures of maps, from the moments of the maps. Nothing here needs NNI."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from acmix_nas.operators import kernels

__all__ = ["normalised_sum"]


def normalised_sum(
    maps: Sequence[Tensor],
    strengths: Tensor,
    weights: Tensor,
    norms: Sequence[nn.BatchNorm2d],
    pairs: Sequence[tuple[int, int]],
) -> Tensor:
    """Compute Σ wᵢ · normᵢ(Σ sᵢₘ · mapₘ), and update the running statistics of the norms as if each had run.

    Nothing is mixed or normalised map by map. The mean and the variance of a mixture follow from the means, variances and
    covariances of its maps. So all of it is one linear combination of the maps, channel by channel. For seven candidates of
    four maps that is one pass to measure and one to combine, in place of seven normalisations.

    Args:
        maps: each (B, C, H, W).
        strengths: (candidates, maps), s.
        weights: (candidates,), w.
        norms: of every candidate; if affine, with one weight and bias for all.
        pairs: the maps that stand together in some candidate.
    """
    first = norms[0]
    with torch.autocast(maps[0].device.type, enabled=False):  # small sums, of which digits cancel
        strengths, weights = _exact(strengths), _exact(weights)
        if first.training:
            mean, variance, covariance = _moments(maps, pairs)
            means = strengths @ mean  # (candidates, C)
            variances = strengths.square() @ variance
            if pairs:
                products = torch.stack([strengths[:, a] * strengths[:, b] for a, b in pairs], dim=1)  # (candidates, pairs)
                variances = (variances + 2 * products @ covariance).clamp(min=0)
            _track(norms, means.detach(), variances.detach(), maps[0][:, 0].numel())
        else:
            means = torch.stack([_exact(_statistic(norm.running_mean)) for norm in norms])
            variances = torch.stack([_exact(_statistic(norm.running_var)) for norm in norms])
        weighted = weights[:, None] * (variances + first.eps).rsqrt()
        factors, shift = strengths.T @ weighted, -(weighted * means).sum(0)
        if first.affine:
            factors, shift = factors * first.weight, shift * first.weight + first.bias * weights.sum()
        return _combine(maps, factors, shift)


def _exact(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _statistic(of: Tensor | None) -> Tensor:
    assert of is not None
    return of


def _in_c(maps: Sequence[Tensor]) -> bool:
    return len(maps) <= kernels.MOST_MAPS and all(x.dtype == torch.float32 and kernels.runs_on(x) for x in maps)


def _moments(maps: Sequence[Tensor], pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    if _in_c(maps):
        return kernels.moments(maps, pairs)
    exact = [_exact(x) for x in maps]
    found = [torch.var_mean(x, (0, 2, 3), correction=0) for x in exact]
    mean, variance = torch.stack([mean for _, mean in found]), torch.stack([variance for variance, _ in found])
    about = {index: exact[index] - mean[index][:, None, None] for index in {index for pair in pairs for index in pair}}
    covariance = [(about[a] * about[b]).mean((0, 2, 3)) for a, b in pairs]
    return mean, variance, torch.stack(covariance) if pairs else mean[:0]


def _combine(maps: Sequence[Tensor], factors: Tensor, shift: Tensor) -> Tensor:
    if _in_c(maps):
        return kernels.combine(maps, factors, shift)
    out = shift[:, None, None].expand_as(maps[0])
    for x, factor in zip(maps, factors, strict=True):
        out = torch.addcmul(out, x.to(out.dtype), factor[:, None, None])
    return out.to(maps[0].dtype)


@torch.no_grad()
def _track(norms: Sequence[nn.BatchNorm2d], means: Tensor, variances: Tensor, images: int) -> None:
    """Update the running statistics, as nn.BatchNorm2d does."""
    unbiased = variances * (images / max(images - 1, 1))
    for norm, mean, variance in zip(norms, means, unbiased, strict=True):
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        share = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.item()
        for running, now in ((_statistic(norm.running_mean), mean), (_statistic(norm.running_var), variance)):
            running.lerp_(now.to(running.dtype), share)
