"""The fused forms compute what the network did, at any size, and only what may be folded is."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import acmix_nas.deploy.fusion
from acmix_nas.architecture import Architecture, build
from acmix_nas.deploy.export import export_onnx
from acmix_nas.deploy.fusion import FusedOperator, PackedConv2d, PointwiseLinear, _following_norms, _forms, fuse
from acmix_nas.operators import (
    ACmix,
    Convolution,
    ConvolutionPath,
    GlobalAttention,
    GlobalPath,
    LocalAttention,
    Mixing,
    Operator,
    Output,
    PatchwiseAttention,
    Projection,
    ReducedProjection,
    WindowAttention,
    WindowPath,
)
from acmix_nas.util.terminal import BrokenRun
from tests.small import RESNET, SLOTS, about, train_briefly

OPERATORS: dict[str, Callable[[], Operator | ACmix]] = {
    "local": lambda: LocalAttention(6, 8, heads=2, window=3, stride=2),
    "local_no_bias": lambda: LocalAttention(6, 8, heads=2, window=3, bias=False),
    "window_table": lambda: WindowAttention(6, 8, heads=2, window=3, shift=True, position="table"),
    "global": lambda: GlobalAttention(6, 8, heads=2, reduction=2),
    "patchwise": lambda: PatchwiseAttention(6, 8, heads=4, window=3),
    "conv": lambda: Convolution(6, 8, heads=2, stride=2, dilation=2),
    "acmix": lambda: ACmix(6, 8, heads=2),
    "acmix_no_bias": lambda: ACmix(6, 8, heads=4, window=3, bias=False, stride=2),
    "acmix_many_heads": lambda: ACmix(6, 16, heads=8, window=3, kernel_size=5),
    "acmix_patchwise": lambda: ACmix(6, 8, heads=4, attention="patchwise", window=3),
    "acmix_tensor": lambda: ACmix(6, 8, heads=2, shifts="tensor", mixing="convex"),
    "acmix_attention": lambda: ACmix(6, 8, heads=2, mixing="attention"),
    "acmix_convolution": lambda: ACmix(6, 8, heads=2, mixing="convolution"),
    "pvt": lambda: ACmix.of(
        ReducedProjection(6, 2), Output(GlobalPath(6, 2, reduction=2, position="none")), ConvolutionPath(6, 2), Mixing()
    ),
    "swin": lambda: ACmix.of(
        Projection(6, 18), Output(WindowPath(6, 2, 3, position="table")), ConvolutionPath(6, 2, bias=True), Mixing()
    ),
    "swin_rolled": lambda: ACmix.of(
        Projection(6, 18),
        Output(WindowPath(6, 2, 3, shift=True, position="table", rolled=True)),
        ConvolutionPath(6, 2, bias=True),
        Mixing(),
    ),
}


@pytest.fixture
def double() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def scrambled(module: nn.Module) -> nn.Module:
    """Return the module in evaluation mode, with values of no default anywhere."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 2.0)
    return module.eval()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("name", OPERATORS)
@torch.no_grad()
def test_every_form_of_an_operator_agrees(name: str, normalised: bool) -> None:
    operator = scrambled(OPERATORS[name]())
    channels = operator(torch.randn(1, 6, 7, 5)).shape[1]
    norm = scrambled(nn.BatchNorm2d(channels)) if normalised else None
    forms = _forms(operator, norm, (7, 5))
    assert forms
    for size in ((7, 5), (4, 9)):  # the one that it is made for, and another
        x = torch.randn(2, 6, *size)
        expected = operator(x) if norm is None else norm(operator(x))
        for form, fused in forms.items():
            torch.testing.assert_close(fused(x), expected, atol=1e-9, rtol=1e-9, msg=about(form))


def test_the_forms_that_there_are() -> None:
    assert list(_forms(ACmix(6, 8, heads=2).eval(), None, (5, 5))) == ["factored", "merged", "dense"]
    assert list(_forms(OPERATORS["pvt"]().eval(), None, (5, 5))) == ["factored", "merged"]  # its Stage I is not linear
    assert list(_forms(LocalAttention(6, 8, heads=2).eval(), None, (5, 5))) == ["attention"]


