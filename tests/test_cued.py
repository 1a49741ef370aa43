"""What the cued images show, whom their label names, and what does not leak from part to part."""

from __future__ import annotations

import numpy as np
import pytest

from acmix_nas.cued import CLASSES, PARTS, SIDE, _pool, cued_digits
from acmix_nas.data import DataConfig, ImageData
from acmix_nas.errors import UserError


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_canvases_of_every_class(part: str) -> None:
    images, labels = cued_digits(part, count=300)
    assert images.shape == (300, SIDE, SIDE, 3)
    assert images.dtype == np.uint8
    assert np.bincount(labels, minlength=CLASSES).min() > 30


def test_the_pools_share_no_digit() -> None:
    seen = [{digit.tobytes() for digit in _pool(part)[0]} for part in PARTS]
    assert len(set.union(*seen)) == sum(map(len, seen)) > 880


def test_the_seed_draws_the_images() -> None:
    assert np.array_equal(cued_digits("test", 3, 20)[0], cued_digits("test", 3, 20)[0])
    assert not np.array_equal(cued_digits("test", 3, 20)[0], cued_digits("test", 4, 20)[0])


def test_fewer_images_are_the_first_of_more() -> None:
    assert np.array_equal(cued_digits("train", 0, 10)[0], cued_digits("train", 0, 30)[0][:10])


def named_by_the_cue(image: np.ndarray) -> int:
    """The quadrant that the cue names, 0 to 2, read without the labels."""
    cue, quadrants = image[:10, :10] / 255, [image[:10, 10:] / 255, image[10:, :10] / 255, image[10:, 10:] / 255]
    lit = cue.max(axis=2) > 0.5
    if lit.sum() >= 12:  # a patch, not a line
        shown = [quadrant.reshape(-1, 3).sum(axis=0) for quadrant in quadrants]
        colour = cue[lit].mean(axis=0)
        return int(np.argmax([one @ colour / np.linalg.norm(one) for one in shown]))
    rows, columns = (np.flatnonzero(lit.any(axis=axis)) for axis in (1, 0))
    return 0 if len(rows) == 1 else 1 if len(columns) == 1 else 2


def test_the_label_is_the_digit_that_the_cue_names() -> None:
    images, labels = cued_digits("train", count=200)
    pixels, classes = _pool("train")
    for image, label in zip(images, labels, strict=True):
        top, left = ((0, 10), (10, 0), (10, 10))[named_by_the_cue(image)]
        quadrant = image[top : top + 10, left : left + 10].max(axis=2) / 255
        windows = np.lib.stride_tricks.sliding_window_view(quadrant, (8, 8)).reshape(-1, 1, 64)
        distance = ((windows - pixels.reshape(1, -1, 64)) ** 2).sum(axis=2).min(axis=0)
        assert classes[distance.argmin()] == label


def test_both_cues_appear_equally_often() -> None:
    images, _ = cued_digits("train", count=1000)
    patches = ((images[:, :10, :10].max(axis=3) > 127).sum(axis=(1, 2)) >= 12).mean()
    assert 0.45 < patches < 0.55


def test_the_cue_moves_in_its_quadrant() -> None:
    images, _ = cued_digits("train", count=1000)
    assert ((images[:, :10, :10].max(axis=3) > 127).mean(axis=0) > 0.003).all()


def test_image_data_gives_them_in_their_parts() -> None:
    data = ImageData(DataConfig(name="cued-digits", image_size=SIDE, mean=(0, 0, 0), std=(1, 1, 1)))
    assert {part: len(images) for part, images in data.parts.items()} == PARTS  # type: ignore[arg-type]
    images, labels = next(iter(data.test_dataloader()))
    expected, classes = cued_digits("test", count=len(images))
    assert np.array_equal(np.round(images.permute(0, 2, 3, 1).numpy() * 255), expected)
    assert labels.tolist() == classes.tolist()
    assert data.described["data_seed"] == 0


def test_image_data_draws_other_images_by_another_data_seed() -> None:
    first, second = (
        next(iter(ImageData(DataConfig(name="cued-digits", image_size=SIDE, data_seed=seed)).test_dataloader()))[0]
        for seed in (0, 1)
    )
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("arguments", "said"), [
    (("dev",), "part"), (("test", -1), "data_seed"), (("test", 0, -1), "count"),
])  # fmt: skip
def test_what_it_cannot_draw_is_refused(arguments: tuple[str, int, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        cued_digits(*arguments)
