"""The other forms of one model, half precision and tiles, against its frames in full.

The built-in model on a real clip, thirty frames through their own feedback.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamdiffvsr
from streamdiffvsr import _about
from streamdiffvsr.research.quality.metrics import psnr
from streamdiffvsr.runtime.media.reader import FileSource

pytestmark = pytest.mark.slow
SIZE, TILE = (64, 112), (64, 64)
COUNT = 30


@pytest.fixture(scope="module")
def clip() -> list[Any]:
    """(64, 112, 3) parts of the demo's frames, from their middle."""
    with FileSource(_about.CLIP) as source:
        return [np.ascontiguousarray(frame.image[12:76, 24:136]) for frame in islice(source, COUNT)]


def upscaled(folder: Path, clip: list[Any]) -> np.ndarray[Any, Any]:
    return np.stack(list(streamdiffvsr.load(folder).stream(clip)))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, clip: list[Any]) -> np.ndarray[Any, Any]:
    """(30, 256, 448, 3): fp32, the whole frame at once."""
    out = tmp_path_factory.mktemp("full")
    return upscaled(streamdiffvsr.build("tiny", size=SIZE, out=out / "e"), clip)


def test_half_precision_shows_the_same_video(
    tmp_path: Path, clip: list[Any], full: np.ndarray[Any, Any]
) -> None:
    folder = streamdiffvsr.build("tiny", size=SIZE, precision="fp16", out=tmp_path / "e")
    assert psnr(upscaled(folder, clip), full).min() >= 45


def test_tiles_show_the_same_video_without_seams(
    tmp_path: Path, clip: list[Any], full: np.ndarray[Any, Any]
) -> None:
    folder = streamdiffvsr.build("tiny", size=SIZE, tile=TILE, out=tmp_path / "e")
    tiled = upscaled(folder, clip)
    assert psnr(tiled, full).min() >= 40
    # Where a tile begins and where one ends, columns differ no more than they do in full.
    steps = [
        np.abs(np.diff(video.astype(float), axis=2)).mean(axis=(0, 1, 3)) for video in (tiled, full)
    ]
    seams = [4 * (SIZE[1] - TILE[1]) - 1, 4 * TILE[1] - 1]
    for seam in seams:
        around = slice(seam - 2, seam + 3)
        assert steps[0][around].max() <= 1.05 * steps[1][around].max()
