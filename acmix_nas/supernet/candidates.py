"""All candidates of a slot at once, on one Stage I. Nothing here needs NNI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from acmix_nas.operators import ACmix, Mixing, Operator, Projection
from acmix_nas.slots.finding import Slot
from acmix_nas.slots.making import attention_at, convolution_at, make_operator, norm_at, projection_at, take_over
from acmix_nas.slots.names import OperatorName
from acmix_nas.supernet.mixture import normalised_sum
from acmix_nas.util.errors import one_of

__all__ = ["SHARING", "Candidates", "Lean"]

SHARING = ("all", "attention", "none")
CONVOLUTION = "convolution"
"""Among paths: the convolution path."""
Lean = tuple[str, float | None, float | None, float | None]
"""An operator, its probability, α and β; what it has not is None."""


class Candidates(nn.Module):
    """The candidates of one slot, computed together.

    Stage I runs once, each path of Stage II once, however many candidates use it: an ACmix candidate mixes what the plain
    ones have computed. So 2A + 1 candidates of A attentions cost one Stage I, A attentions and one convolution path.

    That makes the mixture linear in the paths, and a weighted sum blind to ACmix: the gradient of its weight is a blend
    of the other two. Each candidate therefore passes through an affine-free batch normalisation of its own first, which
    `normalised_sum` computes for all of them in two passes over the paths.

    Args:
        slot: with its candidates.
        share: "all" puts every candidate on the shared Stage I; "attention" leaves `conv` a dense kernel of its own;
            "none" gives every candidate its own projections, which is how NNI's LayerChoice works, for comparison. Where
            Stage I is not linear (PVT's, with a reduction), `conv` has a kernel of its own in any case.
        home: what stands there in the backbone, whose weights the candidates start from where they have a place for them.
    """

    def __init__(self, slot: Slot, share: str = "all", home: nn.Module | None = None) -> None:
        super().__init__()
        if share not in SHARING:
            raise one_of("share", share, SHARING)
        self.slot, self.share = slot, share
        self.names = slot.candidates
        self.operators = {name: OperatorName.parse(name) for name in self.names}
        weight = next(home.parameters()) if home is not None else None
        like: dict[str, Any] = {} if weight is None else {"device": weight.device, "dtype": weight.dtype}
        self.norms = nn.ModuleDict({name: norm_at(slot, **like) for name in self.names})
        first = self.norms[self.names[0]]
        for norm in self.norms.values():
            norm.weight, norm.bias = first.weight, first.bias  # one scale and bias, so that none is weighted twice

        # Candidates with weights of their own; the others are put together from the parts below.
        own_kernel = share == "attention" or not slot.linear
        alone = [name for name in self.names if share == "none" or (own_kernel and name == "conv")]
        self.alone = nn.ModuleDict()
        for name in alone:
            module = make_operator(slot, name, home, **like)
            self.alone[name] = module if name == "conv" else module.get_submodule("operator")

        shared = [operator for name, operator in self.operators.items() if name not in self.alone]
        self.projection = projection_at(slot, len(slot.reads), **like) if shared else None
        self.attentions = nn.ModuleDict()
        for operator in shared:
            if operator.attention is not None and operator.attention not in self.attentions:
                self.attentions[operator.attention] = attention_at(slot, operator, **like)
        self.mixings = nn.ModuleDict({operator.text: Mixing(**like) for operator in shared if operator.mixed})
        convolves = any(operator.mixed or operator.kind is None for operator in shared)
        self.convolution = convolution_at(slot, **like) if convolves else None
        if isinstance(home, Operator | ACmix):
            take_over(self.projection, home.projection)
            at_home = home.attention
            for name, attention in self.attentions.items():
                if at_home is not None and attention.name == at_home.name:
                    take_over(attention, at_home)
                    if isinstance(home, ACmix) and f"acmix_{name}" in self.mixings:
                        take_over(self.mixings[f"acmix_{name}"], home.mixing)
            take_over(self.convolution, home.convolution)

    def _paths(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Run what these candidates are made of, each (B, C, Ho, Wo).

        These are attentions, the convolution path, and candidates with weights of their own.
        """
        paths = {name: self.alone[name](x) for name in names if name in self.alone}
        needed = [self.operators[name] for name in names if name not in self.alone]
        if needed:
            assert self.projection is not None
            attentions = dict.fromkeys(operator.attention for operator in needed if operator.attention is not None)
            maps = self.projection(x) if attentions else None
            paths |= {name: self.attentions[name](maps) for name in attentions}
            if any(operator.mixed or operator.kind is None for operator in needed):
                assert self.convolution is not None
                paths[CONVOLUTION] = self.convolution.on(self.projection, x, maps)
        return paths

    def outputs(self, x: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the normalised outputs of these candidates (all by default), each (B, C, Ho, Wo)."""
        names = self.names if names is None else names
        paths = self._paths(x, names)
        outputs = {}
        for name in names:
            parts = self._parts(name)
            out = self._mixing(name)(*(paths[part] for part in parts)) if len(parts) > 1 else paths[parts[0]]
            outputs[name] = self.norms[name](out)
        return outputs

    def _parts(self, name: str) -> list[str]:
        """Return the paths of which a candidate is made. Of two, the attention comes first."""
        operator = self.operators[name]
        if name in self.alone:
            return [name]
        if operator.attention is None:
            return [CONVOLUTION]
        return [operator.attention, CONVOLUTION] if operator.mixed else [operator.attention]

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Compute Σ wᵢ · normalised output i, for weights (candidates,) in the order of `names`."""
        paths = self._paths(x, self.names)
        order = {name: index for index, name in enumerate(paths)}
        values = [weights.new_zeros(()), weights.new_ones(())]
        places = [[0] * len(paths) for _ in self.names]  # (candidates, paths): which of the values stands there
        pairs = []
        for row, name in zip(places, self.names, strict=True):
            parts = [order[part] for part in self._parts(name)]
            if len(parts) == 1:
                row[parts[0]] = 1
            else:
                pairs.append((parts[0], parts[1]))
                row[parts[0]], row[parts[1]] = len(values), len(values) + 1
                values += self._mixing(name).strengths
        strengths = torch.stack(values)[torch.tensor(places, device=weights.device)]
        norms = [norm for norm in self.norms.values() if isinstance(norm, nn.BatchNorm2d)]
        return normalised_sum(list(paths.values()), strengths, weights, norms, pairs)

    def _mixing(self, name: str) -> Mixing:
        """Return α and β of a candidate on the shared stages."""
        mixing = self.mixings[name]
        assert isinstance(mixing, Mixing)
        return mixing

    def mixing_of(self, name: str) -> Mixing | None:
        """Return α and β of a candidate, where it has them."""
        found = self.mixings[name] if name in self.mixings else self.alone[name] if name in self.alone else None
        mixing = found.mixing if isinstance(found, ACmix) else found
        return mixing if isinstance(mixing, Mixing) else None

    def lean(self, probabilities: Mapping[str, float] | None = None) -> Iterator[Lean]:
        """Yield (operator, probability, α, β) of every candidate."""
        for name in self.names:
            mixing = self.mixing_of(name)
            strengths = (None, None) if mixing is None else tuple(strength.item() for strength in mixing.strengths)
            yield name, None if probabilities is None else probabilities[name], *strengths

    @torch.no_grad()
    def derive(self, name: str) -> nn.Module:
        """Derive what stands at the slot when this choice is made, with a copy of the weights.

        In evaluation mode it equals this candidate's normalised output; `conv` collapses into a plain nn.Conv2d, with the
        normalisation in its weight and bias.

        Raises:
            UserError: where `name` is no candidate.
        """
        if name not in self.operators:
            raise one_of(f"operator of slot {self.slot.name!r}", name, self.names)
        norm = self.norms[name]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        like: dict[str, Any] = {"device": norm.running_mean.device, "dtype": norm.running_mean.dtype}
        derived = make_operator(self.slot, name, **like).train(self.training)
        if isinstance(derived, nn.Conv2d):
            self._collapse_into(derived, norm)
            return derived
        module = derived.get_submodule("operator")
        if name in self.alone:
            module.load_state_dict(self.alone[name].state_dict())
        else:
            self._copy_into(module, self.operators[name])
        derived.get_submodule("norm").load_state_dict(norm.state_dict())
        return derived

    def _collapse_into(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        """Write the convolution path as one dense kernel (equality 4 of docs/equalities.md).

        The normalisation folds into it.
        """
        assert conv.bias is not None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if "conv" in self.alone:
            conv.load_state_dict(self.alone["conv"].state_dict())
        else:
            assert isinstance(self.projection, Projection)
            assert self.convolution is not None
            stage1 = self.projection.qkv.weight.flatten(1)
            if self.projection.qkv.bias is not None:
                stage1 = torch.cat((stage1, self.projection.qkv.bias[:, None]), dim=1)
            conv.weight.copy_(self.convolution.dense(stage1))
            if self.convolution.bias is not None:
                conv.weight[:, -1:].add_(self.convolution.bias_kernel())  # the channel of ones
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.affine:
            scale = scale * norm.weight
        conv.weight.mul_(scale[:, None, None, None])
        conv.bias.sub_(norm.running_mean).mul_(scale)
        if norm.affine:
            conv.bias.add_(norm.bias)

    def _copy_into(self, module: nn.Module, operator: OperatorName) -> None:
        assert self.projection is not None
        attention = self.attentions[str(operator.attention)].state_dict()
        stage1 = self.projection.state_dict()
        if isinstance(module, ACmix):
            assert module.attention is not None
            assert module.convolution is not None
            assert self.convolution is not None
            module.attention.load_state_dict(attention)
            module.convolution.load_state_dict(self.convolution.state_dict())
            module.mixing.load_state_dict(self.mixings[operator.text].state_dict())
        else:
            assert isinstance(module, Operator)
            module.path.load_state_dict(attention)
            if operator.path is not None and self.slot.linear:
                read = [self.slot.reads.index(number) for number in operator.path.reads(self.slot.heads)]
                stage1 = {key: rows.unflatten(0, (-1, self.slot.head_dim))[read].flatten(0, 1) for key, rows in stage1.items()}
        module.get_submodule("projection").load_state_dict(stage1)