@torch.no_grad()
def test_a_linear_layer_as_a_convolution() -> None:
    linear = nn.Linear(5, 7)
    for shape in ((5,), (3, 5), (2, 3, 4, 5)):
        x = torch.randn(shape)
        torch.testing.assert_close(PointwiseLinear(linear)(x), linear(x))


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "resnet26_acmix": {"channels": (8, 8, 16, 16), "layers": (1, 1, 1, 1), "zero_init_last": False},
        "san10_acmix": {"layers": (1, 1), "channels": (16, 32), "windows": (3, 3), "stem_channels": 8},
        "pvt_tiny_acmix": {
            "embed_dims": (8, 16), "depths": (1, 1), "num_heads": (1, 2), "mlp_ratios": (2, 2), "reductions": (2, 1),
        },
        "swin_tiny_acmix": {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4},
    }  # fmt: skip
    return train_briefly(timm.create_model(name, num_classes=5, **small[name]))


@pytest.mark.parametrize("name", ["resnet26_acmix", "san10_acmix", "pvt_tiny_acmix", "swin_tiny_acmix"])
def test_a_fused_network_agrees(name: str) -> None:
    whole = network(name)
    before = {key: value.clone() for key, value in whole.state_dict().items()}
    fusion = fuse(whole, torch.randn(2, 3, 32, 32), repeats=1)
    x = torch.randn(3, 3, 45, 32)
    torch.testing.assert_close(fusion.network(x), whole(x), atol=1e-5, rtol=1e-4)
    assert len(fusion.slots) == sum(isinstance(module, ACmix) for module in whole.modules())
    assert all(slot.form in slot.milliseconds and "unfused" in slot.milliseconds for slot in fusion.slots)
    assert all(torch.equal(value, before[key]) for key, value in whole.state_dict().items())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["resnet26_acmix", "swin_tiny_acmix"])
def test_a_fused_network_agrees_on_a_gpu(name: str) -> None:
    """Whose convolutions, TF32 by default, differ by more than the tolerance."""
    whole = network(name).cuda()
    assert torch.backends.cudnn.allow_tf32
    fuse(whole, torch.randn(2, 3, 32, 32, device="cuda"), repeats=1)


class Precise(nn.Conv2d):
    """Notes in what precision each forward runs on a GPU."""

    seen: list[tuple[bool, str]] = []

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        self.seen.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        return super().forward(input)


def test_only_the_forwards_that_are_compared_do_without_tf32() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        fuse(Precise(3, 4, 3), torch.randn(1, 3, 8, 8), repeats=1)
        assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (True, "high")
    finally:
        torch.set_float32_matmul_precision(before)
    assert Precise.seen[0] == Precise.seen[-1] == (False, "highest")
    assert set(Precise.seen[1:-1]) == {(True, "high")}


def test_a_derived_network_agrees() -> None:
    slots = dict(zip(SLOTS, ("conv", "local", "acmix_window", "acmix_global"), strict=True))
    arguments = {"channels": [8, 8, 16, 16], "num_classes": 5, "zero_init_last": False}
    whole = train_briefly(build(Architecture(RESNET["backbone"], slots, tuple(slots.values()), arguments, (RESNET["slots"],))))
    fusion = fuse(whole, torch.randn(2, 3, 32, 32), repeats=1)
    x = torch.randn(3, 3, 45, 32)
    torch.testing.assert_close(fusion.network(x), whole(x), atol=1e-5, rtol=1e-4)
    assert [slot.operator for slot in fusion.slots] == ["local", "acmix_window", "acmix_global"]
    assert [slot.slot for slot in fusion.slots] == SLOTS[1:]


def test_every_batch_norm_behind_a_convolution_is_folded() -> None:
    whole = network("resnet26_acmix")
    fusion = fuse(whole, torch.randn(1, 3, 32, 32), repeats=1)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in fusion.network.modules())
    unfused = sum(slot.form == "unfused" for slot in fusion.slots)
    assert left == unfused
    assert fusion.folded == sum(isinstance(module, nn.BatchNorm2d) for module in whole.modules()) - unfused


