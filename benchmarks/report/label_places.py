"""Where labels of dots go so that none covers another, nor a dot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .chart import FONT
from .markup import width_of

HEIGHT, DOT, GAP = FONT + 4, 7.0, 4.0
NEAR = 3  # rings of places within which it is plain which dot is meant
RINGS = 60
# Degrees from the right, clockwise: beside the dot is best.
ANGLES = (0, 180, -30, 210, 30, 150, -60, 240, 60, 120, -90, 90)

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def inside(self, other: Box) -> bool:
        """Whether it lies within the other."""
        across = self.left >= other.left and self.right <= other.right
        return across and self.top >= other.top and self.bottom <= other.bottom


@dataclass(frozen=True, slots=True)
class Place:
    """Where a label goes.

    Attributes:
        anchor_point: Of the box, next to the dot.
        far: Whether a line from the dot is needed to see whose it is.
    """

    box: Box
    anchor_point: Point
    far: bool


def place(names: Sequence[str], dots: Sequence[Point], inside: Box) -> list[Place]:
    """A place for each label, near its dot: on rings around it, the first that is free.

    Args:
        dots: Their centres.
        inside: Where labels may be. Where it is full, a label goes beside its dot all the same.
    """
    taken = [Box(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in dots]
    found: list[Place] = []
    for name, dot in zip(names, dots, strict=True):
        tried = _tried(dot, width_of(name, FONT))
        free = (p for p in tried if p.box.inside(inside) and not any(map(p.box.meets, taken)))
        chosen = next(free, tried[0])
        taken.append(chosen.box)
        found.append(chosen)
    return found


def _tried(dot: Point, width: float) -> list[Place]:
    places = []
    for ring in range(RINGS):
        radius = DOT + GAP + 6 * ring
        for angle in map(math.radians, ANGLES):
            places.append(_beside(dot, width, radius, angle, ring))
    return places


def _beside(dot: Point, width: float, radius: float, angle: float, ring: int) -> Place:
    """The label whose nearest point lies at a distance and an angle from the dot."""
    x, y = dot[0] + radius * math.cos(angle), dot[1] + radius * math.sin(angle)
    left = x - width * (1 - math.cos(angle)) / 2
    top = y - HEIGHT * (1 - math.sin(angle)) / 2
    return Place(Box(left, top, left + width, top + HEIGHT), (x, y), ring >= NEAR)
