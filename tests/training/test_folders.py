"""A folder as users have them: turned photographs, deep images, any format of Pillow's, folders in folders, broken files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acmix_nas.architecture import Architecture
from acmix_nas.training.config import DataConfig
from acmix_nas.training.folders import Files, eight_bits, find_classes
from acmix_nas.training.images import ImageData
from acmix_nas.training.retrain import retrain
from acmix_nas.util.errors import UserError


def grey(value: int, side: int = 8) -> Image.Image:
    return Image.fromarray(np.full((side, side), value, dtype=np.uint8))


def fill(folder: Path, count: int = 5, value: int = 0, end: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        grey(value).save(folder / f"{number}.{end}")


def first(path: Path) -> np.ndarray:
    return np.asarray(Files([str(path)], [0])[0][0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_a_viewer_shows_it(tmp_path: Path, orientation: int) -> None:
    stored = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    turns: dict[int, Callable[[Any], Any]] = {
        1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: np.transpose,
        6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(x, 2).T, 8: np.rot90,
    }  # fmt: skip
    assert np.array_equal(first(tmp_path / "photo.png"), turns[orientation](np.asarray(stored)))


@pytest.mark.parametrize(
    ("values", "end"),
    [
        (np.array([[0, 1000], [2000, 4000]], dtype=np.uint16), "png"),
        (np.array([[0, 1000], [2000, 4000]], dtype=np.uint16), "tif"),
        (np.array([[0, 0.25], [0.5, 1.0]], dtype=np.float32), "tif"),
        (np.array([[-3, -1.5], [0, 3]], dtype=np.float32), "tif"),
        (np.array([[0, 100_000], [200_000, 400_000]], dtype=np.int32), "tif"),
    ],
    ids=["16-bit png", "16-bit tiff", "float", "signed float", "32-bit"],
)
def test_deep_images_are_scaled_from_their_own_range(tmp_path: Path, values: np.ndarray, end: str) -> None:
    Image.fromarray(values).save(tmp_path / f"deep.{end}")
    assert first(tmp_path / f"deep.{end}").tolist() == [[0, 64], [128, 255]]


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_an_image_of_one_value_is_black(value: float) -> None:
    assert np.asarray(eight_bits(Image.fromarray(np.full((2, 2), value, dtype=np.float32)))).max() == 0


@pytest.mark.parametrize("end", ["webp", "bmp", "tif", "gif", "JPG", "jpeg", "ppm", "tga"])
def test_every_format_that_pillow_opens_is_taken(tmp_path: Path, end: str) -> None:
    fill(tmp_path / "cat", 3)
    for number in range(2):
        grey(9).save(tmp_path / "cat" / f"other-{number}.{end}")
    found = find_classes(tmp_path)
    assert (len(found.paths), found.skipped) == (5, [])


def test_a_program_that_draws_is_no_image(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for it."""
    fill(tmp_path / "cat")
    (tmp_path / "cat" / "figure.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")
    assert find_classes(tmp_path).skipped == ["cat/figure.eps"]


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name)
    for name in ("cat/notes.txt", "cat/.DS_Store", "README"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "empty").mkdir()
    data = ImageData(DataConfig(str(tmp_path), image_size=8))
    assert data.class_names == ["cat", "dog"]
    said = " ".join(capsys.readouterr().err.split())
    assert "hold no image and are left out: cat/notes.txt, empty/, README" in said
    assert "data: 3 of" in said


