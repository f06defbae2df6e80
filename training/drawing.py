"""Drawing by distance: a shape is a function that gives every point's signed distance to its edge.

Points are in the unit square, x to the right and y down; distances are in the same unit, negative
inside. Edges come out smooth at any size, and shadows, glows and bevels all follow from the same
distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
"""(size, size), a number for every point."""
Shape = Callable[[Field, Field], Field]
"""(x, y) -> signed distance."""
Colour = tuple[int, int, int]
"""Red, green, blue in 0..255."""
LIGHT = (-0.6, -0.8)
"""Where the light comes from: the upper left."""


def circle(x0: float, y0: float, radius: float) -> Shape:
    return lambda x, y: np.hypot(x - x0, y - y0) - radius


def box(x0: float, y0: float, width: float, height: float, corner: float = 0.0) -> Shape:
    """A rectangle round its centre, with rounded corners."""

    def distance(x: Field, y: Field) -> Field:
        out_x = np.abs(x - x0) - width / 2 + corner
        out_y = np.abs(y - y0) - height / 2 + corner
        outside = np.hypot(np.maximum(out_x, 0), np.maximum(out_y, 0))
        return np.asarray(outside + np.minimum(np.maximum(out_x, out_y), 0) - corner)

    return distance


def stroke(points: Sequence[tuple[float, float]], width: float) -> Shape:
    """A line through all points, with round ends."""

    def distance(x: Field, y: Field) -> Field:
        nearest = np.full(x.shape, np.inf)
        for (ax, ay), (bx, by) in pairwise(points):
            dx, dy = bx - ax, by - ay
            share = ((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-12)
            share = np.clip(share, 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - share * dx, y - ay - share * dy))
        return nearest - width / 2

    return distance


def arc(x0: float, y0: float, radius: float, start: float, end: float) -> list[tuple[float, float]]:
    """Points for `stroke` on a circle, angles in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 17))
    return [(x0 + radius * float(np.cos(a)), y0 + radius * float(np.sin(a))) for a in angles]


def gear(x0: float, y0: float, radius: float, teeth: int, turn: float, depth: float) -> Shape:
    """A wheel whose teeth stand `depth` above and below `radius`; `turn` is a share of a tooth."""

    def distance(x: Field, y: Field) -> Field:
        angle = np.arctan2(y - y0, x - x0) * teeth + 2 * np.pi * turn
        rim = radius + depth * np.tanh(2.2 * np.sin(angle))
        return np.asarray((np.hypot(x - x0, y - y0) - rim) * 0.8)

    return distance


def union(*shapes: Shape) -> Shape:
    return lambda x, y: np.minimum.reduce([shape(x, y) for shape in shapes])


def without(shape: Shape, *cuts: Shape) -> Shape:
    return lambda x, y: np.maximum.reduce([shape(x, y), *(-cut(x, y) for cut in cuts)])


def turned(shape: Shape, x0: float, y0: float, degrees: float) -> Shape:
    """`shape`, drawn round the origin, turned clockwise and moved to a point."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return lambda x, y: shape(cos * (x - x0) + sin * (y - y0), cos * (y - y0) - sin * (x - x0))


class Drawing:
    """A picture being painted, layer over layer.

    Attributes:
        x, y: float64 (size, size), the pixels' centres. colours: (size, size, 3) in 0..255.
    """

    def __init__(self, size: int, top: Colour, bottom: Colour) -> None:
        centres = (np.arange(size) + 0.5) / size
        self.x, self.y = np.meshgrid(centres, centres)
        self.pixel = 1 / size
        share = self.y[..., None]
        self.colours = np.array(top) * (1 - share) + np.array(bottom) * share

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (size, size, 3)."""
        return np.clip(np.rint(self.colours), 0, 255).astype(np.uint8)

    def blend(self, colours: object, cover: Field) -> None:
        """Lay `colours` over the picture where `cover` (0..1) says."""
        share = np.clip(cover, 0, 1)[..., None]
        self.colours = self.colours * (1 - share) + np.asarray(colours, np.float64) * share

    def flat(self, shape: Shape, colour: Colour, strength: float = 1.0) -> None:
        self.blend(colour, strength * self._inside(shape(self.x, self.y)))

    def glow(self, shape: Shape, colour: Colour, reach: float, strength: float) -> None:
        """Light that fades with the distance from a shape; half its strength at `reach`."""
        out = np.maximum(shape(self.x, self.y), 0)
        self.blend(colour, strength * 0.5 ** (out / reach) ** 1.5)

    def shadow(self, shape: Shape, drop: float = 0.018, strength: float = 0.45) -> None:
        """What a shape darkens below and to the right of it."""
        distance = shape(self.x - 0.7 * drop, self.y - drop)
        self.blend((12, 10, 30), strength * np.clip(0.5 - distance / (2.2 * drop), 0, 1))

    def solid(self, shape: Shape, colour: Colour, bevel: float, drop: float = 0.018) -> None:
        """A shape with a shadow, lit along an edge that is rounded over `bevel`."""
        self.shadow(shape, drop)
        distance = shape(self.x, self.y)
        down, across = np.gradient(distance, self.pixel)
        slope = np.clip(1 + distance / bevel, 0, 1)
        lit = (LIGHT[0] * across + LIGHT[1] * down) * slope
        shine = 14 * (1 - self.y) - 7
        tone = np.array(colour) + (72 * lit + shine)[..., None]
        self.blend(tone, self._inside(distance))

    def ball(self, x0: float, y0: float, width: float, height: float, colour: Colour) -> None:
        """A bead: an ellipse, shaded as if it were round."""
        across, down = (self.x - x0) / (width / 2), (self.y - y0) / (height / 2)
        radius = np.hypot(across, down)
        distance = (radius - 1) * min(width, height) / 2
        self.shadow(lambda x, y: _ellipse(x, y, x0, y0, width, height), 0.012, 0.4)
        height_of = np.sqrt(np.clip(1 - radius**2, 0, 1))
        lit = 0.55 * height_of - 0.42 * across - 0.55 * down
        tone = np.array(colour) * (0.62 + 0.5 * lit)[..., None]
        spark = np.exp(-(((across + 0.34) / 0.2) ** 2) - ((down + 0.45) / 0.17) ** 2)
        self.blend(tone + 120 * spark[..., None], self._inside(distance))

    def _inside(self, distance: Field) -> Field:
        return np.clip(0.5 - distance / self.pixel, 0, 1)


def _ellipse(x: Field, y: Field, x0: float, y0: float, width: float, height: float) -> Field:
    radius = np.hypot((x - x0) / (width / 2), (y - y0) / (height / 2))
    return np.asarray((radius - 1) * min(width, height) / 2)
