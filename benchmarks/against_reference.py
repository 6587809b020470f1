"""Engines against the eager reference in the original's order, frame by frame in one process.

    M=streamdiffvsr.benchmarks.against_reference
    python -m $M --model tests/data/parity_model --size 128x96
    python -m $M --preset full --size 64x64

Both see the same frames and noise; their frames alternate, so a machine whose speed drifts drifts
for both, and the ratio is taken pair by pair. Peak memory is of two further processes that run one
of the two each, from start to the last frame. The first frame of each (no guidance) and a warm-up
frame are not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..building import builder
from ..engines.device import Stream
from ..engines.protocol import Bound, Buffer, Engine
from ..runtime.noise import frame_noise
from ..runtime.upscaler import Upscaler, load
from ..spec import GraphSpec, padded_size
from .machine import describe_machine, peak_memory_mb

WARM_UP = 2
MODULE = "streamdiffvsr.benchmarks.against_reference"
Step = Callable[[], Any]


def main() -> None:
    """Build what is needed, measure, print a line a frame and the JSON."""
    options = _parse()
    if options.only:
        _run_alone(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(options.model) if options.model else _random_model(scratch, options.preset)
        engines = Path(options.engines or Path(scratch) / "engines")
        builder.build(model, size=options.size, out=engines, progress=_say)
        memory = {who: _memory(who, model, engines, options) for who in ("reference", "engines")}
        result = _compare(model, engines, options)
    width, height = options.size[1], options.size[0]
    print(
        json.dumps(
            {
                "benchmark": "against_reference",
                "model": options.model or options.preset,
                "input": f"{width}x{height}",
                "output": f"{4 * width}x{4 * height}",
                "precision": "fp32",
                "timed": "one guided frame, uint8 in to uint8 out, no decoding or encoding",
                **result,
                "peak_memory_mb": memory,
                "machine": describe_machine(),
            }
        )
    )


def _compare(model: Path, engines: Path, options: argparse.Namespace) -> dict[str, Any]:
    stages: dict[str, float] = {}
    upscaler = _timed_upscaler(load(engines), stages)
    ours, theirs = _engine_step(upscaler), _reference_step(model, options.size)
    seconds: dict[str, list[float]] = {"engines": [], "reference": []}
    difference = 0.0
    for i in range(WARM_UP + options.frames):
        if i == WARM_UP:
            stages.clear()
        a, raw = _timed(ours)
        b, expected = _timed(theirs)
        difference = max(difference, float(np.abs(raw - expected).max()))
        if i >= WARM_UP:
            seconds["engines"].append(a)
            seconds["reference"].append(b)
            _say(f"engines {a:.3f} s  reference {b:.3f} s  ratio {b / a:.2f}")
    ratios = np.array(seconds["reference"]) / np.array(seconds["engines"])
    return {
        "frames": options.frames,
        "seconds_median": {who: round(float(np.median(s)), 4) for who, s in seconds.items()},
        "ratio_median": round(float(np.median(ratios)), 3),
        "ratio_min_max": [round(float(ratios.min()), 3), round(float(ratios.max()), 3)],
        "stage_ms_per_frame": {
            k: round(1e3 * v / options.frames, 1) for k, v in sorted(stages.items())
        },
        "raw_difference": difference,
    }


def _engine_step(upscaler: Upscaler) -> Step:
    frames, state = _frames(upscaler.size), upscaler.initial_state()

    def step() -> Any:
        nonlocal state
        _, state = upscaler.step(next(frames), state)
        return state.previous_hr

    return step


def _reference_step(model: Path, size: tuple[int, int]) -> Step:
    from ..export.model import load_model
    from ..export.reference import Reference, ReferenceState

    reference, state, frames = Reference(load_model(model)), ReferenceState(), _frames(size)
    shape, index = (reference.model.configs.vae.latent_channels, *padded_size(size)), 0

    def step() -> Any:
        nonlocal state, index
        _, _, state = reference.step(next(frames), state, frame_noise(0, index, shape))
        index += 1
        assert state.previous_hr is not None
        return state.previous_hr.numpy()

    return step


def _timed_upscaler(upscaler: Upscaler, totals: dict[str, float]) -> Upscaler:
    """The same, adding the seconds spent in each graph to `totals` by its name."""
    engines = {name: _TimedEngine(engine, totals) for name, engine in upscaler.engines.items()}
    return Upscaler(upscaler.manifest, engines)


@dataclass(frozen=True)
class _TimedEngine:
    """An engine that adds its time to `totals`."""

    engine: Engine
    totals: dict[str, float]

    def describe(self) -> GraphSpec:
        return self.engine.describe()

    def bind(self, buffers: Mapping[str, Buffer]) -> _TimedEngine.Run:
        return self.Run(self, self.engine.bind(buffers))

    @dataclass(frozen=True)
    class Run:
        of: _TimedEngine
        bound: Bound

        def enqueue(self, stream: Stream | None = None) -> None:
            name, started = self.of.describe().name, time.perf_counter()
            self.bound.enqueue(stream)
            took = time.perf_counter() - started
            self.of.totals[name] = self.of.totals.get(name, 0.0) + took


def _frames(size: tuple[int, int]) -> Any:
    """A texture that moves a pixel a frame."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (size[0] // 4 + 1, size[1] // 4 + 65, 3), dtype=np.uint8)
    texture = coarse.repeat(4, axis=0).repeat(4, axis=1)
    index = 0
    while True:
        yield np.ascontiguousarray(texture[: size[0], index % 200 : index % 200 + size[1]])
        index += 1


def _timed(step: Step) -> tuple[float, Any]:
    started = time.perf_counter()
    result = step()
    return time.perf_counter() - started, result


def _memory(who: str, model: Path, engines: Path, options: argparse.Namespace) -> int:
    """Peak resident megabytes of a process that runs only `who`, three frames."""
    size = f"{options.size[1]}x{options.size[0]}"
    command = [sys.executable, "-m", MODULE, "--only", who, "--model", str(model), "--size", size]
    command += ["--engines", str(engines)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])


def _run_alone(options: argparse.Namespace) -> None:
    if options.only == "engines":
        step = _engine_step(load(options.engines))
    else:
        step = _reference_step(Path(options.model), options.size)
    for _ in range(3):
        step()
    print(peak_memory_mb())


def _random_model(scratch: str, preset: str) -> Path:
    from ..export.random_model import write_random_model

    _say(f"writing a random {preset} model")
    return write_random_model(Path(scratch) / "model", preset=preset, dtype="float16")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="model folder; otherwise --preset with random weights")
    parser.add_argument("--preset", default="parity", choices=("small", "tiny", "parity", "full"))
    parser.add_argument("--size", type=_size, default="128x96", metavar="WxH")
    parser.add_argument("--frames", type=int, default=7)
    parser.add_argument("--engines", help="folder of an engine set to keep and use again")
    parser.add_argument("--only", choices=("engines", "reference"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(height), int(width)


if __name__ == "__main__":
    main()
