"""Reads the regions of interest that a page sends, and passes them on to the session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....errors import UsageError
from ....reading import parse_json

Region = tuple[int, int, int, int]  # left, top, width and height in LR pixels of the source
Prefer = Callable[[Sequence[Region]], None]

MAX_REGIONS = 16
_MAX_SIDE = 1 << 16
_FAILURE = "could not set the regions"


def parse_regions(body: bytes) -> list[Region]:
    """Returns the regions of ``{"regions": [[x, y, width, height], ...]}``, which may be none.

    Args:
        body: JSON text in UTF-8. Every number is an integer from 0 to 65536; a width or height is
            at least 1.

    Raises:
        UsageError: It is anything else, or has more than :data:`MAX_REGIONS` regions.
    """
    try:
        order = parse_json(body)
    except ValueError as error:
        raise UsageError(_FAILURE, "the request is not JSON", _WANTED) from error
    if not isinstance(order, dict) or order.keys() != {"regions"}:
        raise UsageError(_FAILURE, 'the request is not an object with "regions" alone', _WANTED)
    regions = order["regions"]
    if not isinstance(regions, list):
        raise UsageError(_FAILURE, '"regions" is not a list', _WANTED)
    if len(regions) > MAX_REGIONS:
        why = f"there are {len(regions)}, and at most {MAX_REGIONS} are allowed"
        raise UsageError(_FAILURE, why, "clear some first")
    return [_region(number, value) for number, value in enumerate(regions, 1)]


_WANTED = 'send {"regions": [[X, Y, WIDTH, HEIGHT], ...]}'


def _region(number: int, value: Any) -> Region:
    if (
        not isinstance(value, list)
        or len(value) != 4
        or any(type(side) is not int for side in value)
    ):
        raise UsageError(_FAILURE, f"region {number} is not four integers", _WANTED)
    left, top, width, height = value
    if min(left, top) < 0 or min(width, height) < 1 or max(value) > _MAX_SIDE:
        why = f"region {number} is not one: x and y start at 0, width and height at 1"
        raise UsageError(_FAILURE, why, "draw it within the picture")
    return left, top, width, height
