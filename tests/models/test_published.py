"""Checkpoints of the authors' code: our networks compute what a written-out form of theirs computes, fact by fact too."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acmix_nas.models.published import load_published
from acmix_nas.operators import ACmix
from acmix_nas.util.errors import UserError
from tests.reference import PublishedResNet, PublishedSwin
from tests.small import Tolerance, about

TOLERANCE: Tolerance = {"atol": 1e-9, "rtol": 1e-9}
CLASSES = 5
PARAMETERS = {
    "resnet26": 10_487_816, "resnet38": 14_410_896, "resnet50": 18_333_976, "swin_tiny": 28_649_908, "swin_small": 50_345_080,
}  # fmt: skip
FULL: dict[str, Callable[[], nn.Module]] = {
    "resnet26": PublishedResNet,
    "resnet38": lambda: PublishedResNet((2, 3, 5, 2)),
    "resnet50": lambda: PublishedResNet((3, 4, 6, 3)),
    "swin_tiny": PublishedSwin,
    "swin_small": lambda: PublishedSwin(depths=(2, 2, 18, 2)),
}


def swin(
    size: tuple[int, int], channels: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int
) -> tuple[nn.Module, nn.Module]:
    """Make the published network and ours, with different random weights."""
    published = PublishedSwin(size, channels, depths, heads, window, CLASSES)
    ours = timm.create_model(
        "swin_tiny_acmix", img_size=size, embed_dim=channels, depths=depths, num_heads=heads, window_size=window,
        num_classes=CLASSES, drop_path_rate=0.0,
    )  # fmt: skip
    return scrambled(published), ours.double().eval()


def resnet(layers: tuple[int, ...], channels: tuple[int, ...] = (8, 16, 24, 40)) -> tuple[nn.Module, nn.Module]:
    """Make the published network and ours, with different random weights."""
    published = PublishedResNet(layers, channels, CLASSES)
    ours = timm.create_model("resnet26_acmix", layers=layers, channels=channels, num_classes=CLASSES)
    return scrambled(published), ours.double().eval()


@torch.no_grad()
def scrambled(network: nn.Module) -> nn.Module:
    """Return the network in float64 and evaluation mode, with every weight, rate and running statistic of its own."""
    network.double().eval()
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network


def small_swin() -> Any:
    """Make a pair with maps of 8 and 4 pixels: with a shift, and without."""
    return swin((32, 32), 12, (2, 1), (3, 2), window=4)


def small_resnet() -> Any:
    return resnet((1, 1, 1, 1))


CASES: dict[str, tuple[Callable[[], Any], tuple[int, int]]] = {
    "swin": (lambda: swin((56, 56), 24, (2, 2), (2, 4), window=7), (56, 56)),
    "swin_deep": (lambda: swin((64, 64), 12, (2, 3, 1, 2), (1, 3, 2, 6), window=4), (64, 64)),  # maps 16, 8, 4, 2
    "swin_oblong": (lambda: swin((48, 96), 20, (3, 2), (5, 4), window=3), (48, 96)),  # maps 12×24, 6×12
    "resnet": (lambda: resnet((1, 2, 1, 1)), (64, 64)),
    "resnet_odd": (lambda: resnet((2, 1, 2, 1)), (96, 75)),  # maps 24×19, 12×10, 6×5
    "resnet_deep": (lambda: resnet((1, 1, 1, 2), (4, 12, 20, 8)), (128, 104)),
}


def save(content: Any, tmp_path: Path) -> Path:
    torch.save(content, tmp_path / "published.pth")
    return tmp_path / "published.pth"


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients(case: str, tmp_path: Path) -> None:
    make, size = CASES[case]
    published, ours = make()
    assert load_published(ours, save(published.state_dict(), tmp_path)) is ours
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    x_published, x_ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, out = published(x_published), ours(x_ours)
    torch.testing.assert_close(out, expected, **TOLERANCE)

    cotangent = torch.randn_like(out)
    expected.backward(cotangent)
    out.backward(cotangent)
    torch.testing.assert_close(x_ours.grad, x_published.grad, **TOLERANCE)

    # The gradients go the way of the weights: a file whose values they are.
    gradients = published.state_dict() | {name: parameter.grad for name, parameter in published.named_parameters()}
    carrier = load_published(deepcopy(ours), save(gradients, tmp_path))
    for name, parameter in carrier.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.data, **TOLERANCE, msg=about(name))


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        for network in (FULL[name](), timm.create_model(f"{name}_acmix")):
            assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


def test_every_block_of_a_narrow_image_is_acmix() -> None:
    network: Any = timm.create_model(
        "swin_tiny_acmix", img_size=(24, 80), embed_dim=12, depths=(2, 2), num_heads=(3, 2), window_size=4, num_classes=CLASSES
    )  # maps 6×20 and 3×10
    assert all(isinstance(block.attn, ACmix) for stage in network.layers for block in stage.blocks)
    assert network(torch.randn(1, 3, 24, 80)).shape == (1, CLASSES)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("make", [small_swin, small_resnet])
def test_wrapped(make: Callable[[], Any], wrapper: str | None, prefix: str, tmp_path: Path) -> None:
    published, ours = make()
    state = {prefix + key: value for key, value in published.state_dict().items()}
    load_published(ours, save(state if wrapper is None else {"epoch": 300, wrapper: state}, tmp_path))
    x = torch.randn(1, 3, *((32, 32) if make is small_swin else (64, 64)), dtype=torch.float64)
    torch.testing.assert_close(ours(x), published(x), **TOLERANCE)


# Each fact of the layout where it shows alone: in the operator of the package and in that of the reference, so that the two
# cannot agree on a mistake. An operator takes and gives maps, (B, C, H, W).

Change = dict[str, Tensor]
ZERO, ONE = torch.zeros(1), torch.ones(1)
CONVOLUTION_ALONE: Change = {"rate1": ZERO, "rate2": ONE}
ATTENTION_ALONE: Change = {"rate1": ONE, "rate2": ZERO}
SHIFT = 2
# Stage I of Swin that gives q = k = 0 and v = x, and an output projection that changes nothing.
VALUES: Change = {
    "qkv.weight": torch.eye(36)[:, 24:], "qkv.bias": ZERO, "proj.weight": torch.eye(12), "proj.bias": ZERO,
}  # fmt: skip


class Operators:
    """The operators of one implementation, from a published file with some values changed, all others always the same."""

    def __init__(self, whose: str, folder: Path) -> None:
        self.whose, self.folder = whose, folder

    def _load(self, make: Callable[[], tuple[nn.Module, nn.Module]], name: str, change: Change) -> nn.Module:
        torch.manual_seed(1)
        published, ours = make()
        state = published.state_dict()
        for key, value in change.items():
            state[f"{name}.{key}"] = value.double().expand_as(state[f"{name}.{key}"]).contiguous()
        if self.whose == "package":
            return load_published(ours, save(state, self.folder))
        published.load_state_dict(state)
        return published

    def swin(self, change: Change) -> Callable[[Tensor], Tensor]:
        """Return ACmix of a shifted block: C = 12, N = 3, D = 4, K = 4, on maps of 8×8."""
        block: Any = self._load(small_swin, "layers.0.blocks.1.attn", change).get_submodule("layers.0.blocks.1")
        if self.whose == "package":
            attention: nn.Module = block.attn
            return attention
        return lambda x: block.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def resnet(self, stage: int, change: Change) -> Callable[[Tensor], Tensor]:
        """Return ACmix of stage 1 (C = 8, D = 2, no stride) or 2 (C = 16, D = 4, a stride of 2), with N = 4."""
        name = f"layer{stage}.0.conv2"
        return self._load(small_resnet, name, change).get_submodule(name)

    def merging(self, change: Change) -> Callable[[Tensor], Tensor]:
        """Return the merging (B, H, W, 12) → (B, H/2, W/2, 24)."""
        network = self._load(small_swin, "layers.0.downsample", change)
        return network.get_submodule(f"layers.{1 if self.whose == 'package' else 0}.downsample")


@pytest.fixture(params=["package", "reference"])
def operators(request: pytest.FixtureRequest, tmp_path: Path) -> Operators:
    return Operators(request.param, tmp_path)


def maps(channels: int = 12, height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(2, channels, height, width, dtype=torch.float64)


def reaches(operator: Callable[[Tensor], Tensor], start: tuple[int, int], end: tuple[int, int]) -> bool:
    """Return whether one pixel of the input has a part in one pixel of the output."""
    x = maps().requires_grad_()
    (gradient,) = torch.autograd.grad(operator(x)[..., end[0], end[1]].sum(), x)
    return bool(gradient[..., start[0], start[1]].abs().max() > 1e-12)


@pytest.mark.parametrize("number", range(9))
def test_swin_maps_enter_fc_as_heads_of_q_of_k_of_v(operators: Operators, number: int) -> None:
    fc, dep_conv = torch.zeros(9, 9, 1, 1), torch.zeros(12, 9, 3, 3)
    fc[2, number] = 1
    dep_conv[:, 2, 1, 1] = torch.arange(1.0, 13)  # a weight for every output channel
    weight, bias = torch.randn(36, 12).double(), torch.randn(36).double()
    change = {"qkv.weight": weight, "qkv.bias": bias, "fc.weight": fc, "fc.bias": ZERO, "dep_conv.weight": dep_conv}
    x = maps()
    head = F.conv2d(x, weight[:, :, None, None], bias)[:, 4 * number : 4 * number + 4]  # of 3C: q, k, v, each head after head
    expected = torch.stack([(c + 1) * head[:, c // 3] for c in range(12)], dim=1)  # channel d · N + n
    torch.testing.assert_close(operators.swin(change | CONVOLUTION_ALONE)(x), expected, **TOLERANCE)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("number", range(12))
def test_resnet_maps_enter_fc_as_heads_of_q_of_k_of_v(operators: Operators, number: int, stage: int) -> None:
    channels, head_dim = 8 * stage, 2 * stage
    fc, dep_conv = torch.zeros(9, 12, 1, 1), torch.zeros(channels, 9, 3, 3)
    fc[5, number] = 1
    dep_conv[:, 5, 1, 1] = torch.arange(1.0, channels + 1)
    change = {"fc.weight": fc, "dep_conv.weight": dep_conv}
    third, n = divmod(number, 4)
    weight, bias = torch.randn(channels, channels, 1, 1).double(), torch.randn(channels).double()
    change |= {f"conv{third + 1}.weight": weight, f"conv{third + 1}.bias": bias}
    x = maps(channels, 7, 10)
    head = F.conv2d(x, weight, bias)[:, n * head_dim : (n + 1) * head_dim, ::stage, ::stage]
    expected = torch.stack([(c + 1) * head[:, c // 4] for c in range(channels)], dim=1)
    torch.testing.assert_close(operators.resnet(stage, change | CONVOLUTION_ALONE)(x), expected, **TOLERANCE)


@pytest.mark.parametrize("family", ["swin", "resnet"])
def test_rate1_weighs_attention_and_rate2_convolution(operators: Operators, family: str) -> None:
    x = maps(12 if family == "swin" else 8)

    def out(change: Change) -> Tensor:
        return (operators.swin(change) if family == "swin" else operators.resnet(1, change))(x)

    attention, convolution = out(ATTENTION_ALONE), out(CONVOLUTION_ALONE)
    torch.testing.assert_close(out({"rate1": 2 * ONE, "rate2": -3 * ONE}), 2 * attention - 3 * convolution, **TOLERANCE)
    torch.testing.assert_close(out(ATTENTION_ALONE | {"dep_conv.weight": ZERO}), attention, **TOLERANCE)
    assert out(CONVOLUTION_ALONE | {"dep_conv.weight": ZERO}).abs().max() == 0


def test_the_output_projection_is_applied_to_the_attention_only(operators: Operators) -> None:
    x = maps()
    attention, convolution = (operators.swin(VALUES | alone)(x) for alone in (ATTENTION_ALONE, CONVOLUTION_ALONE))
    weight, bias = torch.randn(12, 12).double(), torch.randn(12).double()
    projected = operators.swin(VALUES | {"rate1": ONE, "rate2": ONE, "proj.weight": weight, "proj.bias": bias})(x)
    expected = F.conv2d(attention, weight[:, :, None, None], bias) + convolution
    torch.testing.assert_close(projected, expected, **TOLERANCE)


@pytest.mark.parametrize("head", range(3))
def test_attention_is_ordered_head_after_head(operators: Operators, head: int) -> None:
    weight, mine = torch.zeros(36, 12), slice(4 * head, 4 * head + 4)
    weight[24:][mine] = 1  # values in this head alone
    out = operators.swin(VALUES | ATTENTION_ALONE | {"qkv.weight": weight})(maps())
    assert out[:, mine].abs().min() > 0
    assert out[:, torch.arange(12) // 4 != head].abs().max() == 0


@pytest.mark.parametrize("offset", [(1, 0), (0, 1), (-2, 1), (3, -3)])
@pytest.mark.parametrize("head", range(3))
def test_the_table_is_indexed_by_query_minus_key_height_first(operators: Operators, head: int, offset: tuple[int, int]) -> None:
    table = torch.zeros(49, 3)
    table[7 * (offset[0] + 3) + offset[1] + 3, head] = 60  # nothing else counts
    x = maps()
    out = operators.swin(VALUES | ATTENTION_ALONE | {"relative_position_bias_table": table})(x)
    inside, mine = range(SHIFT, SHIFT + 4), slice(4 * head, 4 * head + 4)  # a window that the roll leaves whole
    pairs = [(i, j) for i in inside for j in inside if i - offset[0] in inside and j - offset[1] in inside]
    assert pairs
    for i, j in pairs:
        torch.testing.assert_close(out[:, mine, i, j], x[:, mine, i - offset[0], j - offset[1]], **TOLERANCE)


def test_the_convolution_works_across_the_seam_of_the_rolled_map(operators: Operators) -> None:
    operator = operators.swin(CONVOLUTION_ALONE)
    assert reaches(operator, (0, 4), (7, 4))  # neighbours in the rolled map
    assert reaches(operator, (4, 7), (4, 0))
    assert not reaches(operator, (SHIFT, 4), (SHIFT - 1, 4))  # its opposite borders
    assert not reaches(operator, (4, SHIFT - 1), (4, SHIFT))


def test_attention_does_not_look_across_the_seam(operators: Operators) -> None:
    operator = operators.swin(ATTENTION_ALONE)
    assert reaches(operator, (3, 4), (4, 4))  # of one window, once it is shifted
    assert not reaches(operator, (SHIFT, 4), (SHIFT - 1, 4))
    assert reaches(operator, (6, 4), (7, 4))
    assert not reaches(operator, (0, 4), (7, 4))  # of one window, but of two sides
    assert not reaches(operator, (4, 7), (4, 0))


def test_the_bias_of_fc_passes_through_the_zero_padding(operators: Operators) -> None:
    bias, dep_conv = torch.zeros(9), torch.zeros(12, 9, 3, 3)
    bias[4], dep_conv[:, 4] = 1, 1
    change = {"qkv.weight": ZERO, "qkv.bias": ZERO, "fc.bias": bias, "dep_conv.weight": dep_conv}
    taps = F.avg_pool2d(torch.ones(1, 1, 8, 8), 3, stride=1, padding=1, divisor_override=1)  # 4, 6 or 9
    expected = taps.roll((SHIFT, SHIFT), dims=(2, 3)).expand(2, 12, 8, 8).double()
    torch.testing.assert_close(operators.swin(change | CONVOLUTION_ALONE)(maps()), expected, **TOLERANCE)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("pixel", [(0, 0), (2, 3), (2, 4)])
def test_the_scale_multiplies_the_positional_term_too(operators: Operators, pixel: tuple[int, int], stage: int) -> None:
    channels, head_dim, height, width = 8 * stage, 2 * stage, 5, 9
    q = torch.randn(channels).double()  # the same everywhere; k = 0, v = x
    p = torch.randn(head_dim, 2).double()
    change = {
        "conv1.weight": ZERO, "conv1.bias": q, "conv2.weight": ZERO, "conv2.bias": ZERO,
        "conv3.weight": torch.eye(channels)[:, :, None, None], "conv3.bias": ZERO, "conv_p.weight": p[:, :, None, None],
    }  # fmt: skip
    x = maps(channels, height, width)
    out = operators.resnet(stage, change | ATTENTION_ALONE)(x)

    def bounced(index: int, size: int) -> int:
        return min(abs(index), 2 * (size - 1) - abs(index))

    top, left = pixel[0] * stage, pixel[1] * stage
    neighbours = [(bounced(top + a, height), bounced(left + b, width)) for a in range(-3, 4) for b in range(-3, 4)]
    # Width first, and from −1 to 1.
    away = torch.tensor([((left - j) * 2 / (width - 1), (top - i) * 2 / (height - 1)) for i, j in neighbours]).double()
    for head in range(4):
        mine = slice(head * head_dim, (head + 1) * head_dim)
        weights = ((away @ p.T @ q[mine]) / head_dim**0.5).softmax(dim=0)
        expected = sum(weight * x[:, mine, i, j] for weight, (i, j) in zip(weights, neighbours, strict=True))
        torch.testing.assert_close(out[:, mine, pixel[0], pixel[1]], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("pixel", "quarter"), [((0, 0), 0), ((1, 0), 1), ((0, 1), 2), ((1, 1), 3)])
def test_merging_takes_the_lower_left_pixel_second(operators: Operators, pixel: tuple[int, int], quarter: int) -> None:
    reduction = torch.zeros(24, 48)
    reduction[range(4), range(0, 48, 12)] = 1  # the first channel of each quarter
    x = torch.zeros(1, 8, 8, 12, dtype=torch.float64)
    x[0, 2 + pixel[0], 4 + pixel[1], 0] = 1
    merging = operators.merging({"reduction.weight": reduction, "norm.weight": ONE, "norm.bias": ZERO})
    assert merging(x)[0, 1, 2].argmax() == quarter


# What is no such file. The message has one line and names the first key that is wrong; the model stays as it was.

Break = Callable[[dict[str, Any]], Any]


def without_last(state: dict[str, Any]) -> Any:
    return dict(list(state.items())[:-2])


def other(state: dict[str, Any], key: str, value: Any) -> Any:
    assert key in state
    return state | {key: value}


WRONG_SWIN: dict[str, tuple[Break, str]] = {
    "last keys missing": (without_last, "head.fc.weight"),
    "rate missing": (lambda s: {k: v for k, v in s.items() if k != "layers.0.blocks.1.attn.rate2"}, r"blocks\.1\.attn.*beta"),
    "empty": (lambda s: {}, "patch_embed.proj.weight"),  # noqa: ARG005
    "unknown key": (lambda s: s | {"layers.0.blocks.0.attn.dep_conv2.weight": ONE}, "attn.dep_conv2.weight"),
    "key of this package": (lambda s: s | {"layers.0.blocks.0.attn.mixing.alpha": ONE[0]}, "attn.mixing.alpha"),
    "wrong table": (
        lambda s: other(s, "layers.0.blocks.0.attn.relative_position_bias_table", torch.zeros(169, 3)),
        r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table.*\(169, 3\).*\(49, 3\)",
    ),
    "wrong linear": (
        lambda s: other(s, "layers.0.blocks.0.attn.qkv.weight", torch.zeros(36)), r"attn\.qkv\.weight.*\(36,\)"
    ),
    "wrong rate": (lambda s: other(s, "layers.0.blocks.0.attn.rate1", torch.zeros(2)), r"attn\.rate1.*\(2,\)"),
    "wrong fc": (
        lambda s: other(s, "layers.0.blocks.0.attn.fc.weight", torch.zeros(9, 3, 3, 1)), r"attn\.fc\.weight.*\(9, 3, 3, 1\)"
    ),
    "number of classes": (
        lambda s: s | {"head.weight": torch.zeros(7, 24), "head.bias": torch.zeros(7)}, r"'head\.weight'.*\(7, 24\).*\(5, 24\)"
    ),
    "other family": (lambda s: small_resnet()[0].state_dict(), r"'conv1\.weight'"),  # noqa: ARG005
    "a list": (lambda s: list(s.values()), "list.*state dict"),
    "a tensor": (lambda s: s["head.bias"], "Tensor.*state dict"),
    "no tensors": (lambda s: {"epoch": 3, "optimizer": s}, "'epoch'.*state dict"),
    "a list under model": (lambda s: {"model": list(s)}, "'model'.*state dict"),
}  # fmt: skip
WRONG_RESNET: dict[str, tuple[Break, str]] = {
    "last keys missing": (without_last, r"'fc\.weight'"),
    "projection missing": (
        lambda s: {k: v for k, v in s.items() if k != "layer2.0.conv2.conv2.bias"}, r"layer2\.0\.conv2.*qkv\.bias"
    ),
    "unknown key": (lambda s: s | {"layer1.0.conv2.bias": ONE}, r"layer1\.0\.conv2\.bias"),
    "key of this package": (lambda s: s | {"layer1.0.conv2.mixing.alpha": ONE[0]}, r"conv2\.mixing\.alpha"),
    "wrong projection": (
        lambda s: other(s, "layer1.0.conv2.conv3.weight", torch.zeros(8, 16, 1, 1)), r"conv3\.weight.*\(8, 16, 1, 1\)"
    ),
    "wrong head_dim": (lambda s: other(s, "layer1.0.conv2.conv_p.bias", torch.zeros(3)), r"conv_p\.bias.*\(3,\).*\(2,\)"),
    "number of classes": (
        lambda s: s | {"fc.weight": torch.zeros(7, 160), "fc.bias": torch.zeros(7)}, r"'fc\.weight'.*\(7, 160\).*\(5, 160\)"
    ),
    "other family": (lambda s: small_swin()[0].state_dict(), r"'patch_embed\.proj\.weight'"),  # noqa: ARG005
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "spoil", "message"),
    [
        pytest.param(make, *case, id=f"{family}: {name}")
        for family, make, cases in (("swin", small_swin, WRONG_SWIN), ("resnet", small_resnet, WRONG_RESNET))
        for name, case in cases.items()
    ],
)
def test_a_wrong_file_is_refused(make: Callable[[], Any], spoil: Break, message: str, tmp_path: Path) -> None:
    published, ours = make()
    refuse(ours, save(spoil(dict(published.state_dict())), tmp_path), message)


def refuse(model: nn.Module, path: Path, message: str) -> None:
    before = deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message) as caught:
        load_published(model, path)
    assert "\n" not in str(caught.value)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refuse(small_swin()[1], tmp_path / "nothing.pth", r"no file '.*nothing\.pth'")


@pytest.mark.parametrize("part", [0, 10, 0.5, 0.99])
def test_a_file_cut_short_is_refused(part: float, tmp_path: Path) -> None:
    published, ours = small_swin()
    path = save(published.state_dict(), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content)) if part < 1 else int(part)])
    refuse(ours, path, r"published\.pth' cannot be read")


class Settings:
    """What a training script may have saved beside the weights."""


def test_a_file_with_objects_is_refused(tmp_path: Path) -> None:
    published, ours = small_swin()
    refuse(ours, save({"model": published.state_dict(), "config": Settings()}, tmp_path), "cannot be read.*alone")


@pytest.mark.parametrize("name", ["resnet26_conv", "resnet26_sasa", "swin_tiny_patch4_window7_224"])
def test_a_model_that_is_no_acmix_is_refused(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(UserError, match=rf"^model must be .*{type(model).__name__}$"):
        load_published(model, save(small_swin()[0].state_dict(), tmp_path))
