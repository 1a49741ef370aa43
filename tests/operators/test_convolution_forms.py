"""The forms of the convolution path (Table 7), the bias of fc, and the dense kernel that sees ones."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.operators import SHIFTS, Convolution, ConvolutionPath, OnesConv2d, Projection, ReducedProjection
from acmix_nas.util.errors import UserError
from tests import reference
from tests.small import Tolerance, known, part

EXACT: Tolerance = {"atol": 1e-12, "rtol": 1e-12}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"stride": 2},
    "dilation": {"dilation": 3},
    "stride_dilation": {"stride": 3, "dilation": 2},
}


def double(channels: int = 8, heads: int = 2, **arguments: Any) -> ConvolutionPath:
    return ConvolutionPath(channels, heads, dtype=torch.float64, **arguments)


def maps_of(path: ConvolutionPath, height: int = 7, width: int = 10) -> Tensor:
    return torch.randn(2, path.maps * path.head_dim, height, width, dtype=torch.float64)


def start_of(path: ConvolutionPath) -> Tensor:
    """Return (C, k², k, k): kernels that shift."""
    taps = path.kernel_size**2
    return torch.eye(taps, dtype=torch.float64).view(1, taps, path.kernel_size, -1).expand(path.channels, -1, -1, -1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("heads", [2, 8])
@pytest.mark.parametrize("kernel", [3, 5])
def test_tensor_shifts_and_fixed_kernels_agree(kernel: int, heads: int, shape: str, bias: bool) -> None:
    fixed = double(16, heads, kernel_size=kernel, shifts="fixed", bias=bias, **SHAPES[shape])
    tensor = double(16, heads, kernel_size=kernel, shifts="tensor", bias=bias, **SHAPES[shape])
    tensor.load_state_dict({key: value for key, value in fixed.state_dict().items() if key != "shift"})
    maps = maps_of(fixed)
    out, oracle = tensor(maps), fixed(maps)
    torch.testing.assert_close(out, oracle, **EXACT)
    cotangent = torch.randn_like(out)
    for a, b in zip(
        torch.autograd.grad(out, list(tensor.parameters()), cotangent),
        torch.autograd.grad(oracle, [p for p in fixed.parameters() if p.requires_grad], cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("shifts", ["tensor", "fixed", "learned"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", [3, 5])
def test_starts_as_tensor_shifts_at_any_stride_and_dilation(kernel: int, shape: str, shifts: str) -> None:
    path = double(kernel_size=kernel, shifts=shifts, **SHAPES[shape])
    maps = maps_of(path)
    out = path(maps).unflatten(1, (4, 2))  # (B, D, N, Ho, Wo)
    light = torch.einsum("tm,bmdhw->bdthw", path.fc, maps.unflatten(1, (6, 4)))
    for d in range(4):
        oracle = reference.shift_tensors(light[:, d], kernel, **SHAPES[shape])
        for head in range(2):
            torch.testing.assert_close(out[:, d, head], oracle, **EXACT)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("shifts", "parameters"), [("tensor", {"fc"}), ("fixed", {"fc"}), ("random", {"fc", "shift"}),
                                                    ("learned", {"fc", "shift"})])  # fmt: skip
def test_what_is_trained_and_where_it_starts(shifts: str, parameters: set[str], kernel: int) -> None:
    path = double(kernel_size=kernel, shifts=shifts)
    assert {name for name, p in path.named_parameters() if p.requires_grad} == parameters
    assert set(path.state_dict()) == ({"fc"} if shifts == "tensor" else {"fc", "shift"})
    assert torch.equal(path.kernels(), start_of(path)) == (shifts != "random")
    assert path.fc.abs().max() <= path.maps**-0.5  # as in a fully connected layer


def test_random_kernels_start_as_those_of_a_convolution() -> None:
    shift = ConvolutionPath(64, 4, shifts="random").shift
    assert shift is not None
    bound = 9**-1.0  # kaiming's 1 / √(k² inputs · k² taps)
    assert shift.abs().max() <= bound
    assert shift.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shifts", SHIFTS)
def test_reset_comes_back_to_the_start(shifts: str, bias: bool) -> None:
    path = double(shifts=shifts, bias=bias)
    for parameter in path.parameters():
        nn.init.constant_(parameter, 7.0)
    path.reset_parameters()
    assert all(parameter.abs().max() <= 1 for parameter in path.parameters())
    assert torch.equal(path.kernels(), start_of(path)) == (shifts != "random")


def test_fixed_kernels_stay_through_training() -> None:
    path = double(shifts="fixed", bias=True)
    before = copy.deepcopy(path.state_dict())
    optimizer = torch.optim.SGD(path.parameters(), lr=0.1, weight_decay=0.1)
    path(maps_of(path)).square().mean().backward()
    optimizer.step()
    changed = {name for name, value in path.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc", "bias"}


@pytest.mark.parametrize("shifts", SHIFTS)
def test_weights_come_back_from_a_file(shifts: str) -> None:
    path, other = double(shifts=shifts, bias=True), double(shifts=shifts, bias=True)
    file = io.BytesIO()
    torch.save(path.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    maps = maps_of(path)
    assert torch.equal(path(maps), other(maps))


@pytest.mark.parametrize("shifts", ["tensor", "fixed", "learned"])
@pytest.mark.parametrize("heads", [2, 8])
def test_less_of_the_bias_arrives_at_the_border(heads: int, shifts: str) -> None:
    """With nothing but a bias of one, a pixel counts its neighbours inside the map."""
    path = double(16, heads, shifts=shifts, bias=True)
    nn.init.zeros_(path.fc)
    nn.init.ones_(known(path.bias))
    counts = torch.tensor([[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]], dtype=torch.float64)
    torch.testing.assert_close(path(maps_of(path, 3, 4)), counts.expand(2, 16, -1, -1), **EXACT)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("heads", [1, 4, 16])
def test_fewer_maps_of_queries_and_keys(heads: int, kernel: int) -> None:
    path = double(16, heads, kernel_size=kernel, maps=2 + heads)
    assert path.factored == (2 + heads > 3 + kernel**2)
    nn.init.normal_(known(path.shift))
    q, k, v = maps_of(path).unflatten(1, (-1, path.head_dim)).split((1, 1, heads), dim=1)
    oracle = reference.convolution(q, k, v, path.fc, path.shift)
    torch.testing.assert_close(path(torch.cat((q, k, v), dim=1).flatten(1, 2)), oracle, **EXACT)


@pytest.mark.parametrize("shifts", SHIFTS)
def test_autocast_to_bfloat16_stays_close(shifts: str) -> None:
    path = ConvolutionPath(16, 4, shifts=shifts, bias=True)
    maps = torch.randn(2, 48, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = path(maps)
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in path.parameters() if p.requires_grad)
    torch.testing.assert_close(out.float(), path(maps), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("shifts", SHIFTS)
def test_takes_device_and_type(shifts: str) -> None:
    path = ConvolutionPath(8, 2, shifts=shifts, bias=True, device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in path.parameters()} == {("meta", torch.float16)}
    assert path(torch.empty(1, 24, 5, 4, device="meta", dtype=torch.float16)).shape == (1, 8, 5, 4)


def test_tensor_shifts_only_add() -> None:
    arguments: dict[str, Any] = {"channels": 16, "heads": 4, "stride": 2, "device": "meta"}
    tensor = ConvolutionPath(**arguments, shifts="tensor").macs(9, 7)
    assert tensor == 3 * 9 * 16 * 9 * 7
    assert {ConvolutionPath(**arguments, shifts=s).macs(9, 7) for s in SHIFTS[1:]} == {tensor + 9**2 * 16 * 5 * 4}


def test_errors_name_the_shifts() -> None:
    with pytest.raises(UserError, match=r"^shifts must be one of tensor, fixed, random, learned; got 'rolled'$"):
        ConvolutionPath(8, 2, shifts="rolled")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_dense_kernel_sees_a_channel_of_ones(shape: str) -> None:
    dilation, stride = SHAPES[shape].get("dilation", 1), SHAPES[shape].get("stride", 1)
    conv = OnesConv2d(5, 6, 3, stride, dilation, dilation, dtype=torch.float64)
    assert conv.weight.shape == (6, 5 + 1, 3, 3)
    x = torch.randn(2, 5, 7, 6, dtype=torch.float64)
    plain = F.conv2d(x, conv.weight[:, :5], conv.bias, stride, dilation, dilation)
    ones = F.conv2d(torch.ones_like(x[:, :1]), conv.weight[:, 5:], None, stride, dilation, dilation)
    torch.testing.assert_close(conv(x), plain + ones, **EXACT)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 8)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shifts", SHIFTS)
@pytest.mark.parametrize("heads", [2, 8])
def test_collapses_to_it_where_stage_1_has_a_bias(heads: int, shifts: str, shape: str, size: tuple[int, int]) -> None:
    operator = Convolution(5, 16, heads, shifts=shifts, dtype=torch.float64, **SHAPES[shape])
    qkv = part(operator, "projection.qkv", nn.Conv2d)
    bias = nn.init.normal_(known(qkv.bias))
    if shifts == "learned":
        nn.init.normal_(known(operator.path.shift))
    dilation, stride = operator.path.dilation, operator.path.stride
    dense = OnesConv2d(5, 16, 3, stride, dilation, dilation, bias=False, dtype=torch.float64)
    with torch.no_grad():
        dense.weight.copy_(operator.path.dense(torch.cat((qkv.weight.flatten(1), bias[:, None]), dim=1)))
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    torch.testing.assert_close(operator(x), dense(x), **EXACT)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shifts", SHIFTS)
@pytest.mark.parametrize(("bias", "output_bias"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("maps", [6, 4])
def test_of_the_input_or_of_the_maps(bias: bool, output_bias: bool, maps: int, shifts: str, shape: str) -> None:
    """The dense form is the form on Stage I's maps, with the gradients of every parameter and of the input."""
    path = ConvolutionPath(8, 2, shifts=shifts, maps=maps, bias=output_bias, dtype=torch.float64, **SHAPES[shape])
    stage1 = Projection(5, maps * path.head_dim, bias, dtype=torch.float64)
    for parameter in [*path.parameters(), *stage1.parameters()]:
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    found = []
    for run in (lambda x: path.of_input(x, stage1), lambda x: path(stage1(x))):
        x = torch.linspace(-2, 2, 2 * 5 * 7 * 6, dtype=torch.float64).sin().view(2, 5, 7, 6).requires_grad_()
        path.zero_grad()
        stage1.zero_grad()
        out = run(x)
        (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        grads = [parameter.grad for parameter in (*path.parameters(), *stage1.parameters()) if parameter.requires_grad]
        found.append([out, x.grad, *grads])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_only_narrow_stages_collapse() -> None:
    path = ConvolutionPath(8, 2)
    assert path.collapses(Projection(64, 24))
    assert not path.collapses(Projection(65, 24))
    assert not path.collapses(ReducedProjection(8, 2))
