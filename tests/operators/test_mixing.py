"""How ACmix weighs its two paths: the six forms of Table 6."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acmix_nas.operators import (
    MIXINGS,
    ACmix,
    Convolution,
    ConvolutionPath,
    GlobalPath,
    LocalAttention,
    LocalPath,
    Mixing,
    Output,
    Path,
    Projection,
    ReducedProjection,
    WindowPath,
)
from acmix_nas.util.errors import UserError
from tests.small import known

# The strengths once α is 0.3 and β 0.8 wherever they are learned, and what is learned.
FORMS: dict[str, tuple[float, float, list[str]]] = {
    "attention": (1.0, 0.0, []),
    "convolution": (0.0, 1.0, []),
    "sum": (1.0, 1.0, []),
    "alpha": (0.3, 1.0, ["alpha"]),
    "convex": (0.3, 0.7, ["alpha"]),
    "learned": (0.3, 0.8, ["alpha", "beta"]),
}
STARTS = {"alpha": (0.5, 1.0), "convex": (0.5, 0.5), "learned": (0.5, 0.5)}


def learnt(mixing: str) -> Mixing:
    module = Mixing(mixing)
    values = {"alpha": 0.3, "beta": 0.8}
    for name, parameter in module.named_parameters():
        nn.init.constant_(parameter, values[name])
    return module


def ran(module: nn.Module, x: Tensor) -> list[str]:
    """Return the paths that a forward goes through."""
    names: list[str] = []
    on = ConvolutionPath.on

    def noted(path: ConvolutionPath, *arguments: Any) -> Tensor:  # it may run without a forward of its own
        names.append("ConvolutionPath")
        return on(path, *arguments)

    hooks = [
        part.register_forward_hook(lambda m, *_: names.append(type(m).__name__))
        for part in module.modules()
        if isinstance(part, Path) and not isinstance(part, ConvolutionPath)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConvolutionPath, "on", noted)
        module(x)
    for hook in hooks:
        hook.remove()
    return names


def test_every_form_is_here() -> None:
    assert tuple(FORMS) == MIXINGS


@pytest.mark.parametrize("mixing", MIXINGS)
def test_value_of_the_mixture(mixing: str) -> None:
    module = learnt(mixing)
    alpha, beta, _ = FORMS[mixing]
    assert [strength.item() for strength in module.strengths] == pytest.approx([alpha, beta])
    attention, convolution = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(module(attention, convolution), alpha * attention + beta * convolution)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_what_is_trained_and_kept(mixing: str) -> None:
    module = Mixing(mixing)
    learned = FORMS[mixing][2]
    assert [name for name, p in module.named_parameters() if p.requires_grad] == learned
    assert list(module.state_dict()) == learned


@pytest.mark.parametrize("mixing", MIXINGS)
def test_where_it_starts(mixing: str) -> None:
    expected = STARTS.get(mixing, FORMS[mixing][:2])
    assert tuple(strength.item() for strength in Mixing(mixing).strengths) == expected


def test_convex_strengths_pull_against_each_other() -> None:
    module = learnt("convex")
    attention, convolution, cotangent = torch.randn(3, 2, 4, 5)
    module(attention, convolution).backward(cotangent)
    torch.testing.assert_close(module.alpha.grad, (cotangent * (attention - convolution)).sum())


@pytest.mark.parametrize(("mixing", "path"), [("attention", "LocalPath"), ("convolution", "ConvolutionPath")])
def test_one_path_alone_is_all_that_is_built_and_run(mixing: str, path: str) -> None:
    operator = ACmix(6, 8, heads=2, window=3, mixing=mixing)
    x = torch.randn(2, 6, 5, 7)
    assert [type(part).__name__ for part in operator.modules() if isinstance(part, Path)] == [path]
    assert ran(operator, x) == [path]
    operator(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in operator.parameters())


@pytest.mark.parametrize("mixing", ["sum", "alpha", "convex", "learned"])
def test_both_paths_run_once(mixing: str) -> None:
    operator = ACmix(6, 8, heads=2, window=3, mixing=mixing)
    assert ran(operator, torch.randn(2, 6, 5, 7)) == ["LocalPath", "ConvolutionPath"]


def test_one_path_alone_is_that_operator() -> None:
    arguments: dict[str, Any] = {"in_channels": 6, "out_channels": 8, "heads": 2}
    attention, convolution = LocalAttention(**arguments, window=3), Convolution(**arguments)
    x = torch.randn(2, 6, 5, 7)
    for plain, mixing in ((attention, "attention"), (convolution, "convolution")):
        acmix = ACmix(**arguments, window=3, mixing=mixing)
        acmix.projection.load_state_dict(plain.projection.state_dict())
        acmix.get_submodule(mixing).load_state_dict(plain.path.state_dict())
        assert torch.equal(acmix(x), plain(x))
        assert acmix.macs(5, 7) == plain.macs(5, 7)


def test_cost_is_that_of_what_runs() -> None:
    def macs(mixing: str) -> float:
        return ACmix(8, 8, heads=2, mixing=mixing, device="meta").macs(9, 6).stage2

    assert macs("learned") == macs("sum") == macs("attention") + macs("convolution")


@pytest.mark.parametrize("mixing", MIXINGS)
def test_a_copy_learns_for_itself(mixing: str) -> None:
    operator = ACmix(6, 8, heads=2, window=3, mixing=mixing)
    twin = copy.deepcopy(operator)
    for parameter in twin.parameters():
        nn.init.constant_(parameter, 0.1)
    assert (operator.alpha.item(), operator.beta.item()) == STARTS.get(mixing, FORMS[mixing][:2])
    twin.load_state_dict(operator.state_dict())
    x = torch.randn(1, 6, 4, 4)
    assert torch.equal(twin(x), operator(x))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_strengths_take_device_and_type(mixing: str) -> None:
    module = Mixing(mixing, device="meta", dtype=torch.float16)
    assert {(strength.device.type, strength.dtype) for strength in module.strengths} == {("meta", torch.float16)}


def test_acmix_of_parts_is_made_of_them() -> None:
    parts = Projection(6, 24), LocalPath(8, 2, window=3), ConvolutionPath(8, 2), Mixing("alpha")
    operator = ACmix.of(*parts)
    assert (operator.projection, operator.attention, operator.convolution, operator.mixing) == parts
    assert operator.name == "acmix_local_k3"
    x = torch.randn(2, 6, 5, 7)
    maps = parts[0](x)
    torch.testing.assert_close(operator(x), 0.5 * parts[1](maps) + parts[2](maps))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_acmix_of_parts_equals_the_one_that_is_constructed(mixing: str) -> None:
    constructed = ACmix(6, 8, heads=2, attention="window", window=3, mixing=mixing, position="table")
    parts = Projection(6, 24), WindowPath(8, 2, 3, position="table"), ConvolutionPath(8, 2), Mixing(mixing)
    operator = ACmix.of(*parts)
    operator.load_state_dict(constructed.state_dict())
    x = torch.randn(2, 6, 5, 7)
    assert torch.equal(operator(x), constructed(x))
    assert (operator.name, operator.macs(5, 7)) == (constructed.name, constructed.macs(5, 7))


def test_acmix_takes_the_parts_of_a_transformer() -> None:
    """PVT's Stage I, and an output projection behind the attention alone."""
    output = Output(GlobalPath(8, 2, reduction=2, position="none"))
    operator = ACmix.of(ReducedProjection(8, 2), output, ConvolutionPath(8, 2), Mixing("sum"))
    x = torch.randn(2, 8, 5, 7)
    maps = operator.projection(x)
    torch.testing.assert_close(operator(x), output.proj(output.path(maps)) + known(operator.convolution)(maps))
    assert operator.name == "acmix_global_r2"


def test_errors_name_the_forms() -> None:
    with pytest.raises(
        UserError, match=r"^mixing must be one of attention, convolution, sum, alpha, convex, learned; got 'beta'$"
    ):
        ACmix(8, 8, heads=2, mixing="beta")
