"""What the cued images show, what their labels name, and what does not leak from part to part."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from acmix_nas.research.cued import CUED, PARTS, RGB, SIDE, _pool, cued_images
from acmix_nas.training.config import DataConfig
from acmix_nas.training.images import ImageData
from acmix_nas.util.errors import UserError

PLACES = ((0, 10), (10, 0), (10, 10))


@pytest.mark.parametrize("name", CUED)
@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_canvases_of_every_class(name: str, part: str) -> None:
    images, labels = cued_images(name, part, count=300)
    assert images.shape == (300, SIDE, SIDE, 3)
    assert images.dtype == np.uint8
    assert np.bincount(labels).shape == (len(CUED[name].classes),)
    assert np.bincount(labels).min() > 30


def test_the_pools_share_no_digit() -> None:
    seen = [{digit.tobytes() for digit in _pool(part)[0]} for part in PARTS]
    assert len(set.union(*seen)) == sum(map(len, seen)) > 880


@pytest.mark.parametrize("name", CUED)
def test_the_seed_draws_the_images(name: str) -> None:
    assert np.array_equal(cued_images(name, "test", 3, 20)[0], cued_images(name, "test", 3, 20)[0])
    assert not np.array_equal(cued_images(name, "test", 3, 20)[0], cued_images(name, "test", 4, 20)[0])


@pytest.mark.parametrize("name", CUED)
def test_fewer_images_are_the_first_of_more(name: str) -> None:
    assert np.array_equal(cued_images(name, "train", 0, 10)[0], cued_images(name, "train", 0, 30)[0][:10])


def test_the_images_are_those_that_the_shipped_table_was_trained_on() -> None:
    images, labels = cued_images("cued-digits", "test", 3)
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest().startswith("6e2a81f4e4594d75")


def named_by_the_cue(image: np.ndarray) -> int:
    """Return the quadrant that the cue names, 0 to 2, read without the labels."""
    cue, quadrants = image[:10, :10] / 255, [image[:10, 10:] / 255, image[10:, :10] / 255, image[10:, 10:] / 255]
    lit = cue.max(axis=2) > 0.5
    if lit.sum() >= 12:  # a patch, not a line
        shown = [quadrant.reshape(-1, 3).sum(axis=0) for quadrant in quadrants]
        colour = cue[lit].mean(axis=0)
        return int(np.argmax([one @ colour / np.linalg.norm(one) for one in shown]))
    rows, columns = (np.flatnonzero(lit.any(axis=axis)) for axis in (1, 0))
    return 0 if len(rows) == 1 else 1 if len(columns) == 1 else 2


def digit_in(image: np.ndarray, place: tuple[int, int]) -> int:
    """Return which digit of the train pool lies in a quadrant, as its number there."""
    pixels, _ = _pool("train")
    top, left = place
    quadrant = image[top : top + 10, left : left + 10].max(axis=2) / 255
    windows = np.lib.stride_tricks.sliding_window_view(quadrant, (8, 8)).reshape(-1, 1, 64)
    return int(((windows - pixels.reshape(1, -1, 64)) ** 2).sum(axis=2).min(axis=0).argmin())


def test_the_label_is_the_digit_that_the_cue_names() -> None:
    images, labels = cued_images("cued-digits", "train", count=40)
    _, kinds = _pool("train")
    for image, label in zip(images, labels, strict=True):
        assert kinds[digit_in(image, PLACES[named_by_the_cue(image)])] == label


def is_stroke(image: np.ndarray) -> bool:
    """Return whether the cue is a line: of a digit more is lit."""
    return bool((image[:10, :10].max(axis=2) > 40).sum() <= 8)


def test_the_label_is_the_colour_of_the_digit_that_the_cue_points_at_or_shows_again() -> None:
    images, labels = cued_images("cued-shapes", "train", count=40)
    _, kinds = _pool("train")
    for image, label in zip(images, labels, strict=True):
        shown = [digit_in(image, place) for place in PLACES]
        assert sorted(kinds[shown]) == [0, 1, 2]  # under either cue
        named = named_by_the_cue(image) if is_stroke(image) else shown.index(digit_in(image, (0, 0)))
        top, left = PLACES[named]
        light = image[top : top + 10, left : left + 10].reshape(-1, 3).sum(axis=0)
        assert np.argmax(RGB @ light / np.linalg.norm(RGB, axis=1)) == label


@pytest.mark.parametrize("name", CUED)
def test_both_cues_appear_equally_often(name: str) -> None:
    images, _ = cued_images(name, "train", count=1000)
    assert 0.45 < np.mean([is_stroke(image) for image in images]) < 0.55


def test_colours_alone_do_not_tell_the_label() -> None:
    images, labels = cued_images("cued-shapes", "train", count=3000)
    light = np.stack(
        [images[:, top : top + 10, left : left + 10].sum(axis=(1, 2)) for top, left in PLACES], axis=1
    )  # (B, 3, 3)
    shown = np.argmax(light @ RGB.T / np.linalg.norm(RGB, axis=1), axis=2)  # (B, 3)
    for place in range(3):
        assert np.mean(shown[:, place] == labels) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize(("name", "margin"), [("cued-digits", 0), ("cued-shapes", 1)])  # digits are dark in their corners
def test_the_cue_moves_in_its_quadrant(name: str, margin: int) -> None:
    images, _ = cued_images(name, "train", count=1000)
    quadrant = images[:, margin : 10 - margin, margin : 10 - margin]
    assert (quadrant.max(axis=3) > 127).any(axis=0).all()


@pytest.mark.parametrize("name", CUED)
def test_image_data_gives_them_in_their_parts(name: str) -> None:
    data = ImageData(DataConfig(name=name, image_size=SIDE, mean=(0, 0, 0), std=(1, 1, 1)))
    assert {part: len(images) for part, images in data.parts.items()} == PARTS
    images, labels = next(iter(data.test_dataloader()))
    expected, classes = cued_images(name, "test", count=len(images))
    assert np.array_equal(np.round(images.permute(0, 2, 3, 1).numpy() * 255), expected)
    assert labels.tolist() == classes.tolist()
    assert data.described["data_seed"] == 0
    assert data.class_names == list(CUED[name].classes)


def test_image_data_draws_other_images_by_another_data_seed() -> None:
    first, second = (
        next(iter(ImageData(DataConfig(name="cued-digits", image_size=SIDE, data_seed=seed)).test_dataloader()))[0]
        for seed in (0, 1)
    )
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("arguments", "said"), [
    (("cued", "test"), "name"), (("cued-digits", "dev"), "part"),
    (("cued-digits", "test", -1), "data_seed"), (("cued-shapes", "test", 0, -1), "count"),
])  # fmt: skip
def test_what_it_cannot_draw_is_refused(arguments: tuple[str, str, int, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        cued_images(*arguments)
