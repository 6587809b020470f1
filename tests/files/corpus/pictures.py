"""Pictures that say which frame they are, and how a display matrix turns them.

A picture is 4x4 flat cells: six bits of its number, the same six turned over, and four colours. A
picture that is lost, doubled, torn or out of order shows in the number that is read from it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Matrix = tuple[int, int, int, int]  # a, b, c, d: stored (x, y) is shown at (ax + cy, bx + dy)

UPRIGHT: Matrix = (1, 0, 0, 1)
# By EXIF's number for it: as it is, mirrored, 180, upside down, transposed, 90, transverse, 270.
ORIENTATIONS: dict[int, Matrix] = {
    1: UPRIGHT,
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}

_BITS = 6
_MOST_SPREAD = 80  # of the lightness inside a flat cell, in levels
LAST_NUMBER = (1 << _BITS) - 1
_DARK = [(0, 0, 0), (96, 16, 48), (16, 72, 24), (24, 32, 112)]
_BRIGHT = [(255, 255, 255), (255, 216, 112), (120, 255, 208), (224, 200, 255)]
_COLOURS = [(224, 32, 24), (32, 200, 48), (40, 48, 232), (232, 224, 16)]


def picture(number: int, height: int, width: int) -> Pixels:
    """The (h, w, 3) RGB picture of that number, 0 to 63."""
    bits = [number >> bit & 1 for bit in range(_BITS)]
    bits += [1 - bit for bit in bits]
    cells = [(_BRIGHT if bit else _DARK)[place % 4] for place, bit in enumerate(bits)]
    grid = np.array(cells + _COLOURS, np.uint8).reshape(4, 4, 3)
    rows = np.arange(height) * 4 // height
    columns = np.arange(width) * 4 // width
    return grid[rows][:, columns]


def number_in(pixels: Pixels) -> int | None:
    """Returns the number of the picture that pixels of any size show; None for no such picture."""
    luma = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    height, width = luma.shape
    bits = []
    for place in range(2 * _BITS):
        inside = luma[_middle(place // 4, height), _middle(place % 4, width)]
        low, high = np.percentile(inside, (10, 90))
        if high - low > _MOST_SPREAD:
            return None
        bits.append(int(np.median(inside) > 128))
    if any(bit == turned for bit, turned in zip(bits[:_BITS], bits[_BITS:], strict=True)):
        return None
    return sum(bit << place for place, bit in enumerate(bits[:_BITS]))


def _middle(cell: int, length: int) -> slice:
    """The middle third of a cell, of four."""
    first = round((cell + 1 / 3) * length / 4)
    return slice(first, max(first + 1, round((cell + 2 / 3) * length / 4)))


def woven(number: int, height: int, width: int, order: str) -> Pixels:
    """The picture of that number in the field that is shown first, the next one in the other."""
    pixels = picture(number + 1, height, width)
    first = 0 if order == "tff" else 1
    pixels[first::2] = picture(number, height, width)[first::2]
    return pixels


def shown(stored: Pixels, matrix: Matrix) -> Pixels:
    """Returns a stored picture as a player with that display matrix shows it."""
    a, b, c, d = matrix
    if a:
        return stored[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]
    turned = stored.transpose(1, 0, *range(2, stored.ndim))
    return turned[:: 1 if b > 0 else -1, :: 1 if c > 0 else -1]


def stored(upright: Pixels, matrix: Matrix) -> Pixels:
    """Returns the picture to store so that a player with that display matrix shows this one."""
    a, b, c, d = matrix
    return shown(upright, (a, c, b, d))
