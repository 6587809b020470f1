"""A short clip made from nothing: shapes that move and a tone, for a first look without a video.

Encodes frames of its own making only, so it needs no child process. It does not look like a film;
it shows edges, fine lines, slow and fast motion.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from ...errors import StreamDiffVSRError
from .libav import describe

FRAMES_PER_SECOND = 12
SAMPLE_RATE = 48000
TONE_HZ = 440.0
BLOCK = 1024  # samples of one AAC frame


def write_sample_clip(path: Path, *, size: tuple[int, int] = (48, 80), frames: int = 24) -> Path:
    """Write an H.264 + AAC file, whole or not at all; returns its path.

    Args:
        path: An existing file is replaced.
        size: (h, w), both even.
        frames: At 12 a second.

    Raises:
        StreamDiffVSRError: The file cannot be written.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with av.open(str(part), "w") as output:
            video, sound = _streams(output, size)
            for index in range(frames):
                picture = av.VideoFrame.from_ndarray(sample_image(index, size), format="rgb24")
                picture.pts, picture.time_base = index, Fraction(1, FRAMES_PER_SECOND)
                output.mux(video.encode(picture))
            output.mux(video.encode(None))
            _write_tone(output, sound, frames / FRAMES_PER_SECOND)
        os.replace(part, path)
    except Exception as error:  # libav's errors are of several kinds, and not all its own
        raise StreamDiffVSRError(
            f"could not write {str(path)!r}", describe(error), "choose a writable folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _streams(output: Any, size: tuple[int, int]) -> tuple[Any, Any]:
    video = output.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "12"})
    video.height, video.width = size
    video.pix_fmt = "yuv420p"
    sound = output.add_stream("aac", rate=SAMPLE_RATE)
    sound.layout = "mono"
    return video, sound


def sample_image(index: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB: a disc, a bar and a checkerboard that move over a gradient."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = np.stack([40 + 60 * x / width, 50 + 90 * y / height, 120 - 40 * x / width], axis=-1)
    checks = ((x.astype(int) // 4 + y.astype(int) // 4 + index // 3) % 2 == 0) & (y > height * 0.75)
    image[checks] = (200, 200, 190)
    across, down = np.cos(index * 0.3), np.sin(index * 0.3)
    distance = np.hypot(x - width * (0.5 + 0.3 * across), y - height * (0.4 + 0.2 * down))
    edge = np.clip(height / 6 - distance, 0, 1)[
        ..., None
    ]  # a soft pixel, so that it moves smoothly
    image = image * (1 - edge) + np.array([235, 140, 40]) * edge
    image[:, np.abs(x[0] - (index * 3) % width) < 2] = (240, 240, 255)
    rounded: npt.NDArray[np.uint8] = np.rint(image).astype(np.uint8)
    return rounded


def _write_tone(output: Any, sound: Any, seconds: float) -> None:
    for start in range(0, int(seconds * SAMPLE_RATE), BLOCK):
        time = (start + np.arange(BLOCK)) / SAMPLE_RATE
        wave = 0.2 * np.sin(2 * np.pi * TONE_HZ * time)
        samples = av.AudioFrame.from_ndarray(
            wave[None].astype(np.float32), format="fltp", layout="mono"
        )
        samples.sample_rate, samples.pts = SAMPLE_RATE, start
        samples.time_base = Fraction(1, SAMPLE_RATE)
        output.mux(sound.encode(samples))
    output.mux(sound.encode(None))
