"""Export: every operator leaves Python as it is, at even and odd sizes; files are whole or not at all."""

from __future__ import annotations

import builtins
import json
import zipfile
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from acmix_nas.architecture import Architecture, build
from acmix_nas.deploy.export import ParityError, export_onnx, export_program
from acmix_nas.util.errors import UserError
from tests.small import RESNET, SLOTS, train_briefly

# Every kind of operator, in a network of its family. The first two slots have stride 1 and 2.
MIXED = {
    "local": ("local", "acmix_local", "local_k3", "conv"),
    "window": ("window", "acmix_window", "window", "conv"),
    "global": ("global_r2", "acmix_global", "global", "conv"),
    "patchwise": ("patchwise_k3", "acmix_patchwise_k3", "conv", "acmix_patchwise_k3"),
}
FLAT = {"channels": [8, 8, 16, 16], "num_classes": 5, "zero_init_last": False}


def mixed(operators: tuple[str, ...]) -> nn.Module:
    slots = dict(zip(SLOTS, operators, strict=True))
    candidates = tuple(dict.fromkeys(operators))
    return train_briefly(build(Architecture(RESNET["backbone"], slots, candidates, FLAT, (RESNET["slots"],))))


def input_shape(path: Path) -> list[int | str]:
    shape: list[int | str] = onnxruntime.InferenceSession(path).get_inputs()[0].shape
    return shape


class Tiny(nn.Module):
    """Quick to export; `fixed` asks for the batch size as a number, `random` answers differently every time."""

    def __init__(self, fixed: bool = False, random: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.dropout = nn.Dropout(0.5)
        self.fixed, self.random = fixed, random

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.conv(x)).mean(dim=(2, 3))
        if self.random:
            return x + torch.rand_like(x)
        return x.reshape(len(x), 4) if self.fixed else x


@pytest.mark.parametrize("size", [pytest.param(32, marks=pytest.mark.slow), 33])
@pytest.mark.parametrize("operators", ["local", "window", "global", pytest.param("patchwise", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("error:the network cannot be exported for any batch")
def test_operators_agree_with_pytorch(tmp_path: Path, operators: str, size: int) -> None:
    path = tmp_path / "network.onnx"
    assert 0 < export_onnx(mixed(MIXED[operators]), path, (3, size, size)) < 1e-5
    assert list(tmp_path.iterdir()) == [path]
    assert input_shape(path) == ["batch", 3, size, size]


def test_any_batch_is_the_default(tmp_path: Path) -> None:
    export_onnx(Tiny(), tmp_path / "any.onnx", (3, 8, 10))
    export_onnx(Tiny(), tmp_path / "four.onnx", (3, 8, 8), batch=4)
    assert input_shape(tmp_path / "any.onnx") == ["batch", 3, 8, 10]
    assert input_shape(tmp_path / "four.onnx") == [4, 3, 8, 8]


def test_a_network_of_one_batch_size_is_exported_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="cannot be exported for any batch size, so it is for 1: Constraints violated"):
        export_onnx(Tiny(fixed=True), tmp_path / "one.onnx", (3, 8, 8))
    assert input_shape(tmp_path / "one.onnx") == [1, 3, 8, 8]


def test_a_program_runs_without_its_network(tmp_path: Path) -> None:
    network, path = mixed(MIXED["local"]), tmp_path / "new" / "network.pt2"
    assert export_program(network, path, (3, 33, 33)) < 1e-5
    images = torch.randn(4, 3, 33, 33)
    torch.testing.assert_close(torch.export.load(path).module()(images), network(images))


def test_the_network_stays_in_training_mode(tmp_path: Path) -> None:
    network = Tiny().train()  # its dropout would break parity
    export_program(network, tmp_path / "network.pt2", (3, 8, 8))
    assert network.training
    assert network.dropout.training


def test_files_say_where_they_come_from_and_nothing_of_the_machine(tmp_path: Path) -> None:
    export_onnx(Tiny(), tmp_path / "network.onnx", (3, 8, 8))
    export_program(Tiny(), tmp_path / "network.pt2", (3, 8, 8))
    meta = onnxruntime.InferenceSession(tmp_path / "network.onnx").get_modelmeta().custom_metadata_map
    assert meta["made_by"]
    assert "torch" in json.loads(meta["versions"])
    assert b"pkg.torch.onnx.stack_trace" not in (tmp_path / "network.onnx").read_bytes()
    with zipfile.ZipFile(tmp_path / "network.pt2") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert any(b"made_by" in part for name, part in parts.items() if name.endswith("provenance.json"))
    for content in [(tmp_path / "network.onnx").read_bytes(), *parts.values()]:
        assert str(Path(torch.__file__).parent).encode() not in content
        assert str(Path(__file__).parent).encode() not in content


@pytest.mark.parametrize("export", [export_onnx, export_program])
def test_what_differs_is_an_error_and_leaves_no_file(tmp_path: Path, export: Any) -> None:
    with pytest.raises(ParityError, match=r"differs from PyTorch by .* at batch 1; tolerance is 1\.0e-04"):
        export(Tiny(random=True), tmp_path / "network", 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [export_onnx, export_program])
def test_nothing_is_overwritten(tmp_path: Path, export: Any) -> None:
    path = tmp_path / "network"
    path.write_text("mine")
    with pytest.raises(UserError, match=r"network' exists already"):
        export(Tiny(), path, 8)
    assert path.read_text() == "mine"


def test_a_batch_of_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch must be positive, or None for any; got 0"):
        export_program(Tiny(), tmp_path / "network.pt2", (3, 8, 8), batch=0)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=rf"needs {package}, which is not installed; pip install 'acmix-nas\[onnx\]'"):
        export_onnx(Tiny(), tmp_path / "network.onnx", (3, 8, 8))
