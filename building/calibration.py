"""What fp8 engines are calibrated on, and the digest by which a set knows whether it was that.

Two clips: the built-in one, a photograph under a moving camera, and a made one of saturated waves
and grain, which reaches further. Frames are cut from them, or mirrored where a clip is smaller:
their pixels stay as sharp as a camera's. Knows no quantiser and no graph.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..engines.manifest import file_digest
from ..errors import StreamDiffVSRError
from ..spec import Size

Image = npt.NDArray[np.uint8]

CLIP = Path(__file__).resolve().parent.parent / "assets" / "demo" / "clip.mp4"
PHOTOGRAPHIC_FRAMES, MADE_FRAMES = 6, 3  # each is four runs of the network, twice, on the CPU
PACE = 2  # pixels that the made clip moves in a frame
SEED = 0
# Raise when the same clips would give another graph: other layers, another way to find the scales.
RECIPE = 1
MODULES = ("modelopt", "onnxslim", "lief", "onnxruntime")
PACKAGE = "nvidia-modelopt"


def require_quantiser() -> None:
    """Raise `StreamDiffVSRError` where nothing can be quantised, naming what is missing."""
    if missing := [name for name in MODULES if find_spec(name) is None]:
        runtime = ",cpu" if "onnxruntime" in missing else ""
        raise StreamDiffVSRError(
            "fp8 engines cannot be built here",
            f"not installed: {', '.join(missing)}",
            f"run pip install 'streamdiffvsr[fp8{runtime}]', or use --precision fp16",
        )


def recipe_digest() -> str:
    """Of all that decides how a model is calibrated, besides the model and the size."""
    recipe = {
        "recipe": RECIPE,
        "clip": file_digest(CLIP),
        "frames": [PHOTOGRAPHIC_FRAMES, MADE_FRAMES],
        "pace": PACE,
        "seed": SEED,
        "quantiser": quantiser_version(),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def quantiser_version() -> str:
    """Of the installed nvidia-modelopt."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def calibration_clips(size: Size) -> list[list[Image]]:
    """The clips, as (h, w, 3) uint8 RGB frames of a size, in order of time."""
    from ..export.golden import example_frame
    from ..runtime.media.source import FileSource

    with FileSource(CLIP) as source:
        photographic = [fitted(f.image, size) for f in islice(source, PHOTOGRAPHIC_FRAMES)]
    made = [example_frame(*size, PACE * index)[0].numpy() for index in range(MADE_FRAMES)]
    return [photographic, made]


def fitted(image: Image, size: Size) -> Image:
    """The middle of an image (h, w, 3), its surroundings mirrored as far as the size needs."""
    short = [max(0, side - have) for side, have in zip(size, image.shape, strict=False)]
    around = [(n // 2, n - n // 2) for n in short]
    wide = np.pad(image, [*around, (0, 0)], mode="symmetric")
    top, left = ((have - side) // 2 for have, side in zip(wide.shape, size, strict=False))
    return np.ascontiguousarray(wide[top : top + size[0], left : left + size[1]])
