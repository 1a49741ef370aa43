"""Images in which a cue says which of three digits counts, so that where a network attends matters.

A 20×20 canvas has four 10×10 quadrants. The top-left one holds the cue, the others one of scikit-learn's 8×8 digits each, in
three different colours of four. Half of the cues are white strokes, and what counts is the digit beside, below or across from
it: the network must know where it looks. The other half show what the digit looks like, and the network must find it:

`cued-digits`: the cue is a patch in the digit's colour, and the label is the digit. Chance is 1 in 5.

`cued-shapes`: the cue is the digit once more, in white and moved, and the label is its colour. Chance is 1 in 4, and 1 in 3 for
who sees which colours there are. The digits are a 0, a 1 and a 2 under either cue, so that they do not tell which cue it is.
No label ever says what a digit is: that two images show the same must be learned from colours alone. So it is the same image,
and there are three kinds of digits instead of five.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from acmix_nas.training.config import DataConfig
from acmix_nas.training.images import ImageSet, Source, register_data
from acmix_nas.util.errors import UserError, one_of

__all__ = ["CUED", "PARTS", "SIDE", "cued_images"]

SIDE = 20
PARTS = {"train": 8000, "validation": 2000, "test": 2000}

KINDS = 5
QUADRANT = 10
# Where the digits lie, in the order of the strokes that point at them: to the right —, below |, on the diagonal \.
PLACES = ((0, QUADRANT), (QUADRANT, 0), (QUADRANT, QUADRANT))
COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "yellow": (1.0, 1.0, 0.0)}
RGB = np.array(list(COLOURS.values()))
PATCH, STROKE, DIGIT = 4, 5, 8
NOISE = 0.05


def cued_images(name: str, part: str, data_seed: int = 0, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draw the images of a part.

    The digits are cut from three pools without a common image, which do not depend on the seed: no seed's test part shows
    a digit that another's train part shows.

    Args:
        name: of `CUED`.
        part: "train", "validation" or "test".
        data_seed: draws the images; the same seed gives the same images.
        count: how many; None gives 8,000 for train and 2,000 for each other part. Fewer are the first of more.

    Returns:
        Images (count, 20, 20, 3) of uint8, labels (count,), which index the task's classes.

    Raises:
        UserError: where there is no such task or part, or the seed or the count is negative.
    """
    if name not in CUED:
        raise one_of("name", name, CUED)
    if part not in PARTS:
        raise one_of("part", part, PARTS)
    count = PARTS[part] if count is None else count
    for what, value in (("data_seed", data_seed), ("count", count)):
        if value < 0:
            raise UserError(f"{what} must be 0 or more; got {what}={value}")
    pixels, kinds = _pool(part)
    generator = np.random.default_rng([data_seed, list(PARTS).index(part)])
    images, labels = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8), np.empty(count, dtype=np.int64)
    for i in range(count):
        images[i], labels[i] = CUED[name].draw(generator, pixels, kinds)
    return images, labels


def _pool(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return this part's digits, (n, 8, 8) from 0 to 1, and which they are, (n,): stratified 60/20/20."""
    digits = load_digits(n_class=KINDS)
    train, rest = train_test_split(np.arange(len(digits.target)), test_size=0.4, stratify=digits.target, random_state=0)
    validation, test = train_test_split(rest, test_size=0.5, stratify=digits.target[rest], random_state=0)
    chosen = {"train": train, "validation": validation, "test": test}[part]
    return digits.images[chosen] / 16, digits.target[chosen]


def _named_by_colour(generator: np.random.Generator, pixels: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, int]:
    """Draw an image of `cued-digits` and its label."""
    chosen = generator.integers(len(kinds), size=len(PLACES))
    image, answer, _ = _compose(generator, pixels[chosen], lambda _, colour: np.broadcast_to(RGB[colour], (PATCH, PATCH, 3)))
    return image, int(kinds[chosen[answer]])


def _named_by_shape(generator: np.random.Generator, pixels: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, int]:
    """Draw an image of `cued-shapes` and its label."""
    digits = pixels[[generator.choice(np.flatnonzero(kinds == kind)) for kind in generator.permutation(len(PLACES))]]
    image, _, colour = _compose(generator, digits, lambda answer, _: digits[answer][:, :, None])
    return image, colour


def _compose(
    generator: np.random.Generator, digits: np.ndarray, likeness: Callable[[int, int], np.ndarray]
) -> tuple[np.ndarray, int, int]:
    """Compose a canvas of three digits, (3, 8, 8), with a cue.

    Return the canvas, which digit the cue names, and the colour of that digit.

    The cue is a stroke, or a likeness of this digit in this colour: (n, n, 1) or (n, n, 3).
    """
    canvas = np.zeros((SIDE, SIDE, 3))
    colours = generator.permutation(len(COLOURS))[: len(PLACES)]
    moves = generator.integers(QUADRANT - DIGIT + 1, size=(len(PLACES), 2))
    for (top, left), (down, right), digit, colour in zip(PLACES, moves, digits, colours, strict=True):
        rows, columns = slice(top + down, top + down + DIGIT), slice(left + right, left + right + DIGIT)
        canvas[rows, columns] = digit[:, :, None] * RGB[colour]
    answer = int(generator.integers(len(PLACES)))
    cue = likeness(answer, int(colours[answer])) if generator.random() < 0.5 else _stroke(answer)
    top, left = generator.integers(QUADRANT - len(cue) + 1, size=2)
    canvas[top : top + len(cue), left : left + len(cue)] = cue
    canvas += generator.normal(0, NOISE, canvas.shape)
    return np.round(canvas.clip(0, 1) * 255).astype(np.uint8), answer, int(colours[answer])


def _stroke(answer: int) -> np.ndarray:
    """Draw a white stroke, (5, 5, 1): —, | or \\."""
    box = np.zeros((STROKE, STROKE))
    if answer == 0:
        box[STROKE // 2] = 1
    elif answer == 1:
        box[:, STROKE // 2] = 1
    else:
        np.fill_diagonal(box, 1)
    return box[:, :, None]


class CuedTask(NamedTuple):
    """What the labels mean, and how an image is drawn from a pool of digits."""

    classes: tuple[str, ...]
    draw: Callable[[np.random.Generator, np.ndarray, np.ndarray], tuple[np.ndarray, int]]


CUED: Mapping[str, CuedTask] = {
    "cued-digits": CuedTask(tuple(map(str, range(KINDS))), _named_by_colour),
    "cued-shapes": CuedTask(tuple(COLOURS), _named_by_shape),
}
"""Data sets that are drawn by a seed."""


def _read(config: DataConfig) -> ImageSet:
    """Read all parts under the config's seed."""
    parts = {}
    for part in PARTS:
        pixels, labels = cued_images(config.name, part, config.data_seed)
        images = [Image.fromarray(canvas) for canvas in pixels]
        parts[part] = Source(list(zip(images, labels.tolist(), strict=True)), labels.tolist())
    return ImageSet(parts, list(CUED[config.name].classes))


CUED_DIGITS, CUED_SHAPES = (register_data(name, drawn=True, small=True)(_read) for name in CUED)
