"""Hands each upscaled frame of a camera to a function: python examples/camera_callback.py [SOURCE].

SOURCE is anything that `streamdiffvsr live` takes, such as webcam:0 or rtsp://camera/stream.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing

import numpy as np
import numpy.typing as npt

import streamdiffvsr
from streamdiffvsr.runtime.live.addresses import parse_source
from streamdiffvsr.runtime.live.source import LiveSource

Callback = Callable[[npt.NDArray[np.uint8], float], None]


def show(image: npt.NDArray[np.uint8], seconds: float) -> None:
    """Prints a frame's time, size and mean value: put your own code here."""
    print(f"{seconds:.2f} s: {image.shape[1]}x{image.shape[0]}, mean {image.mean():.0f}")


def main(source: str = "testsrc=64x48@10", *, on_frame: Callback = show, frames: int = 5) -> None:
    """Upscales the newest frame each time; frames that arrive meanwhile are dropped."""
    with closing(LiveSource(parse_source(source), tell=print)) as camera:
        while (first := camera.newest(timeout_s=1.0)) is None:
            pass
        engines = streamdiffvsr.build("tiny", size=first.size, progress=print)
        upscaler = streamdiffvsr.load(engines)
        state, epoch = upscaler.initial_state(), first.epoch
        while frames:
            if (frame := camera.newest(timeout_s=1.0)) is None:
                continue
            if frame.epoch != epoch:  # after a reconnection the previous frame is of no use
                state, epoch = state.reset(), frame.epoch
            image, state = upscaler.step(frame.image, state)
            on_frame(image, frame.seconds)
            frames -= 1


if __name__ == "__main__":
    main(*sys.argv[1:])
