"""Pictures that say what a task is about, drawn by code: starts for pictures that stay near them.

art-export train demo --task tools --init artwork:tools --epsilon 32/255 -o run
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engines.names import choose
from training.drawing import (
    Colour,
    Drawing,
    Shape,
    arc,
    box,
    circle,
    gear,
    stroke,
    turned,
    union,
    without,
)

BRASS, CORAL, STEEL, CREAM = (222, 164, 68), (226, 104, 84), (158, 178, 196), (246, 232, 204)
CYAN = (104, 208, 214)
WOOD, ROD = (150, 92, 54), (206, 196, 180)
BEADS = ((222, 92, 84), (78, 144, 204), (92, 172, 116), (236, 166, 66), (152, 106, 186))
SUM = (3, 4, 7)
"""What the abacus counts: the first two rows, and below the line their sum."""


def tool_calls(size: int) -> NDArray[np.uint8]:
    """A wrench and two gears between curly braces, wired to the edges: uint8 (size, size, 3)."""
    drawing = Drawing(size, (34, 44, 92), (24, 92, 112))
    drawing.glow(circle(0.5, 0.5, 0.02), (74, 132, 158), 0.22, 0.75)
    _blueprint(drawing)
    _wires(drawing)
    for brace in (_brace(0.135, 1), _brace(0.865, -1)):
        drawing.glow(brace, CYAN, 0.022, 0.55)
        drawing.solid(brace, CREAM, 0.012)
    _wheel(drawing, 0.46, 0.44, 0.17, 12, 0.0, BRASS)
    _wheel(drawing, 0.647, 0.633, 0.085, 6, 0.35, CORAL)
    drawing.solid(turned(_wrench(), 0.47, 0.56, -52), STEEL, 0.014, 0.024)
    return drawing.pixels()


def word_problems(size: int) -> NDArray[np.uint8]:
    """An abacus under a sum: uint8 (size, size, 3)."""
    drawing = Drawing(size, (248, 214, 168), (206, 142, 150))
    drawing.glow(circle(0.5, 0.16, 0.1), (255, 240, 206), 0.2, 0.8)
    _sum(drawing)
    _abacus(drawing)
    return drawing.pixels()


ARTWORKS: dict[str, Callable[[int], NDArray[np.uint8]]] = {
    "tools": tool_calls,
    "math": word_problems,
}
"""Name, that of a shipped task -> what draws its picture, size -> uint8 (size, size, 3)."""
MARK = "artwork:"
"""What a name has before it where a PNG's path could stand."""


def artwork_of(init: str, size: int) -> NDArray[np.uint8] | None:
    """The picture that `artwork:NAME` stands for, uint8 (size, size, 3); None for a path.

    Raises:
        OptionError: there is no artwork of that name.
    """
    if not init.startswith(MARK):
        return None
    return ARTWORKS[choose("artwork", init.removeprefix(MARK), ARTWORKS)](size)


def _blueprint(drawing: Drawing) -> None:
    """Fine squares, every fourth line stronger."""
    for number in range(1, 16):
        strength = 0.2 if number % 4 == 0 else 0.08
        at, width = number / 16, 0.004
        drawing.flat(box(at, 0.5, width, 1), CYAN, strength)
        drawing.flat(box(0.5, at, 1, width), CYAN, strength)


def _wires(drawing: Drawing) -> None:
    """Lines from the middle to sockets at the edges: what is called from here."""
    ends = ((0.3, 0.06), (0.5, 0.06), (0.7, 0.06), (0.3, 0.94), (0.5, 0.94), (0.7, 0.94))
    for number, (x, y) in enumerate(ends):
        turn = 0.2 if y < 0.5 else 0.8
        wire = stroke([(x, y), (x, turn), (0.5, 0.5)], 0.011)
        drawing.glow(wire, CYAN, 0.008, 0.4)
        drawing.flat(wire, (70, 168, 182))
        drawing.solid(circle(x, y, 0.03), BEADS[number % len(BEADS)], 0.014, 0.01)
        drawing.flat(circle(x, y, 0.011), (30, 44, 80))


