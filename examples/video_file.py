"""Upscales a video file, sound and all: python examples/video_file.py [IN.mp4 OUT.mp4]."""

from __future__ import annotations

import sys

import streamdiffvsr
from streamdiffvsr._about import CLIP
from streamdiffvsr.runtime.files.upscale import FileOptions, upscale_file
from streamdiffvsr.runtime.media.reader import probe


def main(source: str = str(CLIP), target: str = "video_file.mp4", *, frames: int = 4) -> None:
    """Writes the first frames of the video at four times the size."""
    engines = streamdiffvsr.build("tiny", size=probe(source).size, progress=print)
    report = upscale_file(
        source,
        target,
        streamdiffvsr.load(engines),
        FileOptions(overwrite=True, max_frames=frames),  # max_frames=None takes all of them
        progress=lambda done, estimate: print(f"{done} of {estimate or '?'} frames"),
    )
    print(f"{target}: {report.frames} frames at {report.fps:.1f} frames a second")


if __name__ == "__main__":
    main(*sys.argv[1:])
