"""Upscales one picture: python examples/one_frame.py [IN.jpg OUT.png]."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, ImageOps

import streamdiffvsr
from streamdiffvsr._about import TRUTH


def main(source: str = str(TRUTH), target: str = "one_frame.png") -> None:
    """Writes the picture, cropped and reduced to 64x48, at four times that size."""
    height, width = 48, 64  # engines are built for one size; a small one is fast on a CPU
    frame = np.asarray(ImageOps.fit(Image.open(source).convert("RGB"), (width, height)))
    engines = streamdiffvsr.build("tiny", size=(height, width), progress=print)
    upscaler = streamdiffvsr.load(engines)
    out, _ = upscaler.step(frame, upscaler.initial_state(seed=0))
    Image.fromarray(out).save(target)
    print(f"{target}: {out.shape[1]}x{out.shape[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
