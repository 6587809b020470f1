"""Picture quality of a model: ours against bicubic, and against ours without guidance.

    python -m streamdiffvsr.research.quality
    python -m streamdiffvsr.research.quality --photographs test
    python -m streamdiffvsr.research.quality --images mine.jpg other.png

Clips are photographs under known motion (`clips`), so that the truth and the true flow are there to
measure against (`metrics` defines the figures). "Guidance off" is the same model with the same
noise, each frame without its previous one. Prints a table, every bound with its figure (`report`),
the time of a frame at 160x90 -> 640x360, and the JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...benchmarks.machine import describe_machine
from ...building import builder
from ...engines.host import require_export
from ...errors import StreamDiffVSRError
from ...graphs.spec import Size, format_size
from ...runtime.upscaler import load

FRAMES, DRIFT_FRAMES = 24, 200
QUICK_FRAMES, QUICK_DRIFT_FRAMES = 4, 30
MODULES = {"PIL": "pillow", "skimage": "scikit-image"}
LEAST_FRAMES = 4  # of a clip: a cut needs two frames on each side


def main(arguments: list[str] | None = None) -> None:
    """Builds what is needed, measures, and prints the table, the bounds and the JSON."""
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
    _require()
    from .clips import LARGE, SMALL, makers, pictures, timing_frames
    from .measure import WARM_UP, frame_times, measure_clip, rounded
    from .report import checks, means, table, verdict

    quick = options.quick
    frames = options.frames or (QUICK_FRAMES if quick else FRAMES)
    sources = pictures(options.photographs, options.images)
    upscalers = {size: load(_engines(options, size)) for size in (SMALL, LARGE)}
    clips = []
    for make in makers(sources, frames, QUICK_DRIFT_FRAMES if quick else DRIFT_FRAMES):
        clip = make()
        _say(f"{clip.name}, {len(clip.lr)} frames of {format_size(clip.size)}")
        clips.append(measure_clip(upscalers[clip.size], clip))
    found = checks(clips)
    speed = frame_times(upscalers[LARGE], timing_frames(sources[0], WARM_UP + frames))
    machine = describe_machine()
    print(table(clips))
    print(f"\n{verdict(found)}\n")
    if quick:
        print(f"--quick: the bounds are for {FRAMES} frames a clip, so none above counts\n")
    print(f"{speed['ms_per_frame_median']} ms a frame at 160x90 -> 640x360, {machine['cpu']}")
    return {
        "benchmark": "quality",
        "model": options.model,
        "precision": upscalers[LARGE].manifest.key.precision,
        "photographs": [name for name, _ in sources],
        "clips": clips,
        "mean": rounded(means(clips)),
        "verdict": [check.to_json() for check in found],
        "passed": all(check.passed for check in found),
        "speed": speed,
        "machine": machine,
    }


def _require() -> None:
    """Reports what is missing before engines take minutes to build."""
    require_export()
    if missing := [package for module, package in MODULES.items() if find_spec(module) is None]:
        raise StreamDiffVSRError(
            "picture quality cannot be measured here",
            f"not installed: {', '.join(missing)}",
            "pip install 'streamdiffvsr[train]'",
        )


def _engines(options: argparse.Namespace, size: Size) -> Path:
    out = options.engines_out / format_size(size) if options.engines_out else None
    return builder.build(options.model, size=size, out=out, progress=_say)


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
    parser.add_argument("--images", type=Path, nargs="+", default=[], help="pictures of your own")
    parser.add_argument("--frames", type=int, help=f"of a clip (default {FRAMES})")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few frames, for which the bounds do not hold: does it run at all?",
    )
    parser.add_argument("--engines-out", type=Path, help="keep the engine sets in this folder")
    parser.add_argument("--json", type=Path, help="write the JSON line to this file too")
    options = parser.parse_args(arguments)
    if options.frames is not None and options.frames < LEAST_FRAMES:
        parser.error(f"--frames must be at least {LEAST_FRAMES}")
    return options


if __name__ == "__main__":
    main()
