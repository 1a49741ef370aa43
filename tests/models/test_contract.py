"""What timm promises of a model, for every network that this package registers with it, and what the paper says they cost."""

from __future__ import annotations

import copy
import json
import re
import socket
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.models.resnet import Bottleneck
from timm.models.swin_transformer import SwinTransformerBlock
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from acmix_nas.architecture import Architecture, build
from acmix_nas.deploy.export import export_onnx
from acmix_nas.deploy.profile import count
from acmix_nas.models.pvt import PVTBlock
from acmix_nas.models.san import SANBlock
from acmix_nas.operators import ACmix, ConvolutionPath, LinearPosition, LocalPath
from acmix_nas.operators.acmix import MIXINGS
from acmix_nas.operators.convolution import SHIFTS
from acmix_nas.research import paper
from acmix_nas.search_spaces import hybridize
from acmix_nas.slots.backbones import as_features
from acmix_nas.util.errors import UserError
from tests.small import train_briefly

# Shallow and narrow, with sizes that neither patches nor windows divide. A family that is new has to be added here.
SMALL: dict[str, dict[str, Any]] = {
    "pvt": {
        "depths": (1, 2, 1), "embed_dims": (8, 12, 20), "num_heads": (1, 3, 2), "mlp_ratios": (3, 2, 2.5),
        "reductions": (3, 2, 1), "img_size": (20, 28),
    },
    "resnet": {"layers": (1, 2, 1, 1), "channels": (8, 16, 12, 24), "window": 5, "zero_init_last": False},
    "san": {"layers": (1, 0, 2), "channels": (16, 48, 32), "windows": (3, 5, 7), "stem_channels": 6},
    "swin": {
        "depths": (2, 2), "embed_dim": 12, "num_heads": (2, 3), "window_size": 5, "patch_size": 3, "img_size": (36, 44),
        "drop_path_rate": 0.0,  # timm's Swin drops by default
    },
}  # fmt: skip
PAPERS = tuple(f"acmix_nas.models.{family}" for family in ("resnet", "san", "pvt", "swin"))
NAMES = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__ in PAPERS]
# Small variants of one family and operator are the same network whatever their name; what is slow runs once for each.
FORMS = list({re.sub(r"\d+|_(tiny|small)", "", name): name for name in NAMES}.values())
ACMIX = [name for name in FORMS if name.endswith("_acmix")]
BLOCKS = Bottleneck | PVTBlock | SANBlock | SwinTransformerBlock

PAPER: dict[str, dict[str, float]] = json.loads(
    Path(paper.__file__).with_name("paper.json").read_text(encoding="utf-8")
)["models"]  # fmt: skip
# Of the published code, and of PVT-T, where the paper rounds to whole millions.
EXACT = {
    "resnet26_acmix": 10_487_816, "resnet38_acmix": 14_410_896, "resnet50_acmix": 18_333_976,
    "swin_tiny_acmix": 28_649_908, "swin_small_acmix": 50_345_080, "pvt_tiny_acmix": 13_395_032,
}  # fmt: skip


def family(name: str) -> str:
    found = re.match("[a-z]+", name)
    assert found
    return found[0]


def small(name: str, **arguments: Any) -> Any:
    return timm.create_model(name, **{**SMALL[family(name)], "num_classes": 5, **arguments})


def float64(name: str, **arguments: Any) -> Any:
    """Make a small variant in which no start value hides a part: no bias of zero, no kernel that only shifts."""
    network = small(name, dtype=torch.float64, **arguments)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.randn_like(value) / 10)
    return network


def images(*size: int, batch: int = 2, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, channels, *(size or (37, 46)), dtype=dtype)


