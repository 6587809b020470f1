"""Measures how well scene cuts are found: precision and recall on clips with known cuts.

    python -m streamdiffvsr.research.scene_cuts

Clips are photographs under a moving camera, joined by hard cuts, with much that is no cut: flashes,
fades through black within a scene, swinging exposure, fast pans, sensor noise. Every frame goes
through the detector as it would arrive. Prints a table and, as its last line, JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..benchmarks.machine import describe_machine
from ..runtime.frame_stream import CutDetector

if TYPE_CHECKING:
    from .training.clips import ClipMaker

Frames = npt.NDArray[np.uint8]  # (n, h, w, 3) RGB
SIZE = (90, 160)
SCENE = 12  # frames between cuts
SCENES = 8  # of a clip


@dataclass
class Score:
    """Counts for one kind of clip: cuts that were found, missed, and falsely reported."""

    found: int = 0
    missed: int = 0
    made_up: int = 0
    frames: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the counts; precision and recall are None if there is nothing to divide by."""
        reported, there = self.found + self.made_up, self.found + self.missed
        return {
            "frames": self.frames,
            "cuts": there,
            "precision": round(self.found / reported, 4) if reported else None,
            "recall": round(self.found / there, 4) if there else None,
            "made_up": self.made_up,
        }


def plain(frames: Frames, rng: np.random.Generator) -> Frames:
    """Returns the frames unchanged."""
    return frames


def flash(frames: Frames, rng: np.random.Generator) -> Frames:
    """Makes one frame of each scene nearly white."""
    lit = frames.astype(np.float32)
    for start in range(0, len(frames), SCENE):
        lit[start + int(rng.integers(3, SCENE - 2))] += rng.uniform(120, 255)
    return lit.clip(0, 255).astype(np.uint8)


def fade(frames: Frames, rng: np.random.Generator) -> Frames:
    """Fades each scene to black and back."""
    gains = np.abs(np.linspace(-1, 1, SCENE))[:, None, None, None]
    parts = [frames[s : s + SCENE] * gains[: len(frames[s:])] for s in range(0, len(frames), SCENE)]
    return np.concatenate(parts).astype(np.uint8)


def noise(frames: Frames, rng: np.random.Generator) -> Frames:
    """Makes the frames those of a dark, noisy camera."""
    dark = 0.35 * frames.astype(np.float32)
    return (dark + rng.normal(0, 8, dark.shape)).clip(0, 255).astype(np.uint8)


def exposure(frames: Frames, rng: np.random.Generator) -> Frames:
    """Makes the brightness swing from frame to frame."""
    gains = rng.uniform(0.5, 1.3, (len(frames), 1, 1, 1))
    return (frames * gains).clip(0, 255).astype(np.uint8)


KINDS: dict[str, tuple[Callable[[Frames, np.random.Generator], Frames], float]] = {
    "pans": (plain, 1.0),
    "fast pans": (plain, 4.0),
    "flashes": (flash, 1.0),
    "fades": (fade, 1.0),
    "noise": (noise, 1.0),
    "exposure": (exposure, 1.0),
}


def main() -> None:
    """Measures every kind of clip, and prints the table and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=6, help="of each kind")
    options = parser.parse_args()
    from .training.clips import ClipMaker
    from .training.photographs import TEST, TRAINING, VALIDATION

    maker = ClipMaker(0, TRAINING + VALIDATION + TEST)
    scores: dict[str, Score] = {}
    spent_s = 0.0
    for name, (change, pace) in KINDS.items():
        score = scores[name] = Score()
        for number in range(options.clips):
            rng = np.random.default_rng([number, len(scores)])
            spent_s += _judge(change(_clip(maker, rng, pace), rng), score)
    total = _sum(list(scores.values()))
    print(_table({**scores, "**all**": total}))
    result = {
        "benchmark": "scene_cuts",
        "kinds": {name: score.to_json() for name, score in scores.items()},
        "all": total.to_json(),
        "ms_per_frame": round(1000 * spent_s / total.frames, 3),
        "machine": describe_machine(),
    }
    print(json.dumps(result))


def _sum(scores: list[Score]) -> Score:
    names = ("found", "missed", "made_up", "frames")
    return Score(*(sum(getattr(score, name) for score in scores) for name in names))


def _table(scores: dict[str, Score]) -> str:
    columns = ("frames", "cuts", "precision", "recall", "made_up")
    lines = [f"| clips | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, score in scores.items():
        row = score.to_json()
        lines.append(f"| {name} | {' | '.join(str(row[column]) for column in columns)} |")
    return "\n".join(lines)


def _judge(frames: Frames, score: Score) -> float:
    """Runs one clip through a detector; returns the seconds that it took."""
    detector, spent_s = CutDetector(), 0.0
    for index, frame in enumerate(frames):
        started = time.perf_counter()
        reported = detector.is_cut(frame)
        spent_s += time.perf_counter() - started
        cut = index > 0 and index % SCENE == 0
        score.found += reported and cut
        score.missed += cut and not reported
        score.made_up += reported and not cut
    score.frames += len(frames)
    return spent_s


def _clip(maker: ClipMaker, rng: np.random.Generator, pace: float) -> Frames:
    """Returns (n, h, w, 3): `SCENES` scenes with hard cuts between them."""
    height, width = SIZE
    scenes = []
    for _ in range(SCENES):
        frames = maker.scene(rng, SCENE, (2 * height, 2 * width), pace).frames[:, :, ::2, ::2]
        scenes.append((255 * frames).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(scenes)


if __name__ == "__main__":
    main()
