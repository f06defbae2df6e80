"""Pictures with questions, so that the shipped model's vision path is a real one."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 205, 40),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
    "orange": (245, 140, 30),
    "purple": (140, 60, 170),
}
SHAPES = ("circle", "square", "triangle")
QUESTIONS = {
    "colour": ("What colour is the shape?", "Name the colour."),
    "shape": ("Which shape is it?", "Name the shape."),
    "digit": ("Which digit is shown?", "Read the digit."),
}


@dataclass(frozen=True)
class PictureQuestion:
    """`pixels` is uint8 RGB of shape (size, size, 3)."""

    pixels: np.ndarray
    question: str
    answer: str


def draw(rng: random.Random, size: int = 256) -> PictureQuestion:
    """A shape or a digit on a plain background, with one question about it."""
    kind = rng.choice(tuple(QUESTIONS))
    ground, front = rng.sample(tuple(COLOURS), 2)
    image = Image.new("RGB", (size, size), COLOURS[ground])
    pen = ImageDraw.Draw(image)
    if kind == "digit":
        answer = str(rng.randrange(10))
        _digit(pen, rng, answer, COLOURS[front], size)
    else:
        shape = rng.choice(SHAPES)
        _shape(pen, rng, shape, COLOURS[front], size)
        answer = front if kind == "colour" else shape
    return PictureQuestion(np.asarray(image), rng.choice(QUESTIONS[kind]), answer)


def distractor(rng: random.Random, size: int = 256) -> np.ndarray:
    """A picture that says nothing about the text beside it, uint8 (size, size, 3)."""
    kind = rng.choice(("plain", "noise", "blocks", "question"))
    if kind == "question":
        return draw(rng, size).pixels
    source = np.random.default_rng(rng.getrandbits(32))
    cells = {"plain": 1, "noise": size, "blocks": 16}[kind]
    coarse = source.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return coarse.repeat(size // cells, axis=0).repeat(size // cells, axis=1)


def _digit(
    pen: ImageDraw.ImageDraw, rng: random.Random, text: str, fill: tuple[int, ...], size: int
) -> None:
    font = ImageFont.load_default(rng.randint(size // 2, size * 3 // 4))
    centre = (size // 2 + rng.randint(-24, 24), size // 2 + rng.randint(-24, 24))
    pen.text(centre, text, fill=fill, font=font, anchor="mm")


def _shape(
    pen: ImageDraw.ImageDraw, rng: random.Random, shape: str, fill: tuple[int, ...], size: int
) -> None:
    radius = rng.randint(size // 5, size * 2 // 5)
    x, y = (rng.randint(radius, size - radius) for _ in range(2))
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    else:
        pen.polygon(((x, y - radius), (x - radius, y + radius), (x + radius, y + radius)), fill)
