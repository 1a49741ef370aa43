"""Patchwise attention agrees with the unfolded formula, keeps batch norm's habits, and unfolds nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acmix_nas.deploy.profile import TensorMemory
from acmix_nas.operators.patchwise_attention import PatchwiseAttention, PatchwisePath
from acmix_nas.util.errors import UserError
from tests import reference
from tests.small import Tolerance, about, known

TOLERANCE: Tolerance = {"atol": 1e-9, "rtol": 1e-9}
SIZES = [(1, 1), (1, 6), (2, 3), (5, 4), (7, 7), (11, 9)]
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "one_head": {"heads": 1, "window": 3},
    "k1": {"window": 1},
    "k5_share4": {"window": 5, "share": 4},
    "share1": {"window": 3, "share": 1},
    "stride2": {"window": 5, "stride": 2},
    "stride3": {"stride": 3},
    "dilation": {"window": 3, "dilation": 2},
    "stride2_dilation2": {"window": 5, "stride": 2, "dilation": 2, "share": 4},
    "stride3_dilation2": {"stride": 3, "dilation": 2},
}
# One image of one pixel has no variance: a training step needs another.
BATCH = 3


def double(**arguments: Any) -> PatchwisePath:
    """Make a path of 16 channels in float64, every parameter and buffer with a value of its own."""
    path = PatchwisePath(16, dtype=torch.float64, **arguments)
    for parameter in path.parameters():
        nn.init.normal_(parameter, std=0.5)
    for norm in (path.norm1, path.norm2):
        nn.init.normal_(known(norm.running_mean))
        nn.init.uniform_(known(norm.running_var), 0.5, 2)
    return path


def channels_of(path: PatchwisePath, layout: str) -> int:
    return path.channels + 2 * (path.channels if layout == "all" else path.head_dim)


def by_formula(path: PatchwisePath, maps: Tensor) -> Tensor:
    before = maps.shape[1] - path.channels
    q, k = (maps[:, first : first + path.head_dim] for first in (0, before // 2))
    return reference.patchwise_attention(
        q, k, maps[:, before:], path.norm1, path.squeeze.weight.flatten(1), path.norm2,
        (path.expand.weight.flatten(1), known(path.expand.bias)), path.window, path.stride, path.dilation,
    )  # fmt: skip


def check(path: PatchwisePath, maps: Tensor) -> None:
    """Compare output and gradients with the formula, which gets modules of its own."""
    oracle_path = copy.deepcopy(path)
    maps.requires_grad_()
    out, oracle = path(maps), by_formula(oracle_path, maps)
    torch.testing.assert_close(out, oracle, **TOLERANCE)
    cotangent = torch.randn_like(out)
    got = torch.autograd.grad(out, [maps, *path.parameters()], cotangent)
    expected = torch.autograd.grad(oracle, [maps, *oracle_path.parameters()], cotangent)
    for name, a, b in zip(["maps", *dict(path.named_parameters())], got, expected, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE, msg=about(f"gradient of {name}"))


@pytest.mark.parametrize("layout", ["all", "read"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("variant", VARIANTS)
def test_output_and_gradients(variant: str, size: tuple[int, int], training: bool, layout: str) -> None:
    path = double(**VARIANTS[variant]).train(training)
    check(path, torch.randn(BATCH, channels_of(path, layout), *size, dtype=torch.float64))


def test_one_image_trains() -> None:
    path = double(window=5)
    check(path, torch.randn(1, channels_of(path, "read"), 4, 5, dtype=torch.float64))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("stride", [1, 2])
def test_running_statistics_are_those_of_batch_norm(stride: int, momentum: float | None) -> None:
    path = double(window=5, stride=stride)
    path.norm1.momentum = path.norm2.momentum = momentum
    oracle_path = copy.deepcopy(path)
    for _ in range(2):
        maps = torch.randn(2, channels_of(path, "all"), 5, 6, dtype=torch.float64) + 3
        path(maps)
        by_formula(oracle_path, maps)
    for (name, got), (_, expected) in zip(path.named_buffers(), oracle_path.named_buffers(), strict=True):
        torch.testing.assert_close(got, expected, **TOLERANCE, msg=about(name))


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_without_running_statistics_takes_those_of_the_batch(training: bool) -> None:
    path = double(window=3)
    path.norm1 = nn.BatchNorm2d(path.norm1.num_features, track_running_stats=False, dtype=torch.float64)
    check(path.train(training), torch.randn(2, channels_of(path, "read"), 4, 5, dtype=torch.float64))


def test_a_frozen_norm_keeps_its_statistics() -> None:
    path = double(window=3)
    path.norm1.eval()
    before = copy.deepcopy(path.norm1.state_dict())
    check(path, torch.randn(2, channels_of(path, "read"), 4, 5, dtype=torch.float64))
    torch.testing.assert_close(path.norm1.state_dict(), before, atol=0, rtol=0)


def test_a_channel_whose_factor_is_zero_still_learns() -> None:
    path = double(window=3)
    nn.init.zeros_(path.norm1.weight)
    check(path, torch.randn(2, channels_of(path, "read"), 4, 5, dtype=torch.float64))


def test_a_large_mean_costs_no_more_digits_than_in_batch_norm() -> None:
    path = double(window=3)
    maps = torch.randn(2, channels_of(path, "read"), 7, 6, dtype=torch.float64)
    maps[:, : 2 * path.head_dim] += 300
    error = (path.float()(maps.float()) - by_formula(copy.deepcopy(path).double(), maps)).abs().max()
    assert error < 2e-3  # squares of uncentred keys would be off by a hundredth of the variance


def test_one_value_per_channel_cannot_train_and_spoils_nothing() -> None:
    path = double()
    before = copy.deepcopy(path.state_dict())
    maps = torch.randn(1, channels_of(path, "read"), 1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="more than one value"):
        path(maps)
    torch.testing.assert_close(path.state_dict(), before, atol=0, rtol=0)
    check(path.eval(), maps)


@pytest.mark.parametrize("training", [True, False])
def test_autocast_to_bfloat16_stays_close(training: bool) -> None:
    path = PatchwisePath(16, window=5).train(training)
    maps = torch.randn(2, channels_of(path, "read"), 9, 7)
    expected = path(maps)
    maps = maps.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = path(maps)
        out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)


def test_a_path_in_bfloat16_sums_in_float32() -> None:
    path = PatchwisePath(16).bfloat16()
    maps = torch.randn(2, channels_of(path, "all"), 14, 14).bfloat16()
    expected = copy.deepcopy(path).float()(maps.float())
    out = path(maps)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).norm() < 0.005 * expected.norm()  # sums in bfloat16 are off by 0.009


@pytest.mark.parametrize("training", [True, False])
def test_memory_format_does_not_matter(training: bool) -> None:
    path = double(window=5).train(training)
    maps = torch.randn(2, channels_of(path, "all"), 6, 5, dtype=torch.float64)
    out = copy.deepcopy(path)(maps.contiguous(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, path(maps))


def test_two_runs_agree_to_the_last_bit() -> None:
    path = PatchwisePath(16)
    maps = torch.randn(4, channels_of(path, "read"), 14, 14, requires_grad=True)
    first, second = (torch.autograd.grad(path(maps).square().sum(), [maps, *path.parameters()]) for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_every_parameter_is_in_the_state_of_an_ordinary_module() -> None:
    path = PatchwisePath(16, heads=2, window=3, share=4)
    shapes = {name: tuple(parameter.shape) for name, parameter in path.named_parameters()}
    assert shapes == {
        "norm1.weight": (80,), "norm1.bias": (80,), "squeeze.weight": (4, 80, 1, 1),
        "norm2.weight": (4,), "norm2.bias": (4,), "expand.weight": (36, 4, 1, 1), "expand.bias": (36,),
    }  # fmt: skip


@pytest.mark.parametrize(("channels", "side"), [(64, 14), (32, 21)])
def test_no_unfolded_map_is_built(channels: int, side: int) -> None:
    path = PatchwisePath(channels)
    maps = torch.randn(2, channels_of(path, "read"), side, side)
    with torch.no_grad(), TensorMemory([maps, *path.parameters(), *path.buffers()]) as memory:
        path(maps)
    keys = path.window**2 * path.head_dim * maps[:, 0].numel() * maps.element_size()
    assert memory.peak < keys
    assert memory.peak < channels * keys / path.head_dim / 4  # of the values


@pytest.mark.parametrize("training", [True, False])
def test_compiles_to_the_same_gradients(training: bool) -> None:
    path = double(window=3).train(training)
    maps = torch.randn(2, channels_of(path, "read"), 6, 5, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(path, backend="aot_eager", fullgraph=True)
    got, expected = (torch.autograd.grad(f(maps).square().sum(), [maps, *path.parameters()]) for f in (compiled, path))
    torch.testing.assert_close(got, expected, **TOLERANCE)


def test_traces_to_the_same_output(tmp_path: Path) -> None:
    path = double(window=3, stride=2).eval()
    maps = torch.randn(2, channels_of(path, "read"), 6, 5, dtype=torch.float64)
    torch.jit.trace(path, maps).save(str(tmp_path / "traced.pt"))
    torch.testing.assert_close(torch.jit.load(str(tmp_path / "traced.pt"))(maps), path(maps))


def test_exports_with_any_batch() -> None:
    path = double(window=5, dilation=2).eval()
    maps = torch.randn(2, channels_of(path, "read"), 6, 5, dtype=torch.float64)
    program = torch.export.export(path, (maps,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = torch.randn(5, *maps.shape[1:], dtype=torch.float64)
    torch.testing.assert_close(program.module()(more), path(more))


def test_onnx_runtime_agrees(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = double(window=3, stride=2).float().eval()
    maps = torch.randn(2, channels_of(path, "read"), 6, 5)
    torch.onnx.export(path, (maps,), tmp_path / "path.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "path.onnx")
    (out,) = session.run(None, {session.get_inputs()[0].name: maps.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), path(maps), atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("training", [True, False])
def test_cuda_agrees_with_the_cpu(training: bool) -> None:
    path = double().train(training)
    maps = torch.randn(2, channels_of(path, "read"), 9, 9, dtype=torch.float64)
    got = copy.deepcopy(path).cuda()(maps.cuda()).cpu()
    torch.testing.assert_close(got, path(maps), **TOLERANCE)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 4, 7])
def test_the_operator_brings_its_own_slim_stage(side: int, stride: int) -> None:
    operator = PatchwiseAttention(6, 16, heads=2, stride=stride)
    out = operator(torch.randn(2, 6, side, side))
    assert out.shape == (2, 16, -(-side // stride), -(-side // stride))
    assert operator.macs(side, side).stage1 == 6 * (2 * 8 + 16) * side**2


def test_constructors_take_device_and_type() -> None:
    operator = PatchwiseAttention(8, 8, device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in operator.parameters()} == {("meta", torch.float16)}


@pytest.mark.parametrize(("window", "share", "stride"), [(7, 8, 1), (3, 4, 2), (5, 1, 3)])
def test_cost_is_that_of_the_two_layers_and_the_sum(window: int, share: int, stride: int) -> None:
    path = PatchwisePath(16, heads=2, window=window, share=share, stride=stride)
    queries = -(-5 // stride) * -(-8 // stride)
    layers = path.squeeze.weight.numel() + path.expand.weight.numel()
    assert path.macs(5, 8) == queries * (layers + window**2 * 16)


@pytest.mark.parametrize(("window", "name"), [(7, "patchwise"), (3, "patchwise_k3")])
def test_a_path_knows_its_name(window: int, name: str) -> None:
    assert PatchwisePath(16, window=window).name == name


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"heads": 3}, ["out_channels=16", "heads=3"]),
        ({"window": 4}, ["window=4", "odd"]),
        ({"window": -1}, ["window=-1"]),
        ({"share": 3}, ["out_channels=16", "share=3"]),
        ({"share": 0}, ["share=0"]),
        ({"stride": 0}, ["stride=0"]),
        ({"dilation": 0}, ["dilation=0"]),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(UserError) as error:
        PatchwiseAttention(16, 16, **arguments)
    message = str(error.value)
    assert "\n" not in message
    assert all(name in message for name in names), message


def test_maps_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"48 or 2D \+ C = 24 channels; got 32"):
        PatchwisePath(16)(torch.randn(1, 32, 4, 4))
