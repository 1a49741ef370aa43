"""`cued-digits`: images in which a cue says which of three digits counts, so that where a network attends matters.

A 20×20 canvas has four 10×10 quadrants. The top-left one holds the cue, the others one of scikit-learn's 8×8 digits each, in
three different colours. Either the cue is a patch in one digit's colour, and that digit is the label: the network must match
colours across the canvas. Or it is a white stroke, and the label is the digit beside, below or across from it: the network
must know where it looks. Chance is 1 in 5.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from acmix_nas.errors import UserError, one_of

__all__ = ["CLASSES", "PARTS", "SIDE", "cued_digits"]

CLASSES = 5
SIDE = 20
PARTS = {"train": 8000, "validation": 2000, "test": 2000}

QUADRANT = 10
# Where the digits lie, in the order of the strokes that point at them: to the right —, below |, on the diagonal \.
PLACES = ((0, QUADRANT), (QUADRANT, 0), (QUADRANT, QUADRANT))
COLOURS = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)], dtype=np.float64)
PATCH, STROKE, DIGIT = 4, 5, 8
NOISE = 0.05


def cued_digits(part: str, data_seed: int = 0, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The images of a part.

    The digits are cut from three pools without a common image, which do not depend on the seed: no seed's test part shows
    a digit that another's train part shows.

    Args:
        part: "train", "validation" or "test".
        data_seed: draws the images; the same seed gives the same images.
        count: how many; None gives 8,000 for train and 2,000 for each other part. Fewer are the first of more.

    Returns:
        Images (count, 20, 20, 3) of uint8, labels (count,) from 0 to 4.

    Raises:
        UserError: where there is no such part, or the seed or the count is negative.
    """
    if part not in PARTS:
        raise one_of("part", part, PARTS)
    count = PARTS[part] if count is None else count
    for name, value in (("data_seed", data_seed), ("count", count)):
        if value < 0:
            raise UserError(f"{name} must be 0 or more; got {name}={value}")
    pixels, classes = _pool(part)
    generator = np.random.default_rng([data_seed, list(PARTS).index(part)])
    images, labels = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8), np.empty(count, dtype=np.int64)
    for i in range(count):
        images[i], labels[i] = _compose(generator, pixels, classes)
    return images, labels


def _pool(part: str) -> tuple[np.ndarray, np.ndarray]:
    """This part's digits, (n, 8, 8) from 0 to 1, and their classes: stratified 60/20/20."""
    digits = load_digits(n_class=CLASSES)
    train, rest = train_test_split(np.arange(len(digits.target)), test_size=0.4, stratify=digits.target, random_state=0)
    validation, test = train_test_split(rest, test_size=0.5, stratify=digits.target[rest], random_state=0)
    chosen = {"train": train, "validation": validation, "test": test}[part]
    return digits.images[chosen] / 16, digits.target[chosen]


def _compose(generator: np.random.Generator, pixels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, int]:
    canvas = np.zeros((SIDE, SIDE, 3))
    chosen = generator.integers(len(classes), size=len(PLACES))
    colours = COLOURS[generator.permutation(len(COLOURS))[: len(PLACES)]]
    moves = generator.integers(QUADRANT - DIGIT + 1, size=(len(PLACES), 2))
    for (top, left), (down, right), digit, colour in zip(PLACES, moves, chosen, colours, strict=True):
        rows, columns = slice(top + down, top + down + DIGIT), slice(left + right, left + right + DIGIT)
        canvas[rows, columns] = pixels[digit][:, :, None] * colour
    answer = int(generator.integers(len(PLACES)))
    if generator.random() < 0.5:
        top, left = generator.integers(QUADRANT - PATCH + 1, size=2)
        canvas[top : top + PATCH, left : left + PATCH] = colours[answer]
    else:
        top, left = generator.integers(QUADRANT - STROKE + 1, size=2)
        canvas[top : top + STROKE, left : left + STROKE] = _stroke(answer)[:, :, None]
    canvas += generator.normal(0, NOISE, canvas.shape)
    return np.round(canvas.clip(0, 1) * 255).astype(np.uint8), int(classes[chosen[answer]])


def _stroke(answer: int) -> np.ndarray:
    """A white stroke, (5, 5): —, | or \\."""
    box = np.zeros((STROKE, STROKE))
    if answer == 0:
        box[STROKE // 2] = 1
    elif answer == 1:
        box[:, STROKE // 2] = 1
    else:
        np.fill_diagonal(box, 1)
    return box
