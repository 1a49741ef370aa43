"""The architecture file: written, read back, built from, and refused in one line where it is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import acmix_nas
from acmix_nas.architecture import Architecture, build
from acmix_nas.util.errors import UserError
from tests.small import images

CANDIDATES = ["conv", "local", "acmix_local"]
SLOTS = {"layer1.0.conv2": "conv", "layer2.0.conv2": "acmix_local", "layer3.0.conv2": "local", "layer4.0.conv2": "conv"}


@pytest.fixture
def architecture() -> Architecture:
    return Architecture(
        "resnet14t", SLOTS, CANDIDATES, {"channels": [8, 8, 16, 16]}, ("layer*",), seed=3,
        data={"name": "digits", "num_classes": 3}, metric={"val_accuracy": 0.9},
        probabilities={name: {"conv": 1.0} for name in SLOTS},
    )  # fmt: skip


@pytest.fixture
def file(architecture: Architecture, tmp_path: Path) -> Path:
    return architecture.save(tmp_path / "architecture.json")


def test_reads_what_it_writes(architecture: Architecture, file: Path) -> None:
    assert Architecture.load(file) == architecture


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone_args": {"channels": (8, 8, 16, 16)}, "pattern": ["layer*"], "candidates": tuple(CANDIDATES)},
        {"heads": {"layer1*": 2, "*": 4}, "budget": {"macs": 10**6, "latency": 3.0}, "seed": None},
        {"heads": 2, "data": {"image_size": (16, 24), "name": "photos", "root": None}, "metric": {"val_accuracy": 1}},
        {"backbone": None, "scores": {"layer1.0.conv2": {"conv": float("-inf"), "local": 0.1 + 0.2}}},
    ],
)
def test_equals_what_is_loaded(architecture: Architecture, changes: dict[str, Any], tmp_path: Path) -> None:
    changed = replace(architecture, **changes)
    loaded = Architecture.load(changed.save(tmp_path / "architecture.json"))
    assert loaded == changed
    assert loaded == replace(changed, made={"date": "another"}, origins={"tasks": {"x": "y 1"}})
    assert loaded != replace(changed, slots={**SLOTS, "layer4.0.conv2": "local"})


def test_says_nothing_of_where_its_own_operators_come_from(file: Path) -> None:
    assert "origins" not in json.loads(file.read_text())


def test_says_first_what_made_it(file: Path) -> None:
    first = file.read_text().splitlines()[1]
    assert '"made_by"' in first
    assert {"made_by", "date", "versions", "format", "version"} <= set(json.loads(file.read_text()))


def test_builds_the_network(file: Path) -> None:
    network = build(file, num_classes=7)
    assert network(images()).shape == (2, 7)
    assert type(network.get_submodule("layer1.0.conv2")) is nn.Conv2d
    assert isinstance(network.get_submodule("layer2.0.conv2.operator"), acmix_nas.ACmix)


def test_has_the_classes_of_its_data_by_default(file: Path) -> None:
    assert build(file)(images()).shape == (2, 3)


def test_weights_come_back(file: Path, tmp_path: Path) -> None:
    network = build(file, num_classes=4).eval()
    torch.save(network.state_dict(), tmp_path / "network.pt")
    again = build(file, num_classes=4, weights=tmp_path / "network.pt").eval()
    x = images()
    torch.testing.assert_close(again(x), network(x))


def test_weights_that_are_overwritten_are_not_fetched(tmp_path: Path) -> None:
    """timm refuses `pretrained` where there are no published weights."""
    arguments: dict[str, Any] = {"channels": [8, 8, 16, 16]}
    torch.save(timm.create_model("resnet26_acmix", **arguments).state_dict(), tmp_path / "n.pt")
    architecture = Architecture("resnet26_acmix", {}, (), {**arguments, "pretrained": True})
    build(architecture, weights=tmp_path / "n.pt")
    timm.create_model("acmix_nas", architecture=architecture, weights=tmp_path / "n.pt", features_only=True)
    with pytest.raises(UserError, match="No pretrained weights"):
        build(architecture)


def test_builds_on_a_module_of_the_users() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    architecture = Architecture(None, {"0": "conv", "2": "local"}, CANDIDATES)
    assert build(architecture, backbone=backbone)(images()).shape == (2, 8, 32, 32)
    with pytest.raises(UserError, match="backbone="):
        build(architecture)


def test_timm_creates_it(file: Path) -> None:
    network = timm.create_model("acmix_nas", architecture=file, num_classes=6)
    assert network(images()).shape == (2, 6)
    with pytest.raises(UserError, match="architecture must be given"):
        timm.create_model("acmix_nas")


@pytest.mark.parametrize("backbone", ["resnet18", "vgg11", "densenet121", "hrnet_w18_small"])
def test_timm_takes_features_of_it(backbone: str, tmp_path: Path) -> None:
    from acmix_nas.slots.finding import find_slots

    found = find_slots(timm.create_model(backbone, num_classes=2))
    slots = {slot.name: CANDIDATES[i % 3] for i, slot in enumerate(found)}
    file = Architecture(backbone, slots, CANDIDATES).save(tmp_path / "a.json")
    network: Any = build(file, num_classes=2).eval()
    torch.save(network.state_dict(), tmp_path / "n.pt")
    features: Any = timm.create_model(
        "acmix_nas", architecture=file, num_classes=2, weights=tmp_path / "n.pt", features_only=True, out_indices=(1, 2)
    ).eval()  # fmt: skip
    plain: Any = timm.create_model(backbone, features_only=True, out_indices=(1, 2))
    assert features.feature_info.channels() == plain.feature_info.channels()
    assert features.feature_info.reduction() == plain.feature_info.reduction()
    x = images(1, 64)
    with torch.no_grad():
        maps = features(x)
    for found_map, expected in zip(maps, plain(x), strict=True):
        assert found_map.shape == expected.shape
    if backbone == "resnet18":  # its maps can be followed by hand
        with torch.no_grad():
            stem = network.maxpool(network.act1(network.bn1(network.conv1(x))))
            torch.testing.assert_close(maps[0], network.layer1(stem), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(maps[1], network.layer2(network.layer1(stem)), atol=1e-5, rtol=1e-5)


def test_needs_no_nni(file: Path) -> None:
    script = (
        "import sys; sys.modules['nni'] = None\n"
        "import acmix_nas.models, timm, torch\n"
        f"network = timm.create_model('acmix_nas', architecture={str(file)!r}, num_classes=2).eval()\n"
        "print(tuple(network(torch.randn(1, 3, 32, 32)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 2)", done.stderr


def changed(file: Path, **changes: Any) -> Path:
    content = json.loads(file.read_text())
    for name, value in changes.items():
        if value is None:
            del content[name]
        else:
            content[name] = value
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "acmix-nas ranking"}, "is of format 'acmix-nas ranking'; it is no architecture file"),
        ({"format": None}, 'has no line "format": "acmix-nas architecture"; it is no architecture file'),
        ({"version": True}, "is of version True"),
        ({"version": 2}, "is of version 2; this package reads versions up to 1"),
        ({"slots": None}, "misses slots"),
        ({"colour": "red"}, "has the unknown colour"),
        ({"slots": {**SLOTS, "layer1.0.conv2": "cnov"}}, "slot 'layer1.0.conv2': operator must be conv.*got 'cnov'"),
        ({"slots": {**SLOTS, "layer1.0.conv2": "window"}}, "'window' is none of the candidates conv, local, acmix_local"),
        ({"slots": {**SLOTS, "layer1.0.conv2": 3}}, "slot 'layer1.0.conv2'"),
        ({"slots": ["conv"]}, "slots must be dict"),
        ({"backbone": 3}, "backbone must be str or null; it is 3"),
        ({"pattern": [3]}, "pattern must hold globs"),
        ({"heads": [1]}, "heads must be int or dict or null"),
        ({"probabilities": [1]}, "probabilities must be dict"),
        ({"metric": 5}, "metric must be dict"),
        ({"metric": {"val_accuracy": "high"}}, "metric must be names with numbers; it is"),
        ({"budget": {"macs": True}}, "budget must be names with numbers"),
        ({"probabilities": {"layer1.0.conv2": {"conv": "0.5"}}}, "probabilities must be slots with operators and numbers"),
        ({"heads": {"*": "4"}}, "heads must be a positive number, or globs with positive numbers"),
        ({"heads": {"*": 2.0}}, "heads must be a positive number"),
        ({"heads": True}, "heads must be a positive number"),
        ({"data": {"image_size": "16"}}, r"data\.image_size must be a side, or \[height, width\]; it is '16'"),
        ({"data": {"image_size": [16, 16, 3]}}, r"data\.image_size must be a side"),
        ({"data": {"image_size": 16.5}}, r"data\.image_size must be a side"),
        ({"data": {"num_classes": -3}}, r"data\.num_classes must be a number of classes; it is -3"),
        ({"data": {"in_chans": 0}}, r"data\.in_chans must be a positive number"),
        ({"data": {"name": None}}, r"data\.name must be a text; it is None"),
        ({"data": {"mean": ["a", "b", "c"]}}, r"data\.mean must be a list of numbers"),
        ({"data": {"crop_pct": "1"}}, r"data\.crop_pct must be a number"),
        ({"slots": {**SLOTS, "layer1.0.conv2": "local_k999999"}}, "operator must be conv.*got 'local_k999999'"),
        ({"origins": ["axial"]}, "origins must be dict"),
        ({"origins": {"axial": "acmix-outside 0.1"}}, "origins must map groups to names"),
        (
            {"origins": {"operators": {"axial": "acmix-outside 0.1"}}},
            "the operator 'axial', which acmix-outside 0.1 adds; install",
        ),
        ({"slots": {**SLOTS, "layer9.0.conv2": "conv"}}, "unknown slot 'layer9.0.conv2'"),
        ({"slots": {k: v for k, v in SLOTS.items() if "layer3" not in k}}, "misses slot 'layer3.0.conv2'"),
        ({"backbone": "resnet1O"}, "backbone must be a name that timm knows"),
    ],
)
def test_a_wrong_file_gets_one_line(file: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build(changed(file, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"null"])
def test_a_corrupt_file_gets_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "architecture.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"architecture .*architecture\.json") as error:
        Architecture.load(file)
    assert "\n" not in str(error.value)


def test_a_missing_file_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="architecture: no file"):
        Architecture.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"nothing": torch.zeros(1)}, "misses 'conv1.0.weight'"),
        (b"no state dict", "cannot be read"),
        (None, "no file"),
    ],
)
def test_wrong_weights_get_one_line(file: Path, tmp_path: Path, state: Any, message: str) -> None:
    path = tmp_path / "network.pt"
    if isinstance(state, bytes):
        path.write_bytes(state)
    elif state is not None:
        torch.save(state, path)
    with pytest.raises(UserError, match=message) as error:
        build(file, weights=path)
    assert "\n" not in str(error.value)


def test_weights_of_other_classes_get_one_line(file: Path, tmp_path: Path) -> None:
    torch.save(build(file, num_classes=4).state_dict(), tmp_path / "n.pt")
    with pytest.raises(UserError, match=r"'fc.weight' is .* instead of .*num_classes"):
        build(file, num_classes=5, weights=tmp_path / "n.pt")
