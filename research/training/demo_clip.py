"""Makes the clip of `streamdiffvsr demo`: a hand-held camera over a photograph not trained on.

Run it as `python -m streamdiffvsr.research.training.demo_clip`. It writes what is committed in
`assets/demo/`: LR as H.264 with a chime, and the true HR picture of one frame.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from ..._about import ASSETS, CLIP, TRUTH, TRUTH_FRAME
from ...graphs.spec import SCALE
from ...runtime.files.compare import write_png
from ...runtime.media.colour import FULL, LIMITED, Colour
from .degrade import CLEAN, degrade
from .photographs import VALIDATION, load
from .scenes import Layer, render

PHOTOGRAPH = VALIDATION[0]  # coffee: CC0, and its edges and gloss show upscalers' differences
SIZE = (88, 160)  # LR (h, w)
FRAMES, FRAMES_PER_SECOND = 24, 12
X264 = {"crf": "12", "preset": "veryslow"}
BEST = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
SAMPLE_RATE, BLOCK = 48000, 1024  # samples per second, and per AAC frame
CHIME = ((659.26, 0.0), (830.61, 0.25), (987.77, 0.5))  # E major: (Hz, start in seconds)
LOUDNESS = 0.08  # of full scale, per note
RINGING_S, FADE_S = 0.45, 0.25

Frames = npt.NDArray[np.uint8]


def main(folder: Path = ASSETS) -> None:
    """Makes the clip and the truth in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    hr, lr = make_frames()
    write_png(folder / TRUTH.name, hr[TRUTH_FRAME])
    with av.open(str(folder / CLIP.name), "w") as output:
        video, sound = _streams(output)
        _write_frames(output, video, lr)
        _write_chime(output, sound, FRAMES / FRAMES_PER_SECOND)


def make_frames() -> tuple[Frames, Frames]:
    """Returns HR (T, H, W, 3) and LR (T, h, w, 3), both uint8."""
    height, width = SIZE
    scene = Layer(load(PHOTOGRAPH), None, _poses())
    hr = render([scene], (SCALE * height, SCALE * width)).frames
    lr = degrade(hr, CLEAN, np.random.default_rng(0))
    return _pixels(hr), _pixels(lr)


def _pixels(frames: Tensor) -> Frames:
    """Converts (T, 3, H, W) in [0, 1] to (T, H, W, 3) uint8."""
    pixels: Frames = (255 * frames).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(pixels)


def _poses() -> Tensor:
    """Returns a slow push in with a hand's sway: (T, 3, 3) float64, HR -> photograph pixel.

    Every step is a fraction of an LR pixel, and the frame stays on the photograph.
    """
    time = np.linspace(0, 1, FRAMES)
    scale = 0.86 * (0.74 / 0.86) ** time  # photograph pixels that an HR pixel covers
    angle = np.radians(1.0 * np.sin(2.2 * np.pi * time))
    x = 286 + 20 * time + 3.0 * np.sin(2.6 * np.pi * time)
    y = 172 + 26 * time + 2.0 * np.sin(3.4 * np.pi * time + 1)
    centre = np.array([SCALE * SIZE[1] - 1, SCALE * SIZE[0] - 1]) / 2
    poses = np.zeros((FRAMES, 3, 3))
    poses[:, 0, 0] = poses[:, 1, 1] = scale * np.cos(angle)
    poses[:, 1, 0] = scale * np.sin(angle)
    poses[:, 0, 1] = -poses[:, 1, 0]
    poses[:, :2, 2] = np.stack([x, y], axis=1) - poses[:, :2, :2] @ centre
    poses[:, 2, 2] = 1
    return torch.from_numpy(poses)


def _streams(output: Any) -> tuple[Any, Any]:
    video = output.add_stream("libx264", rate=FRAMES_PER_SECOND, options=X264)
    video.height, video.width = SIZE
    video.pix_fmt = "yuv420p"
    colour = Colour().resolved(SIZE[0])
    context = video.codec_context
    context.colorspace, context.color_range = colour.matrix, colour.range
    context.color_primaries, context.color_trc = colour.primaries, colour.transfer
    sound = output.add_stream("aac", rate=SAMPLE_RATE)
    sound.layout = "mono"
    return video, sound


def _write_frames(output: Any, video: Any, frames: Frames) -> None:
    converter = VideoReformatter()
    for index, frame in enumerate(frames):
        picture = converter.reformat(
            av.VideoFrame.from_ndarray(frame, format="rgb24"),
            format="yuv420p",
            src_color_range=FULL,
            dst_colorspace=Colour().resolved(SIZE[0]).swscale_matrix,
            dst_color_range=LIMITED,
            interpolation=BEST,
        )
        picture.pts, picture.time_base = index, Fraction(1, FRAMES_PER_SECOND)
        output.mux(video.encode(picture))
    output.mux(video.encode(None))


def _write_chime(output: Any, sound: Any, seconds: float) -> None:
    wave = _chime(int(seconds * SAMPLE_RATE))
    for start in range(0, len(wave), BLOCK):
        samples = av.AudioFrame.from_ndarray(
            wave[None, start : start + BLOCK], format="fltp", layout="mono"
        )
        samples.sample_rate, samples.pts = SAMPLE_RATE, start
        samples.time_base = Fraction(1, SAMPLE_RATE)
        output.mux(sound.encode(samples))
    output.mux(sound.encode(None))


def _chime(count: int) -> npt.NDArray[np.float32]:
    """Returns three soft bells and their overtones, silent at the end; (count,) in [-1, 1]."""
    time = np.arange(count) / SAMPLE_RATE
    wave = np.zeros(count)
    for pitch, struck in CHIME:
        since = np.maximum(time - struck, 0)
        attack = np.minimum(since / 0.008, 1)
        for overtone, share in ((1, 1.0), (2, 0.3), (3, 0.1)):
            ringing = np.exp(-since * overtone / RINGING_S)
            wave += (
                LOUDNESS * share * attack * ringing * np.sin(2 * np.pi * pitch * overtone * since)
            )
    faded: npt.NDArray[np.float64] = wave * np.clip((time[-1] - time) / FADE_S, 0, 1)
    return faded.astype(np.float32)


if __name__ == "__main__":
    main()