class Twice(nn.Module):
    """`shared` is read by a norm and by an addition; `again` runs twice; only `once` may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.again, self.once = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm_shared, self.norm_again, self.norm_once = (nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)
        x = x + self.norm_shared(x)
        x = self.norm_again(self.again(self.again(x)))
        out: Tensor = self.norm_once(self.once(x))
        return out


def test_only_what_a_norm_alone_reads_is_folded() -> None:
    assert _following_norms(Twice().eval(), torch.randn(1, 3, 4, 4)) == {"once": "norm_once"}


class Pyramid(nn.Module):
    """Two outputs, of which the first is also read by the norm behind the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm_first, self.norm_second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.first(x)
        return [x, self.norm_second(self.second(self.norm_first(x)))]


@torch.no_grad()
def test_a_map_that_is_an_output_is_not_folded() -> None:
    whole, x = scrambled(Pyramid()), torch.randn(2, 3, 9, 9)
    fusion = fuse(whole, x, repeats=1)
    assert fusion.folded == 1
    for got, expected in zip(fusion.network(x), whole(x), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_a_wrong_fold_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acmix_nas.deploy.fusion, "_fold", lambda conv, _norm: conv.weight.mul_(2))
    with pytest.raises(BrokenRun, match="differs by"):
        fuse(network("resnet26_acmix"), torch.randn(1, 3, 32, 32), repeats=1)


def test_a_fused_network_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every operator in the form that differs most, whatever is fastest on this machine."""
    monkeypatch.setattr(
        acmix_nas.deploy.fusion, "_least_times", lambda modules, *_: {name: float(name != "dense") for name in modules}
    )
    fusion = fuse(network("resnet26_acmix"), torch.randn(1, 3, 32, 32))
    assert {slot.form for slot in fusion.slots} == {"dense"}
    assert any(isinstance(module, FusedOperator) for module in fusion.network.modules())
    assert export_onnx(fusion.network, tmp_path / "fused.onnx", (3, 32, 32)) < 1e-5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "conv", [nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 4, 1, bias=False), nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4)]
)
def test_packed_weights_change_nothing(conv: nn.Conv2d, layout: torch.memory_format) -> None:
    packed = PackedConv2d.of(conv)
    for size in (9, 5):  # the first one orders the weight
        x = torch.randn(2, conv.in_channels, size, size).to(memory_format=layout)
        with torch.no_grad():
            torch.testing.assert_close(packed(x), conv(x), rtol=1e-5, atol=1e-5)
    assert packed._packed is not None
    assert packed.state_dict().keys() == conv.state_dict().keys()


def test_packed_weights_follow_the_weight_and_are_not_copied() -> None:
    conv = nn.Conv2d(4, 4, 3)
    packed = PackedConv2d.of(conv)
    x = torch.randn(1, 4, 6, 6)
    with torch.inference_mode():
        packed(x)
    with torch.no_grad():
        conv.weight.mul_(2)
        torch.testing.assert_close(packed(x), conv(x))
        for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
            assert twin._packed is None
            torch.testing.assert_close(twin(x), conv(x))


def test_a_packed_convolution_has_gradients_and_other_types() -> None:
    packed = PackedConv2d.of(nn.Conv2d(4, 4, 3))
    packed(torch.randn(1, 4, 6, 6)).sum().backward()
    assert packed.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert packed(torch.randn(1, 4, 6, 6)).dtype == torch.bfloat16
    assert packed.double()(torch.randn(1, 4, 6, 6, dtype=torch.float64)).dtype == torch.float64


def test_a_fused_network_needs_no_no_grad() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    images = torch.randn(1, 3, 8, 8)
    assert not fuse(network, images, repeats=1).network(images).requires_grad
    assert network(images).requires_grad


def test_a_network_that_begins_at_zero_is_fused() -> None:
    last = nn.Linear(256, 2)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), last).eval()
    assert fuse(network, torch.randn(2, 3, 8, 8), repeats=1).network(torch.randn(2, 3, 8, 8)).abs().max() == 0


def test_a_norm_without_statistics_stays() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    images = torch.randn(2, 3, 8, 8)
    fused = fuse(network, images, repeats=1)
    assert fused.folded == 0
    torch.testing.assert_close(fused.network(images), network(images))