def _brace(x: float, side: int) -> Shape:
    """A curly brace that opens to the right (side 1) or the left (-1)."""
    bend, top, bottom = 0.055, 0.2, 0.8
    half = [(side * a, b) for a, b in arc(bend, top + bend, bend, -90, -180)]
    half += [(side * a, b) for a, b in arc(-bend, 0.5 - bend, bend, 0, 90)]
    other = [(a, bottom + top - b) for a, b in reversed(half)]
    return stroke([(x + a, b) for a, b in half + other], 0.042)


def _wheel(
    drawing: Drawing, x: float, y: float, radius: float, teeth: int, turn: float, colour: Colour
) -> None:
    rim = gear(x, y, radius, teeth, turn, 0.018)
    drawing.solid(without(rim, circle(x, y, 0.26 * radius)), colour, 0.013, 0.02)
    ring = without(circle(x, y, 0.7 * radius), circle(x, y, 0.52 * radius))
    drawing.flat(ring, (60, 40, 40), 0.22)
    for number in range(5):
        angle = 2 * np.pi * (number + turn) / 5
        spot = circle(x + 0.61 * radius * np.cos(angle), y + 0.61 * radius * np.sin(angle), 0.009)
        drawing.flat(spot, (50, 36, 44), 0.6)


def _wrench() -> Shape:
    """Along the x axis, its jaw to the right."""
    handle = box(0.0, 0.0, 0.46, 0.058, 0.029)
    head = without(circle(0.235, 0.0, 0.077), box(0.285, 0.0, 0.12, 0.062, 0.012))
    ring = circle(-0.225, 0.0, 0.052)
    return without(union(handle, head, ring), circle(-0.225, 0.0, 0.024))


def _sum(drawing: Drawing) -> None:
    places = ((0.17, _three), (0.5, _four), (0.83, _seven))
    for (x, digit), colour in zip(places, BEADS[:3], strict=True):
        drawing.solid(digit(x, 0.17), colour, 0.013, 0.014)
    plus = union(box(0.335, 0.17, 0.09, 0.026, 0.013), box(0.335, 0.17, 0.026, 0.09, 0.013))
    equals = union(box(0.665, 0.15, 0.09, 0.026, 0.013), box(0.665, 0.195, 0.09, 0.026, 0.013))
    for sign in (plus, equals):
        drawing.solid(sign, (112, 78, 92), 0.009, 0.012)


def _three(x: float, y: float) -> Shape:
    return stroke([*arc(x, y - 0.045, 0.042, -150, 90), *arc(x, y + 0.043, 0.046, -90, 150)], 0.034)


def _four(x: float, y: float) -> Shape:
    return union(
        stroke([(x + 0.022, y - 0.085), (x - 0.052, y + 0.03), (x + 0.056, y + 0.03)], 0.034),
        stroke([(x + 0.022, y - 0.085), (x + 0.022, y + 0.09)], 0.034),
    )


def _seven(x: float, y: float) -> Shape:
    return stroke([(x - 0.05, y - 0.085), (x + 0.05, y - 0.085), (x - 0.02, y + 0.09)], 0.034)


def _abacus(drawing: Drawing) -> None:
    frame = without(box(0.5, 0.645, 0.88, 0.62, 0.05), box(0.5, 0.645, 0.77, 0.51, 0.02))
    drawing.flat(box(0.5, 0.645, 0.8, 0.54), (120, 80, 96), 0.28)
    counts = (*SUM[:2], SUM[2], 2, 5)
    for row, count in enumerate(counts):
        y = 0.438 + row * 0.1035
        drawing.solid(box(0.5, y, 0.8, 0.014, 0.004), ROD, 0.007, 0.01)
        for bead in range(10):
            left = 0.153 + 0.0475 * bead
            x = left if bead < count else left + 0.267
            drawing.ball(x, y, 0.046, 0.086, BEADS[row])
    drawing.solid(frame, WOOD, 0.02, 0.024)
    _grain(drawing, frame)


def _grain(drawing: Drawing, wood: Shape) -> None:
    x, y = drawing.x, drawing.y
    lines = np.sin(150 * y + 6 * np.sin(9 * x) + 3 * np.sin(31 * x + 5 * y))
    cover = np.where(wood(x, y) < -0.004, 0.16 * np.clip(lines, 0, 1), 0.0)
    drawing.blend((74, 40, 26), cover)
