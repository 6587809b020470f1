"""Measures what a frame costs in adaptive mode without the model: motion, carrying and the picture.

    python -m streamdiffvsr.research.adaptive_cost

Where everything moves, and where little does, in thread time: the time of one core, which other
programs on the machine do not lengthen. Prints a table and, as its last line, JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..benchmarks.machine import describe_machine
from ..graphs.spec import SCALE, Size, format_size
from ..runtime.adaptive.canvas import Canvas
from ..runtime.adaptive.carry import Motion, carry
from ..runtime.adaptive.tile_engine import TILE
from ..runtime.adaptive.tiles import Patch, blend, choose, weight_of

SIZES = ((90, 160), (180, 320), (360, 640))
FRAMES, WARM_UP = 14, 3
REFRESH_S = 10.0
Frame = npt.NDArray[np.uint8]


def scene(size: Size, *, moves: bool, frames: int) -> Iterator[Frame]:
    """Yields frames of texture: all of it pans, or a sixteenth moves in front of it with noise."""
    h, w = size
    rng = np.random.default_rng(0)
    whole = np.zeros((2 * h, 2 * w, 3), np.float32)
    for cell in (4, 8, 16, 32):
        coarse = rng.normal(0, 25, (2 * h // cell + 2, 2 * w // cell + 2, 3)).astype(np.float32)
        whole += cv2.resize(coarse, (2 * w, 2 * h), interpolation=cv2.INTER_CUBIC)
    for index in range(frames):
        shift = np.array([[1, 0, -0.6 * index], [0, 1, -0.3 * index]], np.float32)
        moved = cv2.warpAffine(whole, shift, (w, h)) + 128
        if not moves:
            still, thing = whole[:h, :w] + 128, moved[: h // 4, : w // 4]
            moved = still.copy()
            moved[h // 2 : h // 2 + len(thing), w // 2 : w // 2 + thing.shape[1]] = thing
            moved += rng.normal(0, 1, moved.shape)
        yield np.clip(np.rint(moved), 0, 255).astype(np.uint8)


def measure(size: Size, *, moves: bool) -> dict[str, Any]:
    """Returns the median milliseconds of the parts of a frame, and of all of them."""
    canvas = Canvas.empty(size)
    motion: Motion | None = None  # of the late patch that is blended into every frame
    spare: npt.NDArray[np.float32] | None = None
    times: list[list[float]] = []
    patch = Patch(
        size[0] // 4,
        size[1] // 4,
        np.ones((SCALE * TILE, SCALE * TILE, 3), np.float32),
        weight_of((1, 1), size, TILE, SCALE),
    )
    for frame in scene(size, moves=moves, frames=FRAMES):
        marks = [time.thread_time()]
        following, newest = carry(canvas, frame, 0.04, spare)
        spare = spare if following.detail is canvas.detail else canvas.detail
        canvas = following
        marks.append(time.thread_time())
        motion = newest if motion is None else newest.after(motion)
        blend(canvas, patch, motion)
        marks.append(time.thread_time())
        choose(canvas, 1, TILE, REFRESH_S)
        marks.append(time.thread_time())
        canvas.render()
        marks.append(time.thread_time())
        times.append([1000 * float(seconds) for seconds in np.diff(marks)])
    parts = dict(
        zip(("carry", "blend", "choose", "render"), np.transpose(times[WARM_UP:]), strict=True)
    )
    medians = {name: round(float(np.median(values)), 1) for name, values in parts.items()}
    total = float(np.median(np.sum(times[WARM_UP:], axis=1)))
    return {
        "input": format_size(size),
        "scene": "everything moves" if moves else "little moves",
        **medians,
        "total": round(total, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the figures as a Markdown table, in milliseconds."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    """Measures every size and scene, and prints the table and the JSON."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args(
        arguments
    )
    cv2.setNumThreads(1)
    rows = [measure(size, moves=moves) for size in SIZES for moves in (True, False)]
    print(table(rows))
    result = {"benchmark": "adaptive cost", "rows": rows, "machine": describe_machine()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