def blocks(network: nn.Module) -> dict[str, nn.Module]:
    return {key: module for key, module in network.named_modules() if isinstance(module, BLOCKS)}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def gradients(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the gradient of every parameter that trains, for a loss in which no logit is like another."""
    network.zero_grad()
    logits = network(x)
    (logits * torch.arange(1, 1 + logits.numel(), dtype=logits.dtype, device=x.device).view_as(logits)).sum().backward()
    found = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[name] = parameter.grad.clone()
    return found


def paths(network: nn.Module) -> list[ConvolutionPath]:
    return [module for module in network.modules() if isinstance(module, ConvolutionPath)]


def assert_shifts(network: nn.Module) -> None:
    for path in paths(network):
        assert path.shift is not None
        assert torch.equal(path.shift.flatten(2), torch.eye(path.kernel_size**2).expand(path.channels, -1, -1))


def assert_all_matter(network: nn.Module) -> None:
    """Check that every parameter that trains changes the logits in evaluation mode, where no normalisation hides a bias."""
    x = images()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of these images, so that no ReLU is dead
    network.train()(x)
    idle = {key for key, gradient in gradients(network.eval(), x).items() if gradient.abs().max() < 1e-9}
    # Attention sees differences of linear positions, where the bias cancels.
    positions = [key for key, module in network.named_modules() if isinstance(module, LinearPosition)]
    assert idle == {f"{key}.linear.bias" for key in positions}


def test_the_networks_are_those_of_the_paper() -> None:
    assert set(NAMES) == {
        *(f"resnet{depth}_{operator}" for depth in (26, 38, 50) for operator in ("conv", "sasa", "acmix")),
        *(f"san{depth}_{operator}" for depth in (10, 15, 19) for operator in ("patchwise", "acmix")),
        *(f"pvt_{size}{operator}" for size in ("tiny", "small") for operator in ("", "_acmix")),
        *(f"swin_{size}_acmix" for size in ("tiny", "small")),
    }
    assert {name for name in NAMES if name.endswith("_acmix")} == PAPER.keys()
    assert len(FORMS) == 8


# At full size, without computing.


@pytest.mark.parametrize("name", PAPER)
def test_parameters_are_those_of_the_paper(name: str) -> None:
    found = parameters(timm.create_model(name, device="meta"))
    if name in EXACT:
        assert found == EXACT[name]
    else:
        assert found / 1e6 == pytest.approx(PAPER[name]["params_m"], rel=0.02)


@pytest.mark.parametrize("name", PAPER)
def test_macs_are_those_of_the_paper(name: str) -> None:
    counts = count(Architecture(name, {}, ()), (3, 224, 224))
    assert counts.macs / 1e9 == pytest.approx(PAPER[name]["macs_g"], rel=0.05)
    assert counts.parameters == parameters(timm.create_model(name, device="meta"))


def test_conv_swin_is_that_of_table_6() -> None:
    network = timm.create_model("swin_tiny_acmix", mixing="convolution", device="meta")
    assert round(parameters(network) / 1e6) == 39
    assert not any(isinstance(module, ACmix) for module in network.modules())


@pytest.mark.parametrize("name", NAMES)
def test_a_full_network_takes_the_images_of_its_config(name: str) -> None:
    network: Any = timm.create_model(name, device="meta")
    x = torch.empty(2, *network.pretrained_cfg["input_size"], device="meta")
    assert network.forward_features(x).numel() == 2 * network.num_features * 7 * 7
    assert network(x).shape == (2, 1000)
    pyramid: Any = timm.create_model(name, device="meta", features_only=True)
    assert pyramid.feature_info.reduction()[-4:] == [4, 8, 16, 32]
    assert pyramid.feature_info.channels()[-1] == network.num_features


@pytest.mark.parametrize("name", NAMES)
def test_every_block_has_the_operator_of_its_name(name: str) -> None:
    network = timm.create_model(name, device="meta")
    mixed = [any(isinstance(child, ACmix) for child in block.children()) for block in blocks(network).values()]
    assert len(mixed) > 5
    assert set(mixed) == {name.endswith("_acmix")}


# timm's registry and configs.


@pytest.mark.parametrize("name", NAMES)
def test_the_config_names_modules_and_no_weights(name: str) -> None:
    network = small(name)
    cfg = network.pretrained_cfg
    assert (cfg["num_classes"], cfg["architecture"], cfg["license"]) == (1000, name, "apache-2.0")
    assert network.get_submodule(cfg["first_conv"]).in_channels == 3
    assert network.get_submodule(cfg["classifier"]) is network.get_classifier()
    assert not any(cfg.get(where) for where in ("url", "hf_hub_id", "file"))
    assert name not in timm.list_pretrained()


@pytest.mark.parametrize("name", NAMES)
def test_pretrained_weights_are_refused_without_a_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: attempts.append(address))
    with pytest.raises(RuntimeError, match=f"No pretrained weights exist for {name}"):
        small(name, pretrained=True)
    assert not attempts


# Images in, logits out.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (3, 8), (29, 13), (64, 64), (37, 70)])
def test_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    logits = small(name).eval()(images(*size, dtype=torch.float32))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "classes"), [(1, 3), (4, 0), (7, 1)])
def test_any_number_of_channels_and_classes(name: str, channels: int, classes: int) -> None:
    network = small(name, in_chans=channels, num_classes=classes).eval()
    assert network.num_classes == classes
    assert network(images(channels=channels, dtype=torch.float32)).shape == (2, classes or network.num_features)


@pytest.mark.parametrize("name", [name for name in NAMES if "img_size" in SMALL[family(name)]])
@pytest.mark.parametrize("img_size", [9, (24, 12), (41, 90)])
def test_a_network_is_made_for_a_size_of_images(name: str, img_size: int | tuple[int, int]) -> None:
    network = small(name, img_size=img_size).eval()
    x = images(*((img_size, img_size) if isinstance(img_size, int) else img_size), dtype=torch.float32)
    assert network(x).shape == network(images(dtype=torch.float32)).shape == (2, 5)
    if name.endswith("_acmix"):
        assert sum(isinstance(module, ACmix) for module in network.modules()) == sum(SMALL[family(name)]["depths"])


@pytest.mark.parametrize("name", FORMS)
def test_an_image_does_not_see_its_batch(name: str) -> None:
    network, x = float64(name).eval(), images(batch=3)
    torch.testing.assert_close(torch.cat([network(image[None]) for image in x]), network(x))


@pytest.mark.parametrize("name", NAMES)
def test_the_head_follows_the_features(name: str) -> None:
    network, x = float64(name).eval(), images()
    logits, features = network(x), network.forward_features(x)
    assert torch.equal(network.forward_head(features), logits)
    pooled = network.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, network.num_features)
    assert network.head_hidden_size == network.num_features
    assert torch.equal(network.get_classifier()(pooled), logits)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("classes", "pool"), [(7, None), (3, "max"), (0, None), (0, "")])
def test_another_classifier(name: str, classes: int, pool: str | None) -> None:
    network, x = float64(name).eval(), images()
    features = network.forward_features(x)
    network.reset_classifier(classes, pool)
    classifier = network.get_classifier()
    assert network.num_classes == classes
    assert torch.equal(network.forward_features(x), features)
    if classes:
        assert (classifier.out_features, classifier.in_features) == (classes, network.num_features)
        assert network(x).shape == (2, classes)
    else:
        assert isinstance(classifier, nn.Identity)
        assert network(x).shape == (features.shape if pool == "" else (2, network.num_features))


# Training.


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_finite_gradient(name: str) -> None:
    for key, gradient in gradients(float64(name).train(), images()).items():
        assert gradient.isfinite().all(), key


@pytest.mark.parametrize("name", FORMS)
def test_every_parameter_matters(name: str) -> None:
    assert_all_matter(float64(name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rate", ["drop_path_rate", "drop_rate"])
def test_dropping_is_for_training(name: str, rate: str) -> None:
    network, never, x = float64(name, **{rate: 0.5}), float64(name), images(batch=5)
    never.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(x), never.eval()(x))
    assert torch.equal(never.train()(x), never(x))
    assert not torch.allclose(network.train()(x), network(x))


@pytest.mark.parametrize("name", FORMS)
def test_checkpointing_changes_no_gradient(name: str) -> None:
    network, x = float64(name).train(), images()
    calls: Counter[str] = Counter()
    once = dict.fromkeys(blocks(network), 1)
    for key, block in blocks(network).items():
        block.register_forward_pre_hook(lambda *_, key=key: calls.update([key]))
    expected = gradients(network, x)
    assert calls == once
    network.set_grad_checkpointing()
    found = gradients(network, x)
    assert max(calls.values()) == 3
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], msg=key)
    network.set_grad_checkpointing(False)
    calls.clear()
    gradients(network, x)
    assert calls == once


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("coarse", [False, True])
def test_every_parameter_is_in_a_group(name: str, coarse: bool) -> None:
    network = small(name)
    matcher = network.group_matcher(coarse=coarse)
    groups = group_parameters(network, matcher)
    assert sorted(key for keys in groups.values() for key in keys) == sorted(key for key, _ in network.named_parameters())
    # What no expression matches comes last: the classifier, and before it at most the normalisation of the last map.
    classifier, stem = (f"{network.pretrained_cfg[end]}.weight" for end in ("classifier", "first_conv"))
    assert {key.rpartition(".")[0] for key in groups[max(groups)]} - {"norm"} == {network.pretrained_cfg["classifier"]}
    assert stem in groups[0]
    depth = group_parameters(network, matcher, reverse=True)
    in_order = [depth[f"{name}.{next(iter(block.state_dict()))}"] for name, block in blocks(network).items()]
    steps = [after - before for before, after in pairwise([0, *in_order, depth[classifier]])]
    assert min(steps) >= (0 if coarse else 1)
    assert sum(steps) > 1


@pytest.mark.parametrize("name", NAMES)
def test_no_weight_decay_names_parameters(name: str) -> None:
    network = small(name)
    assert set(network.no_weight_decay()) <= {key for key, _ in network.named_parameters()}
    positions = {key for key, value in network.named_parameters() if key.endswith((".table", "pos_embed")) and value.ndim > 1}
    assert positions <= set(network.no_weight_decay())


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_rate_decays_with_depth(name: str) -> None:
    network = small(name)
    optimizer = create_optimizer_v2(network, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    keys = {parameter: key for key, parameter in network.named_parameters()}
    group = {keys[parameter]: group for group in optimizer.param_groups for parameter in group["params"]}
    assert group.keys() == set(keys.values())
    assert not any(group[key]["weight_decay"] for key in network.no_weight_decay())
    first, last = (f"{network.pretrained_cfg[end]}.weight" for end in ("first_conv", "classifier"))
    assert group[last]["weight_decay"] == 0.05
    assert group[last]["lr_scale"] == 1
    assert group[first]["lr_scale"] <= 0.5 ** (len(blocks(network)) + 1)


# Pyramids of features.


@pytest.mark.parametrize("name", NAMES)
def test_feature_info_says_what_comes(name: str) -> None:
    height, width = 96, 192  # what the reductions of every family divide
    pyramid = small(name, features_only=True).eval()
    maps = pyramid(images(height, width, dtype=torch.float32))
    info = pyramid.feature_info
    if family(name) == "swin":  # like timm's own
        maps = [m.permute(0, 3, 1, 2) for m in maps]
    expected = [(2, c, height // r, width // r) for c, r in zip(info.channels(), info.reduction(), strict=True)]
    assert [tuple(m.shape) for m in maps] == expected


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("indices", [None, (1,), (0, -1)])
def test_a_pyramid_computes_what_the_network_does(name: str, indices: tuple[int, ...] | None) -> None:
    network, x = float64(name).eval(), images()
    stages: list[Tensor] = []
    for info in network.feature_info:
        network.get_submodule(info["module"]).register_forward_hook(lambda *call: stages.append(call[-1]))
    network(x)
    expected = stages if indices is None else [stages[index] for index in indices]
    arguments = {**SMALL[family(name)], "dtype": torch.float64, **({} if indices is None else {"out_indices": indices})}
    maps = as_features(network, [], name, arguments).eval()(x)
    assert len(maps) == len(expected)
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", [name for name in FORMS if family(name) == "resnet"])
@pytest.mark.parametrize("stride", [8, 16])
def test_resnets_dilate_for_a_smaller_stride(name: str, stride: int) -> None:
    pyramid = small(name, layers=(1, 1, 2, 2), features_only=True, output_stride=stride).eval()
    dilations = [module.dilation for module in pyramid.modules() if isinstance(module, nn.Conv2d | ConvolutionPath | LocalPath)]
    assert max(dilation if isinstance(dilation, int) else dilation[0] for dilation in dilations) == 32 // stride
    assert pyramid.feature_info.reduction()[-1] == stride
    assert pyramid(images(96, 64, dtype=torch.float32))[-1].shape[-2:] == (96 // stride, 64 // stride)


# A convolution, the family's own attention, ACmix of both, and one that is neither.
FOUND = ("conv", "home", "acmix_home", "acmix_window_k3")


@pytest.mark.parametrize("backbone", ["pvt_tiny", "resnet26_conv", "san10_patchwise", "swin_tiny_patch4_window7_224"])
def test_an_architecture_has_a_pyramid(backbone: str, tmp_path: Path) -> None:
    arguments = {**SMALL[family(backbone)], "num_classes": 3}
    if family(backbone) == "swin":  # timm's own takes no size but that which it is made for, here that of train_briefly
        arguments |= {"img_size": 32, "patch_size": 2}
    pattern = "layer*.conv2" if family(backbone) == "resnet" else "*.attn"
    slots = hybridize(backbone, FOUND, pattern, **arguments).slots
    chosen = {slot.name: slot.candidates[number % len(FOUND)] for number, slot in enumerate(slots)}
    architecture = Architecture(backbone, chosen, FOUND, arguments, (pattern,))
    network: Any = train_briefly(build(architecture))
    torch.save(network.state_dict(), tmp_path / "network.pt")
    given: dict[str, Any] = {"architecture": architecture, "weights": tmp_path / "network.pt"}
    pyramid: Any = timm.create_model("acmix_nas", features_only=True, **given).eval()
    x = images(32, 32, dtype=torch.float32)
    expected = network.forward_intermediates(x, intermediates_only=True)
    channel = -1 if family(backbone) == "swin" else 1
    maps = [m.movedim(channel, 1) for m in pyramid(x)]
    assert [m.shape[1] for m in maps] == pyramid.feature_info.channels()
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted)


# The arguments of ACmix.


@pytest.mark.parametrize("name", ACMIX)
@pytest.mark.parametrize("mixing", MIXINGS)
def test_mixing_is_an_argument(name: str, mixing: str) -> None:
    network = float64(name, mixing=mixing)
    assert {module.mixing.mixing for module in network.modules() if isinstance(module, ACmix)} <= {mixing}
    weights = {key.rpartition(".")[2] for key, _ in network.named_parameters()} & {"alpha", "beta"}
    assert weights == {"learned": {"alpha", "beta"}, "alpha": {"alpha"}, "convex": {"alpha"}}.get(mixing, set())
    assert_all_matter(network)


@pytest.mark.parametrize("name", ACMIX)
@pytest.mark.parametrize("shifts", SHIFTS)
def test_shifts_are_an_argument(name: str, shifts: str) -> None:
    network = float64(name, shifts=shifts).eval()
    assert {path.shifts for path in paths(network)} == {shifts}
    trained = gradients(network, images())
    assert any(key.endswith(".shift") for key in trained) == (shifts in ("random", "learned"))


@pytest.mark.parametrize("name", ACMIX)
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_kernel_size_is_an_argument_and_the_kernels_are_shifts(name: str, kernel_size: int) -> None:
    network = small(name, kernel_size=kernel_size)
    assert {path.kernel_size for path in paths(network)} == {kernel_size}
    assert_shifts(network)
    if hasattr(network, "init_weights"):
        network.init_weights()
        assert_shifts(network)
    assert network(images(dtype=torch.float32)).shape == (2, 5)


@pytest.mark.parametrize("name", ACMIX)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mixing": "both"}, ["mixing", "'both'", "learned"]),
        ({"shifts": "none"}, ["shifts", "'none'", "learned"]),
        ({"kernel_size": 4}, ["kernel_size", "odd", "4"]),
    ],
)
def test_errors_name_the_argument(name: str, arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        small(name, **arguments)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


# Types, devices, copies, exports.


@pytest.mark.parametrize("name", FORMS)
def test_the_type_is_an_argument(name: str) -> None:
    network = small(name, dtype=torch.float64)
    tensors = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert {value.dtype for value in tensors.values()} == {torch.float64}
    x = images()
    expected = network.eval()(x)
    assert expected.dtype == torch.float64
    torch.testing.assert_close(network.float()(x.float()), expected.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_the_device_is_an_argument(name: str) -> None:
    given = small(name, device="meta")
    with torch.device("meta"):
        around = small(name)
    for network in (given, around):
        assert {value.device.type for value in network.state_dict().values()} == {"meta"}
        assert network(images(dtype=torch.float32).to("meta")).shape == (2, 5)
        network.reset_classifier(7)
        assert network.get_classifier().weight.device.type == "meta"


@pytest.mark.parametrize("name", FORMS)
def test_bf16_trains(name: str) -> None:
    network, x = float64(name).float().eval(), images(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(x)
    assert found.dtype == torch.bfloat16
    expected = network(x)
    assert (found - expected).norm() < 0.05 * expected.norm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = gradients(network.train(), x)
    assert all(gradient.isfinite().all() for gradient in trained.values())


@pytest.mark.parametrize("name", FORMS)
def test_channels_last_changes_nothing(name: str) -> None:
    network, x = float64(name).eval(), images()
    expected = network(x)
    last = torch.channels_last
    torch.testing.assert_close(network(x.to(memory_format=last)), expected)
    torch.testing.assert_close(network.to(memory_format=last)(x.to(memory_format=last)), expected)


@pytest.mark.parametrize("name", FORMS)
def test_a_copy_is_another_network(name: str) -> None:
    network, x = float64(name).eval(), images()
    twin = copy.deepcopy(network)
    expected = network(x)
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_timm(name: str, tmp_path: Path) -> None:
    network, x = float64(name).eval(), images()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "network.pth")
    again = small(name, dtype=torch.float64, checkpoint_path=tmp_path / "network.pth").eval()
    assert torch.equal(again(x), network(x))


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_the_network(name: str) -> None:
    def make(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        state: dict[str, Tensor] = small(name).state_dict()
        return state

    first, again, other = make(3), make(3), make(4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", FORMS)
def test_a_trace_agrees(name: str) -> None:
    network, x = float64(name).eval(), images()
    traced = torch.jit.trace(network, x, check_trace=False)
    for batch in (1, 3):
        x = images(batch=batch)
        torch.testing.assert_close(traced(x), network(x))


EXPORTED = ("pvt_tiny_acmix", "san19_patchwise")  # the other families take longer
# The time of an export goes by the operations of a network: one block of each kind, and windows of several rows.
BRIEF: dict[str, dict[str, Any]] = {
    "pvt": {"depths": (1, 1, 1)},
    "resnet": {"layers": (1, 1, 1, 1), "window": 3},
    "san": {"layers": (0, 0, 1), "windows": (3, 3, 3)},
    "swin": {"depths": (2, 1)},
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in EXPORTED else pytest.mark.slow) for name in FORMS])
@pytest.mark.filterwarnings("error:the network cannot be exported for any batch")
def test_an_export_agrees(name: str, tmp_path: Path) -> None:
    network = float64(name, **BRIEF[family(name)]).float()
    assert 0 < export_onnx(network, tmp_path / "network.onnx", (3, 45, 45)) < 1e-5


def test_a_swin_of_one_window_can_be_exported(tmp_path: Path) -> None:
    network = small("swin_tiny_acmix", depths=(1,), num_heads=(2,), window_size=7)
    export_onnx(network, tmp_path / "network.onnx", (3, 21, 21))


@pytest.mark.gpu
@pytest.mark.parametrize("name", FORMS)
def test_cuda_agrees_with_the_cpu(name: str) -> None:
    network, x = float64(name).train(), images()
    expected = gradients(network, x)
    found = gradients(copy.deepcopy(network).cuda(), x.cuda())
    for key, gradient in found.items():
        torch.testing.assert_close(gradient.cpu(), expected[key], msg=key)
    network.eval()
    torch.testing.assert_close(copy.deepcopy(network).cuda()(x.cuda()).cpu(), network(x))
