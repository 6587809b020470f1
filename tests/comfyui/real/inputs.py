"""Makes the inputs of the checks and the outputs they must have: small clips, the API's frames."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ....building.builder import build
from ....graphs.spec import Size
from ....runtime.frame_stream import Image
from ....runtime.upscaler import Upscaler, load

RATE = 12
SOUND_RATE = 8000


def frames_of(path: Path) -> list[Image]:
    """The frames of a file as ComfyUI decodes them: (h, w, 3) uint8 RGB."""
    with av.open(str(path)) as container:
        frames: Iterator[Any] = container.decode(video=0)
        return [frame.to_ndarray(format="rgb24") for frame in frames]


def sound_of(path: Path) -> list[bytes]:
    """The packets of the sound."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def write_clip(path: Path, count: int, size: Size) -> None:
    """A moving pattern with a tone: enough for the model to have work, and no scene cut."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        picture: Any = container.add_stream("libx264", rate=RATE, options={"crf": "12"})
        picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
        sound: Any = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        for number in range(count):
            waves = [np.sin((x + a * number) / (5 + b) + y / (7 - b)) for a, b in ((1, 0), (2, 2))]
            mixed = np.stack([waves[0], waves[1], waves[0] * waves[1]], axis=2)
            image = (127.5 + 100 * mixed).astype(np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(picture.encode(None))
        samples = math.ceil(SOUND_RATE * Fraction(count, RATE))
        tone = 0.2 * np.sin(np.arange(samples) * 2 * np.pi * 440 / SOUND_RATE)
        frame = av.AudioFrame.from_ndarray(
            tone[None].astype(np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts = SOUND_RATE, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def upscaler(size: Size) -> Upscaler:
    """The built-in model by the API, as the nodes run it on a CPU."""
    return load(build("tiny", size=size, backend="onnxruntime", precision="fp32", device="cpu"))


def upscaled(frames: list[Image]) -> list[Image]:
    """Returns consecutive frames as the API upscales them."""
    return list(upscaler(frames[0].shape[:2]).stream(frames))