def test_the_class_is_the_first_folder(tmp_path: Path) -> None:
    for name in ("cat/2023/spring", "cat/2024", "dog/2023"):
        fill(tmp_path / name, 2)
    found = find_classes(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert found.labels == [0] * 4 + [1] * 2


def test_a_link_to_a_folder_above_is_followed_once(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 2)
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
    (tmp_path / "dog").symlink_to(tmp_path / "cat")
    found = find_classes(tmp_path)
    assert found.labels == [0, 0, 1, 1]


@pytest.mark.parametrize("whole", [False, True])
def test_a_broken_image_of_any_part_is_named_first(tmp_path: Path, whole: bool) -> None:
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, 2)
    broken = tmp_path / "test" / "dog" / "1.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)).save(broken)
    half = broken.read_bytes()[:600]
    broken.write_bytes(half if whole else b"no image")
    with pytest.raises(UserError, match=r"test/dog/1\.png' must be a readable image; 1 of 12 files are not") as caught:
        ImageData(DataConfig(str(tmp_path), image_size=8, verify=whole))
    assert "\n" not in str(caught.value)
    broken.write_bytes(half)
    ImageData(DataConfig(str(tmp_path), image_size=8))  # its head is whole


@pytest.mark.parametrize(
    ("channels", "mode"), [(1, "LA"), (1, "RGB"), (3, "RGBA"), (3, "P"), (4, "RGBA"), (4, "RGB"), (4, "L")]
)
def test_images_have_the_channels_that_are_asked_for(tmp_path: Path, channels: int, mode: str) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new(mode, (8, 8)).save(tmp_path / name / f"{number}.png")
    data = ImageData(DataConfig(str(tmp_path), image_size=8, in_chans=channels))
    assert next(iter(data.val_dataloader()))[0].shape == (2, channels, 8, 8)


def test_a_folder_is_found_from_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    said = ImageData(DataConfig("photos", image_size=8)).described
    assert said["name"] == str(tmp_path / "photos")
    assert said["class_names"] == ["cat", "dog"]
    assert ImageData(DataConfig("folder", root="photos", image_size=8)).described["root"] == str(tmp_path / "photos")


def test_a_data_set_keeps_its_name_where_a_folder_has_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert DataConfig("digits").described["name"] == "digits"


def test_labels_follow_the_names_of_a_training(tmp_path: Path) -> None:
    for name, value in (("ant", 0), ("bee", 100), ("cow", 200)):
        fill(tmp_path / name, 5, value)
    names = ["cow", "ant", "dog", "bee"]
    data = ImageData(DataConfig(str(tmp_path), image_size=8, mean=(0, 0, 0), std=(1, 1, 1)), class_names=names)
    assert (data.num_classes, data.class_names) == (4, names)
    for image, label in data.parts["test"]:
        assert round(float(image.max()) * 255) == {"ant": 0, "bee": 100, "cow": 200}[names[int(label)]]
    assert torch.bincount(torch.tensor([int(label) for _, label in data.parts["train"]]), minlength=4).tolist() == [3, 3, 0, 3]


def test_other_classes_are_refused_with_both_lists(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        fill(tmp_path / name)
    with pytest.raises(UserError, match="must have classes of the network, cat, dog; they have ant, bee"):
        ImageData(DataConfig(str(tmp_path), image_size=8), class_names=["cat", "dog"])


def test_a_class_that_a_part_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "cat", 57)
    fill(tmp_path / "dog", 3)
    ImageData(DataConfig(str(tmp_path), image_size=8))
    assert "the validation part of" in (said := " ".join(capsys.readouterr().err.split()))
    assert said.endswith("has no image of dog")
    fill(tmp_path / "dog", 10)
    ImageData(DataConfig(str(tmp_path), image_size=8))
    assert capsys.readouterr().err == ""


def test_warm_weights_keep_the_order_of_their_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("acmix_nas.training.retrain.data_for", lambda *given: asked.append(given[2]))
    monkeypatch.setattr("acmix_nas.training.retrain.train_architecture", lambda *_, **__: None)
    Architecture("resnet10t", {}, (), data={"class_names": ["dog", "cat"]}).save(tmp_path / "architecture.json")
    (tmp_path / "network.pt").touch()
    for warm in (True, False):
        retrain(tmp_path, warm=warm, output=tmp_path / "run")
    assert asked == [["dog", "cat"], None]
