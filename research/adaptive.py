"""Quality against compute in adaptive mode: what the model adds with all tiles, some, or none.

    python -m streamdiffvsr.research.adaptive
    python -m streamdiffvsr.research.adaptive --film mine.mp4 --plot curves.png

Clips are photographs under known motion, with cuts, flashes, fades and noise, and films of your
own, which are the truth and are scaled down for the input. Each is upscaled by interpolation, by
whole frames, by all tiles of every frame, and by a share of them. Prints a table and, as its last
line, JSON; `--plot` draws the curves.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..benchmarks.machine import describe_machine
from ..building.provider import EngineProvider
from ..building.request import BuildRequest
from ..errors import StreamDiffVSRError
from ..graphs.spec import SCALE, format_size
from ..runtime.adaptive.tile_engine import TILE, TileEngine, load_tile_engine
from ..runtime.adaptive.upscaler import AdaptiveUpscaler
from ..runtime.media.reader import FileSource
from ..runtime.upscaler import load
from .quality.clips import Frames, Moves, Picture, background, low, pictures, shown, thing, to_uint8
from .quality.measure import rounded, upscale
from .quality.metrics import bicubic_frames, psnr
from .training.degrade import CLEAN, Degradation, degrade
from .training.scenes import Layer

SIZE = (160, 256)  # LR (h, w): 28 tiles of 48 pixels
FRAMES, QUICK_FRAMES = 24, 4
SHARES = (0.25, 0.14, 0.07)  # of the tiles, in each frame
SEED = 2026
PANEL = (320, 460)  # HR (h, w) of each part of the picture
SENSOR = Degradation(noise=1.0)
NOISY = Degradation(noise=3.0, crf=20)
MOVES: dict[str, Moves] = {
    "pan": {"pan": (2.3, 0.7)},
    "fast pan": {"pan": (13.0, 4.0)},
    "zoom": {"zoom": 0.008},
    "turn": {"turn": 0.7, "pan": (0.4, -0.3)},
}
SHAKE = 3.0  # HR pixels: standard deviation of a hand's movement from frame to frame
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AdaptiveClip:
    """A clip, its truth, and where its scenes begin.

    Attributes:
        lr: (T, h, w, 3) uint8 RGB.
        truth: (T, 4h, 4w, 3) uint8 RGB.
        cuts: The indices of the frames that begin a scene, without the first.
    """

    name: str
    lr: Frames
    truth: Frames
    cuts: tuple[int, ...] = ()


def makers(source: Picture, other: Picture, frames: int) -> Iterator[Callable[[], AdaptiveClip]]:
    """Yields functions that make one clip each, so that only one is in memory."""
    for kind, moves in MOVES.items():
        yield partial(_moving, kind, source, frames, moves)
    yield partial(_shaken, source, frames)
    yield partial(_layers, "layers", source, other, frames, {"pan": (-0.9, 0.4)}, CLEAN)
    yield partial(_layers, "camera", source, other, frames, {}, SENSOR)
    yield partial(_layers, "noise", source, other, frames, {}, NOISY)
    for kind in ("cuts", "dissolve", "flash", "fade"):
        yield partial(_edited, kind, source, other, frames)


def _clip(name: str, layers: list[Layer], how: Degradation = CLEAN) -> AdaptiveClip:
    clip = shown(layers, SIZE)
    return AdaptiveClip(name, low(clip, how), to_uint8(clip.frames))


def _moving(kind: str, source: Picture, frames: int, moves: Moves) -> AdaptiveClip:
    return _clip(f"{source[0]} {kind}", [background(source, SIZE, frames, **moves)])


def _shaken(source: Picture, frames: int) -> AdaptiveClip:
    layer = background(source, SIZE, frames)
    hand = np.random.default_rng(SEED).normal(0, SHAKE, (frames, 2))
    poses = layer.poses.clone()
    poses[:, :2, 2] += torch.from_numpy(hand + np.cumsum(hand, axis=0) / 2)
    return _clip(f"{source[0]} shake", [Layer(layer.texture, None, poses)])


def _layers(
    kind: str, source: Picture, other: Picture, frames: int, moves: Moves, how: Degradation
) -> AdaptiveClip:
    layers = [background(source, SIZE, frames, **moves), thing(other, SIZE, frames)]
    return _clip(f"{source[0]} {kind}", layers, how)


def _edited(kind: str, source: Picture, other: Picture, frames: int) -> AdaptiveClip:
    """Makes a clip whose brightness or scene changes, of two that pan slowly."""
    first, second = (_moving(kind, one, frames, {"pan": (0.8, 0.3)}) for one in (source, other))
    time = np.arange(frames, dtype=np.float32)[:, None, None, None]
    third = max(frames // 3, 1)

    def edit(a: Frames, b: Frames) -> Frames:
        edited: npt.NDArray[np.floating[Any]]
        if kind == "cuts":
            edited = np.where(time // third == 1, b, a).astype(np.float32)
        elif kind == "dissolve":
            edited = a + (b - a.astype(np.float32)) * time / max(frames - 1, 1)
        elif kind == "fade":
            edited = a * (1 - 0.9 * time / max(frames - 1, 1))
        else:
            edited = a + np.float32(90) * np.isin(time % 8, (3, 4))
        return np.clip(np.rint(edited), 0, 255).astype(np.uint8)

    cuts = (third, 2 * third) if kind == "cuts" else ()
    lr, truth = edit(first.lr, second.lr), edit(first.truth, second.truth)
    return AdaptiveClip(f"{source[0]} {kind}", lr, truth, cuts)


def film(path: Path, start: int, frames: int) -> AdaptiveClip:
    """Returns frames of a video file; what does not fill a whole LR pixel is cut off.

    Raises:
        StreamDiffVSRError: It has no frames there, or cannot be read.
    """
    truth: list[npt.NDArray[np.uint8]] = []
    with FileSource(path) as source:
        for frame in islice(source, start, start + frames):
            height, width = (side - side % SCALE for side in frame.image.shape[:2])
            truth.append(frame.image[:height, :width])
    if not truth:
        raise StreamDiffVSRError(f"{path} has no frame {start}", remedy="choose a smaller --start")
    stacked = np.stack(truth)
    whole = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
    lr = to_uint8(degrade(whole, CLEAN, np.random.default_rng(SEED)))
    return AdaptiveClip(path.stem, lr, stacked)


def tiled(upscaler: AdaptiveUpscaler, clip: AdaptiveClip, tiles: int) -> Values:
    """Returns the (T,) PSNR of a clip with so many tiles a frame."""
    state, outputs = upscaler.initial_state(), []
    for index, frame in enumerate(clip.lr):
        state = state.reset() if index in clip.cuts else state
        out, state = upscaler.step(frame, state, tiles=tiles)
        outputs.append(out)
    return psnr(np.stack(outputs), clip.truth)


def measure(
    provider: EngineProvider, engine: TileEngine, clip: AdaptiveClip, shares: Sequence[float]
) -> dict[str, Any]:
    """Returns the figures of one clip, for the JSON.

    Gains are in dB over bicubic, means over the frames, and over the second half ("settled").
    `worst` is a frame's PSNR against the lower of bicubic's and the whole-frame model's, at least.
    """
    size = (clip.lr.shape[1], clip.lr.shape[2])
    bicubic = psnr(bicubic_frames(clip.lr), clip.truth)
    whole = psnr(upscale(load(provider.get(size)), clip.lr, resets=clip.cuts), clip.truth)
    upscaler = AdaptiveUpscaler(engine, size)
    every = tiled(upscaler, clip, upscaler.tile_count)
    floor, half = np.minimum(bicubic, whole), len(clip.lr) // 2

    def figures(values: Values) -> dict[str, float]:
        return {
            "gain": float((values - bicubic).mean()),
            "settled_gain": float((values - bicubic)[half:].mean()),
            "worst": float((values - floor).min()),
        }

    points = [{"tiles": 0, **figures(tiled(upscaler, clip, 0))}]
    for share in sorted(shares):
        count = max(1, round(share * upscaler.tile_count))
        points.append({"tiles": count, **figures(tiled(upscaler, clip, count))})
    points.append({"tiles": upscaler.tile_count, **figures(every)})
    return {
        "name": clip.name,
        "input": format_size(size),
        "frames": len(clip.lr),
        "tile_count": upscaler.tile_count,
        "bicubic": float(bicubic.mean()),
        "whole": figures(whole),
        "points": points,
    }


def table(clips: Sequence[dict[str, Any]]) -> str:
    """Returns the figures as a Markdown table; shares are of the gain of all tiles."""
    shares = [point["tiles"] for point in clips[0]["points"][1:-1]]
    head = ["clip", "bicubic", "whole", "all tiles", *(f"{n} tiles" for n in shares), "worst"]
    rows = [head, ["---"] * len(head)]
    for clip in clips:
        every = clip["points"][-1]
        cells = [
            f"{100 * p['gain'] / every['gain']:.0f} % "
            f"({100 * p['settled_gain'] / every['settled_gain']:.0f})"
            for p in clip["points"][1:-1]
        ]
        worst = min(point["worst"] for point in clip["points"])
        gains = [f"{clip[what]['gain']:+.2f}" for what in ("whole",)] + [f"{every['gain']:+.2f}"]
        rows.append([clip["name"], f"{clip['bicubic']:.2f}", *gains, *cells, f"{worst:+.2f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(clips: Sequence[dict[str, Any]], file: Path) -> None:
    """Draws the gain over bicubic against the share of tiles, with whole frames as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(4, len(clips))
    rows = -(-len(clips) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3.2 * columns, 2.5 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(clips) :]:
        axis.remove()
    for axis, clip in zip(axes.flat, clips, strict=False):
        share = [100 * p["tiles"] / clip["tile_count"] for p in clip["points"]]
        axis.axhline(0, color="0.6", linestyle=":", label="bicubic")
        axis.axhline(clip["whole"]["gain"], color="tab:orange", label="whole frames")
        gains = [p["gain"] for p in clip["points"]]
        axis.plot(share, gains, "o-", color="tab:blue", label="adaptive")
        axis.set_title(clip["name"], fontsize=9)
        axis.set_ylim(bottom=min(0, *gains) - 0.05)
    axes[0][0].legend(fontsize=7)
    figure.supxlabel("tiles refined in each frame, %")
    figure.supylabel("PSNR over bicubic, dB")
    figure.savefig(file, dpi=110)


