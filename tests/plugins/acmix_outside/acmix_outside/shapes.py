"""Drawn shapes: a disc, a square, a triangle or a cross, anywhere, in any colour."""

import random

from PIL import Image, ImageDraw

from acmix_nas import DataConfig, register_data
from acmix_nas.training.images import ImageSet, Source

SHAPES = ["disc", "square", "triangle", "cross"]
SIDE, COUNT = 16, 200


@register_data("shapes", drawn=True, small=True)
def read_shapes(config: DataConfig) -> ImageSet:
    """Return 200 images of 16×16 pixels, which the data seed draws; they are split by whoever reads them."""
    chance = random.Random(config.data_seed)
    labels = [number % len(SHAPES) for number in range(COUNT)]
    return ImageSet({"train": Source([(draw(SHAPES[label], chance), label) for label in labels], labels)}, SHAPES)


def draw(shape: str, chance: random.Random) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE))
    pen, colour = ImageDraw.Draw(image), tuple(chance.randint(80, 255) for _ in range(3))
    x, y, r = chance.randint(5, 10), chance.randint(5, 10), chance.randint(3, 5)
    if shape == "disc":
        pen.ellipse((x - r, y - r, x + r, y + r), colour)
    elif shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), colour)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], colour)
    else:
        pen.line((x - r, y, x + r, y), colour, 2)
        pen.line((x, y - r, x, y + r), colour, 2)
    return image
