"""Saves the state of a stream and goes on from it: python examples/save_and_resume.py [STATE]."""

from __future__ import annotations

import sys

import numpy as np

import streamdiffvsr


def main(path: str = "stream.safetensors") -> None:
    """Shows that a saved stream continues as if it had never stopped, bit for bit."""
    first, second = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    engines = streamdiffvsr.build("tiny", size=(48, 64), progress=print)
    upscaler = streamdiffvsr.load(engines)
    _, state = upscaler.step(first, upscaler.initial_state(seed=7))
    state.save(path)  # it can be loaded in another process, on another day
    resumed = streamdiffvsr.StreamState.load(path)
    expected, _ = upscaler.step(second, state)
    again, _ = upscaler.step(second, resumed)
    print(f"{path}: the next frame is {'the same' if (again == expected).all() else 'another'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