def panels(
    provider: EngineProvider, engine: TileEngine, clip: AdaptiveClip, share: float, file: Path
) -> None:
    """Draws the middle of a clip's last frame, interpolated, made by a share of the tiles, and
    whole, and below it the truth, and the freshness of the canvas."""
    from PIL import Image

    size = (clip.lr.shape[1], clip.lr.shape[2])
    upscaler = AdaptiveUpscaler(engine, size)
    state = upscaler.initial_state()
    for frame in clip.lr:
        tiles = max(1, round(share * upscaler.tile_count))
        ours, state = upscaler.step(frame, state, tiles=tiles)
    whole = upscale(load(provider.get(size)), clip.lr, resets=clip.cuts)[-1]
    plain = bicubic_frames(clip.lr[-1:])[0]
    fresh = np.kron(state.fresh, np.ones((SCALE, SCALE), np.float32))[..., None]
    red, green = np.array([220, 40, 40]), np.array([40, 200, 80])
    colours = (0.5 * ours + 0.5 * (red + (green - red) * fresh)).astype(np.uint8)
    rows = [[plain, ours, whole], [clip.truth[-1], colours, np.full_like(ours, 255)]]
    top, left = (SCALE * side // 2 - wanted // 2 for side, wanted in zip(size, PANEL, strict=True))
    cut = np.s_[top : top + PANEL[0], left : left + PANEL[1]]
    grid = np.concatenate([np.concatenate([one[cut] for one in row], axis=1) for row in rows])
    Image.fromarray(grid).save(file, quality=88)


def main(arguments: list[str] | None = None) -> None:
    """Builds what is needed, measures, and prints the table and the JSON."""
    options = _parse(arguments)
    try:
        result = _measure(options)
    except StreamDiffVSRError as error:
        sys.exit(f"error: {error}")
    line = json.dumps(result)
    if options.json:
        options.json.write_text(line + "\n", encoding="utf-8")
    print(line)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    frames = options.frames or (QUICK_FRAMES if options.quick else FRAMES)
    provider = EngineProvider(BuildRequest(model=options.model), _say)
    engine = load_tile_engine(provider.get((TILE, TILE)))
    making: list[Callable[[], AdaptiveClip]]
    if options.film:
        making = [partial(film, path, options.start, frames) for path in options.film]
    else:
        sources = pictures(options.photographs, [])
        making = [
            make
            for source, other in zip(sources, [*sources[1:], sources[0]], strict=True)
            for make in makers(source, other, frames)
        ]
    clips = []
    for make in making[:2] if options.quick else making:
        clip = make()
        _say(f"{clip.name}, {len(clip.lr)} frames of {format_size(clip.lr.shape[1:3])}")
        clips.append(measure(provider, engine, clip, options.shares))
    print(table(clips))
    if options.plot:
        plot(clips, options.plot)
    if options.picture:
        panels(provider, engine, making[0](), options.shares[0], options.picture)
    return {
        "benchmark": "adaptive",
        "model": options.model,
        "tile": engine.tile,
        "clips": rounded(clips),
        "machine": describe_machine(),
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", default="tiny", help="tiny (built in), a folder, or a repository"
    )
    parser.add_argument(
        "--photographs",
        default="validation",
        choices=("validation", "test"),
        help="those looked at while training, or those kept for the finished weights",
    )
    parser.add_argument("--film", type=Path, nargs="+", default=[], help="films, in place of them")
    parser.add_argument("--start", type=int, default=0, help="the film's first frame")
    parser.add_argument("--frames", type=int, help=f"of a clip (default {FRAMES})")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=SHARES, help="of the tiles, in each frame"
    )
    parser.add_argument("--quick", action="store_true", help="two clips of few frames")
    parser.add_argument("--plot", type=Path, help="draw the curves into this PNG file")
    parser.add_argument(
        "--picture", type=Path, help="draw a frame of the first clip into this file"
    )
    parser.add_argument("--json", type=Path, help="write the JSON line to this file too")
    options = parser.parse_args(arguments)
    if options.frames is not None and options.frames < 2:
        parser.error("--frames must be at least 2")
    if any(not 0 < share < 1 for share in options.shares):
        parser.error("--shares must be above 0 and below 1")
    return options


if __name__ == "__main__":
    main()
