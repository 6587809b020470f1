"""The built-in model is built and upscales without torch or an exporter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# The modules are as if they were not installed.
HIDE = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            return None
        return PathFinder.find_spec(name, path, target)

HIDDEN = "torch transformers onnxscript polygraphy onnx_graphsurgeon huggingface_hub".split()
sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""
TWO_FRAMES = """
import sys
import numpy as np
import streamdiffvsr

said = []
folder = streamdiffvsr.build("tiny", size=(37, 41), progress=said.append, in_process=True)
assert any("make the graphs of 41x37" in line for line in said), said
up = streamdiffvsr.load(folder)
state = up.initial_state()
for seed in range(2):
    frame = np.random.default_rng(seed).integers(0, 256, (37, 41, 3)).astype(np.uint8)
    out, state = up.step(frame, state)
    assert out.shape == (148, 164, 3) and out.std() > 1
assert "torch" not in sys.modules and "onnxscript" not in sys.modules
for options in ({"steps": 3}, {"precision": "fp16"}, {"backend": "torch"}):
    try:
        streamdiffvsr.build("tiny", size=(37, 41), in_process=True, **options)
    except streamdiffvsr.StreamDiffVSRError as error:
        print(error)
"""


def test_two_frames_without_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDE + TWO_FRAMES],
        env=os.environ | {"STREAMDIFFVSR_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    three, half, torch = done.stdout.splitlines()
    for line in (three, half):
        assert "it has them in fp32, for 2 and 4 steps" in line
        assert "or use steps=4 and precision='fp32'" in line
        assert "not installed: torch" in line and "pip install 'streamdiffvsr[export]'" in line
    assert "no graphs for 3 steps in fp32" in three and "no graphs for 4 steps in fp16" in half
    assert "torch" in torch and "pip install" in torch
