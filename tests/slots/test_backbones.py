"""What timm refuses is one line."""

from __future__ import annotations

from typing import Any

import pytest
import timm

from acmix_nas.architecture import Architecture
from acmix_nas.slots.backbones import for_size, make_backbone
from acmix_nas.training.retrain import sized
from acmix_nas.util.errors import UserError


@pytest.mark.parametrize(
    ("backbone", "arguments", "words"),
    [
        ("resnet18.typo", {}, "backbone must be one of resnet18.a1_in1k, .*; got 'resnet18.typo'"),
        ("resnet26_acmix.typo", {}, "backbone must be one of resnet26_acmix; got 'resnet26_acmix.typo'"),
        ("resnet18", {"output_stride": 7}, "'resnet18' does not take these arguments: AssertionError"),
        ("resnet18", {"act_layer": "nope"}, "'resnet18' does not take these arguments: 'nope'"),
        ("resnet26_acmix", {"pretrained": True}, "'resnet26_acmix' does not take these arguments: No pretrained weights"),
        ("resnet26_acmix", {"heads": 7}, "^out_channels must be divisible by heads"),
    ],
)
def test_what_timm_refuses_is_one_line(backbone: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        make_backbone(backbone, arguments)
    assert "\n" not in str(refused.value)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("no connection\nand no cache")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"^backbone 'resnet18' does not get its pretrained weights: no connection$"):
        make_backbone("resnet18", {"pretrained": True})


def test_a_backbone_as_it_stands_with_an_unknown_tag_is_one_line() -> None:
    with pytest.raises(UserError, match=r"got 'resnet18.typo'"):
        sized(Architecture("resnet18.typo", {}, ()), 64)


@pytest.mark.parametrize(
    ("backbone", "arguments", "expected"),
    [
        ("swin_tiny_patch4_window7_224", {}, {"img_size": 32}),
        ("swin_tiny_patch4_window7_224", {"img_size": 64}, {"img_size": 32}),
        ("swin_tiny_patch4_window7_224", {"strict_img_size": False}, {"strict_img_size": False}),
        ("resnet26", {"channels": [8]}, {"channels": [8]}),
        ("no_model", {}, {}),
    ],
)
def test_what_timm_builds_for_one_size_is_told_the_size(
    backbone: str, arguments: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert for_size(backbone, arguments, 32) == expected
