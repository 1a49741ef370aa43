"""timm's transformers with their attention on maps: the same function, and what stays closed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from acmix_nas.operators import Operator, WindowPath
from acmix_nas.slots.blocks import MapSwinBlock, MapViTBlock, open_blocks
from acmix_nas.util.errors import UserError
from tests.small import about, images, known

Size = tuple[int, int]


def scramble(network: nn.Module) -> nn.Module:
    """Give biases and tables, which start at zero or near it, values of their own."""
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2 or "table" in name:
            nn.init.normal_(parameter, std=0.5)
    return network.eval()


def swin(size: Size = (56, 56), **arguments: Any) -> nn.Module:
    small: dict[str, Any] = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5}
    return scramble(timm.create_model("swin_tiny_patch4_window7_224", img_size=size, **{**small, **arguments}))


def vit(size: Size = (48, 48), **arguments: Any) -> nn.Module:
    small: dict[str, Any] = {
        "embed_dim": 24, "depth": 2, "num_heads": 4, "num_classes": 5, "class_token": False, "global_pool": "avg",
    }  # fmt: skip
    return scramble(timm.create_model("vit_tiny_patch16_224", img_size=size, **{**small, **arguments}))


def opened(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    open_blocks(network)
    return network


def attentions(network: nn.Module) -> list[Operator]:
    return [module for module in network.modules() if isinstance(module, Operator)]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "swin": swin,
    "swin_wide": lambda: swin((56, 112)),
    "swin_window_of_the_map": lambda: swin((24, 24)),
    "swin_without_bias": lambda: swin(qkv_bias=False),
    "swin_window_4": lambda: swin((64, 64), window_size=4),
    "vit": vit,
    "vit_wide": lambda: vit((32, 80)),
    "vit_scaled": lambda: vit(init_values=0.3, qkv_bias=False),
    "vit_dynamic": lambda: vit(dynamic_img_size=True),
}
# Where timm and this package keep the same weights.
NAMES = {
    "attn.qkv.": "attn.projection.qkv.", "attn.proj.": "attn.path.proj.",
    "attn.relative_position_bias_table": "attn.path.path.position.table",
}  # fmt: skip


def renamed(name: str) -> str:
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name


def image(network: Any, number: int = 2) -> Tensor:
    return torch.randn(number, 3, *network.patch_embed.img_size)


@pytest.mark.parametrize("name", NETWORKS)
def test_computes_what_it_did_gradients_too(name: str) -> None:
    network = NETWORKS[name]().double()
    mapped = opened(network)
    assert len(attentions(mapped)) == sum(len(stage.blocks) for stage in getattr(network, "layers", [network]))
    x = image(network).double()
    out, expected = mapped(x), network(x)
    torch.testing.assert_close(out, expected, atol=1e-9, rtol=1e-9)
    cotangent = torch.randn_like(out)
    out.backward(cotangent)
    expected.backward(cotangent)
    theirs, mine = dict(network.named_parameters()), dict(mapped.named_parameters())
    for old, parameter in theirs.items():
        assert parameter.grad is not None
        got = mine[renamed(old)].grad
        assert got is not None
        torch.testing.assert_close(
            got.reshape(parameter.shape), parameter.grad, atol=1e-9, rtol=1e-9, msg=about(old)
        )  # fmt: skip
    assert {key.split("attn.")[-1] for key in mine.keys() - map(renamed, theirs)} <= {"path.position.table"}


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_opening_twice_is_opening_once(name: str) -> None:
    network = opened(NETWORKS[name]())
    before = list(network.modules())
    open_blocks(network)
    assert [id(module) for module in network.modules()] == [id(module) for module in before]


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_copies_are_open_and_their_own(name: str) -> None:
    network = opened(NETWORKS[name]())
    twin = copy.deepcopy(network)
    x = image(network)
    expected = network(x)
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_weights_come_back(name: str) -> None:
    network, other = opened(NETWORKS[name]()), opened(NETWORKS[name]())
    x = image(network)
    assert not torch.allclose(other(x), network(x))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), network(x))


def test_swin_takes_another_input_size() -> None:
    network: Any = opened(swin())
    other: Any = swin((84, 112), window_size=7)
    network.set_input_size((84, 112))
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    weights = {old: network.state_dict()[renamed(old)].reshape(shape) for old, shape in shapes.items()}
    other.load_state_dict(weights)
    x = torch.randn(2, 3, 84, 112)
    # At 112 pixels the second stage has 10 × 14 positions, which its windows do not divide: compare what comes before.
    torch.testing.assert_close(network.layers[0](network.patch_embed(x)), other.layers[0](other.patch_embed(x)))
    assert network(x).shape == other(x).shape


def test_swin_keeps_its_shift_where_its_windows_were_the_map() -> None:
    network = opened(swin())
    shifts = [module.shift for module in network.modules() if isinstance(module, WindowPath)]
    assert shifts == [False, True, False, True]


@pytest.mark.parametrize("side", [32, 64])
def test_vit_takes_other_square_images(side: int) -> None:
    network = vit(dynamic_img_size=True)
    x = images(2, side)
    torch.testing.assert_close(opened(network)(x), network(x), atol=1e-5, rtol=1e-5)


def test_vit_says_which_images_it_takes() -> None:
    network = opened(vit(dynamic_img_size=True))
    with pytest.raises(UserError, match="image must be square, or of the size that the ViT was made for; got 8 patches"):
        network(torch.randn(1, 3, 32, 64))


def test_vits_maps_lie_as_the_image_does() -> None:
    """An operator that looks only upwards passes on nothing from below."""

    class Above(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.pad(x, (0, 0, 1, 0))[:, :, :-1]

    network: Any = opened(vit((32, 80), depth=1))
    network.blocks[0].attn = Above()
    tokens = torch.randn(1, 10, 24, requires_grad=True)
    network.blocks[0](tokens)[0, 7].sum().backward()  # the second row, third column of 2 × 5
    assert known(tokens.grad).abs().sum(2).nonzero()[:, 1].tolist() == [2, 7]


@pytest.mark.parametrize(
    ("network", "number"),
    [
        (lambda: vit(class_token=True, global_pool="token"), 0),
        (lambda: vit(reg_tokens=2), 0),
        (lambda: vit(qk_norm=True), 0),
        (lambda: timm.create_model("swinv2_tiny_window8_256", img_size=64, embed_dim=24, depths=(1,), num_heads=(2,)), 0),
        (lambda: swin((28, 56)), 2),  # in the second stage a window is 4 × 7
        (lambda: swin(always_partition=True), 0),
    ],
    ids=["class_token", "register_tokens", "normalised", "swin_v2", "oblong_windows", "always_partitioned"],
)
def test_what_has_no_such_form_stays_closed(network: Callable[[], nn.Module], number: int) -> None:
    closed = network().eval()
    x = image(closed)
    mapped = opened(closed)
    torch.testing.assert_close(mapped(x), closed(x), atol=1e-6, rtol=1e-6)
    blocks = [module for module in mapped.modules() if isinstance(module, MapSwinBlock | MapViTBlock)]
    assert len(blocks) == len(attentions(mapped)) == number


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_type_is_kept(name: str) -> None:
    network = opened(NETWORKS[name]().to(torch.bfloat16))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert network(image(network).to(torch.bfloat16)).dtype == torch.bfloat16
