"""Measures fp8's cost in picture quality without a GPU: the quantised graph in ONNX Runtime.

    python -m streamdiffvsr.research.quality.fp8 --model tiny --size 160x88 --frames 96
    python -m streamdiffvsr.research.quality.fp8 --input mine.mp4 --size 320x180

A video goes through the model in fp32, in fp16, and in fp16 with the quantised `denoise`, each
frame guided by that precision's own last one. The PSNR of the frames against fp32's is reported; at
the size of the built-in clip, also against the one true picture that belongs to it. A clip that is
too short is played back and forth, so that every frame follows its neighbour. A GPU's engine of the
graph may differ within the parity gate. The JSON is the last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..._about import CLIP, TRUTH, TRUTH_FRAME
from ...building.builder import build
from ...building.fp8 import GRAPH, calibration_inputs, fitted, require_quantiser
from ...engines.onnxruntime_backend import OrtEngine
from ...errors import StreamDiffVSRError
from ...export.model import load_model
from ...export.model_source import resolve_model
from ...export.quantisation import quantise
from ...graphs.spec import Size, onnx_file
from ...runtime.files.compare import psnr, read_picture
from ...runtime.media.reader import FileSource
from ...runtime.upscaler import Image, Upscaler, load

SAME = 99.0  # dB, for equal frames


def main() -> None:
    """Measures, then prints a table and the JSON."""
    options = _parse()
    height, width = (int(side) for side in reversed(options.size.split("x")))
    try:
        require_quantiser()
        result = _measure(options, (height, width))
    except StreamDiffVSRError as error:
        sys.exit(f"error: {error}")
    for name, found in result["precisions"].items():
        print(name, *(f"{key} {value}" for key, value in found.items()), sep="  ")
    print(json.dumps(result))


def _measure(options: argparse.Namespace, size: Size) -> dict[str, Any]:
    frames = _frames(options.input, size, options.frames)
    truth = read_picture(TRUTH) if options.input == CLIP else None
    with tempfile.TemporaryDirectory(prefix="streamdiffvsr-fp8-") as folder:
        upscalers = _upscalers(options.model, size, Path(folder))
        outputs = {name: list(up.stream(frames)) for name, up in upscalers.items()}
    exact = outputs["fp32"]
    found: dict[str, dict[str, float]] = {}
    for name, given in outputs.items():
        scores = [round(min(SAME, psnr(a, b)), 2) for a, b in zip(given, exact, strict=True)]
        if name != "fp32":
            found[name] = {"first": scores[0], "last": scores[-1]}
            found[name] |= {"median": round(median(scores), 2), "worst": min(scores)}
        if truth is not None and truth.shape == given[0].shape and len(given) > TRUTH_FRAME:
            found.setdefault(name, {})["truth"] = round(psnr(given[TRUTH_FRAME], truth), 3)
    return {
        "benchmark": "fp8_quality",
        "model": options.model,
        "input": options.input.name,
        "size": options.size,
        "frames": len(frames),
        "precisions": found,
    }


def _upscalers(model: str, size: Size, folder: Path) -> dict[str, Upscaler]:
    """Returns an upscaler for each precision; all run on the CPU."""
    sets = {p: build(model, size=size, precision=p, progress=_say) for p in ("fp32", "fp16")}
    fp32, fp16, fp8 = load(sets["fp32"]), load(sets["fp16"]), load(sets["fp16"])
    graphs = fp16.manifest.graphs
    path = folder / onnx_file(GRAPH)
    for part in sets["fp16"].glob(f"{path.name}*"):
        (folder / part.name).write_bytes(part.read_bytes())
    source = resolve_model(model, None)
    inputs = calibration_inputs(
        load_model(source), graphs.geometry, graphs.steps, graphs.correlation, _say
    )
    quantise(path, inputs, lambda fraction: _say(f"quantise {fraction:.0%}"))
    engines = dict(fp8.engines) | {GRAPH: OrtEngine(path, graphs.specs()[GRAPH])}
    return {"fp32": fp32, "fp16": fp16, "fp8": Upscaler(fp8.manifest, engines)}


def _frames(path: Path, size: Size, count: int) -> Sequence[Image]:
    """Returns the first frames of a video, back and forth if it has fewer."""
    taken: list[Image] = []
    with FileSource(path) as source:
        for frame in source:
            taken.append(fitted(frame.image, size))
            if len(taken) == count:
                return taken
    there_and_back = taken + taken[-2:0:-1]
    return [there_and_back[index % len(there_and_back)] for index in range(count)]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", default="tiny", help="tiny (built in), a folder, or a repository"
    )
    parser.add_argument("--size", default="160x88", metavar="WxH", help="of the input, cut to it")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--input", type=Path, default=CLIP, help="a video; the built-in clip")
    return parser.parse_args()


if __name__ == "__main__":
    main()
