"""Frames and sound in memory as a file that loses nothing of the frames, to be read by a file job.

PNG pictures in a .mov: exact RGB, and exact times, as no rounding of a container comes in between.
Sound is AAC, as in the files that ComfyUI itself writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from .images import size_of, to_frame


def write_lossless(
    path: Path, images: Any, rate: Fraction, sound: Mapping[str, Any] | None
) -> None:
    """Write a VIDEO's components.

    Args:
        images: IMAGE (count, h, w, C).
        rate: Frames a second.
        sound: AUDIO, {"waveform": (1, channels, samples), "sample_rate": n}, or None.
    """
    height, width = size_of(images)
    with av.open(str(path), "w") as container:
        picture: Any = container.add_stream("png", rate=Fraction(rate))
        picture.width, picture.height, picture.pix_fmt = width, height, "rgb24"
        picture.options = {"compression_level": "1"}
        track: Any = None
        if sound is not None:
            layout = "mono" if sound["waveform"].shape[1] == 1 else "stereo"
            track = container.add_stream("aac", rate=int(sound["sample_rate"]), layout=layout)
        for image in images:
            frame = av.VideoFrame.from_ndarray(to_frame(image), format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if sound is not None:
            _write_sound(container, track, sound)


def _write_sound(container: Any, track: Any, sound: Mapping[str, Any]) -> None:
    """The first two channels, or the only one."""
    samples = sound["waveform"][0, :2].float().cpu().contiguous().numpy()
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=track.layout.name)
    frame.sample_rate, frame.pts = int(sound["sample_rate"]), 0
    container.mux(track.encode(frame))
    container.mux(track.encode(None))
