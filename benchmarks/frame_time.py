"""How long a frame takes, from uint8 in host memory to uint8 in host memory, on any backend.

    python -m streamdiffvsr.benchmarks.frame_time --size 320x180
    python -m streamdiffvsr.benchmarks.frame_time --engines DIR --frames 300

Without `--engines` the built-in model is built for what works best here. Decoding and encoding of
video are not in it. In `latency` mode a frame is taken when the one before it was given: its time
is its latency. In `throughput` mode consecutive frames overlap where they run on streams: the time
is between two that are given. Host time is what putting a frame on the streams costs the caller.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..building import builder
from ..cli_options import BUILT_IN, BuildOptions, parse_size
from ..runtime.state import StreamState
from ..runtime.upscaler import AHEAD, Mode, Upscaler, load
from ..spec import SCALE, Size, format_size
from .machine import describe_machine, peak_memory_mb

WARM_UP = 8  # every slot of a ring has been captured by then
Image = npt.NDArray[np.uint8]


def main() -> None:
    """Measure both modes, and print the JSON."""
    options = _parse()
    upscaler = load(options.engines or _build(options))
    key, size = upscaler.manifest.key, upscaler.size
    modes = {mode: measure(upscaler, mode, options.frames) for mode in AHEAD}
    print(
        json.dumps(
            {
                "benchmark": "frame_time",
                "model": upscaler.manifest.model_name,
                "backend": key.backend,
                "device": key.device,
                "precision": key.precision,
                "steps": key.steps,
                "input": format_size(size),
                "output": format_size((SCALE * size[0], SCALE * size[1])),
                "timed": "uint8 to uint8 in host memory, no decoding or encoding",
                "frames": options.frames,
                "modes": modes,
                "peak_host_memory_mb": peak_memory_mb(),
                "machine": describe_machine(),
            }
        )
    )


def measure(upscaler: Upscaler, mode: Mode, count: int) -> dict[str, Any]:
    """Figures of `count` frames after a warm-up, in ms."""
    stream = upscaler.stream(_frames(upscaler.size, WARM_UP + count + 1), mode=mode)
    for _ in islice(stream, WARM_UP):
        pass
    times = []
    for _ in range(count):
        started = time.perf_counter()
        next(stream)
        times.append(1e3 * (time.perf_counter() - started))
    stream.close()
    result = {**_quantiles(times), "fps": round(1e3 * count / sum(times), 3)}
    if upscaler.in_slots:
        result |= _host_time(upscaler, mode, count)
    return result


def _host_time(upscaler: Upscaler, mode: Mode, count: int) -> dict[str, Any]:
    """What it costs to put a frame on the streams, and what is not captured."""
    ring = upscaler.ring(AHEAD[mode])
    ring.start(StreamState())
    times = []
    for frame in _frames(upscaler.size, WARM_UP + count):
        started = time.perf_counter()
        ring.begin(frame)
        times.append(1e3 * (time.perf_counter() - started))
        ring.finish()
    ring.schedule.close()
    return {"host": _quantiles(times[WARM_UP:]), "not_captured": ring.schedule.plain}


def _quantiles(times: list[float]) -> dict[str, float]:
    names = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}
    return {name: round(float(np.percentile(times, at)), 3) for name, at in names.items()}


def _frames(size: Size, count: int) -> Iterator[Image]:
    """A picture that moves by a pixel a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for index in range(count):
        yield np.ascontiguousarray(np.roll(noise, index, axis=1))


def _build(options: argparse.Namespace) -> Path:
    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    wanted = BuildOptions(
        backend=options.backend, precision=options.precision, device=options.device
    )
    size = parse_size(options.size, "--size")
    return builder.build(options.model, size=size, progress=tell, **wanted.settled(tell))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=Path, help="an engine set, in place of what follows")
    parser.add_argument("--model", default=BUILT_IN)
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision")
    parser.add_argument("--frames", type=int, default=100)
    return parser.parse_args()


if __name__ == "__main__":
    main()
