"""Everything to ask of an NVIDIA GPU, in one command of eight minutes.

    python -m streamdiffvsr.benchmarks.gpu --out benchmarks/results

Every backend is tried: whether it works, its engines against the reference (the gate of the build),
and overlapped, captured frames against the plain loop, bit for bit. Then the full-size model with
random weights is timed at 320x180, 128x128 and 480x270 on each backend that works, in fp16. What a
backend that refuses has said is in the result, and what was not reached in time is told. The model
and the engines are kept in a folder, and used again by the next run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .. import build
from ..engines.choice import ORDER, default_precision, why_not
from ..engines.gpu import why_no_gpu
from ..engines.manifest import read_manifest
from ..runtime.state import StreamState
from ..runtime.upscaler import AHEAD, load
from ..spec import Size, format_size
from .latency.frames import endless
from .latency.run import Benchmark, Settings
from .machine import describe_machine
from .report.written import write_text

SMALL: Size = (48, 64)
SIZES: tuple[Size, ...] = ((180, 320), (128, 128), (270, 480))
FRAMES = 24  # that are compared
TIMED = 60
MEASURING_S = 45.0  # of a size, with all of its backends, as a guess of what is left


@dataclass(slots=True)
class Checks:
    """What was asked of each backend, and a clock that runs out.

    Attributes:
        rows: As `checks` of a result.
        late: What was not reached.
    """

    deadline: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def in_time(self, what: str, needed_s: float = 0.0) -> bool:
        """Whether there is time for it; noted where there is not."""
        if time.monotonic() + needed_s < self.deadline:
            return True
        self.late.append(what)
        return False

    def works(self, backend: str) -> bool:
        """Whether it passed."""
        return any(row["backend"] == backend and row["works"] for row in self.rows)


def main() -> None:
    """Check, measure, write the result and print where it is."""
    options = _parse()
    if options.device == "cuda" and (obstacle := why_no_gpu()):
        sys.exit(f"there is no GPU to measure: {obstacle}; see streamdiffvsr doctor")
    checks = Checks(time.monotonic() + 60 * options.minutes)
    backends = [name for name, device in ORDER if device == options.device]
    for backend in backends:
        if checks.in_time(f"checks of {backend}"):
            checks.rows.append(check_backend(backend, options.device, options.folder))
            _say(json.dumps(checks.rows[-1]))
    folders = _full_size(checks, backends, options)
    benchmark = Benchmark(Settings(frames=TIMED, rounds=3, baselines=()), _say)
    benchmark.run(folders)
    result = benchmark.result() | {"command": sys.argv[1:], "checks": checks.rows}
    if checks.late:
        late = f"not reached in {options.minutes:g} minutes: {', '.join(checks.late)}"
        told = [result["stopped"], late] if result["stopped"] else [late]
        result |= {"complete": False, "stopped": "; ".join(told)}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{time.strftime('%Y-%m-%d')}-{_machine_name()}-gpu.json"
    write_text(path, json.dumps(result, indent=1) + "\n")
    print(json.dumps({"benchmark": "gpu", "result": str(path), "checks": checks.rows}))


def check_backend(backend: str, device: str, folder: Path) -> dict[str, Any]:
    """Build the built-in model small, and compare; a refusal is an answer, not an error."""
    row: dict[str, Any] = {"backend": backend, "device": device, "works": False, "said": ""}
    row["said"] = why_not(backend, device)
    if row["said"]:
        return row
    out = folder / f"tiny_{backend}_{device}"
    try:
        precision = default_precision(device)
        build("tiny", size=SMALL, backend=backend, device=device, precision=precision, out=out)
        for mode in AHEAD:
            row[f"{mode}_equal"] = _overlap_is_equal(out, mode)
        row["gate"] = read_manifest(out).gate
        row["works"] = all(row[f"{mode}_equal"] for mode in AHEAD)
    except Exception as error:  # each library fails in its own ways: its words are the result
        row["said"] = " ".join(f"{type(error).__name__}: {error}".split())
    return row


def _overlap_is_equal(engines: Path, mode: Any) -> bool:
    upscaler = load(engines)
    frames = list(islice(endless(upscaler.size), FRAMES))
    state, expected = StreamState(seed=1), []
    for frame in frames:
        out, state = upscaler.step(frame, state)
        expected.append(out)
    got = list(upscaler.stream(frames, StreamState(seed=1), overlap=True, mode=mode))
    return all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def _full_size(checks: Checks, backends: list[str], options: argparse.Namespace) -> list[Path]:
    """Engine sets of the full-size model, as many as there is time for."""
    folders: list[Path] = []
    longest = 0.0  # of the builds so far: the next will not be much quicker
    working = [backend for backend in backends if checks.works(backend)]
    if not working:
        return folders
    model = options.model or _random_model(options.folder, options.preset)
    for size in SIZES:
        for backend in working:
            what = f"{format_size(size)} on {backend}"
            measuring = MEASURING_S * (1 + len(folders) / len(working))
            if not checks.in_time(what, longest + measuring):
                continue
            out = options.folder / f"{options.preset}_{format_size(size)}_{backend}"
            _say(f"building {what}")
            started = time.monotonic()
            try:
                precision = default_precision(options.device)
                build(
                    model, size=size, backend=backend, device=options.device,
                    precision=precision, out=out, tile=None, progress=_say,
                )  # fmt: skip
                folders.append(out)
            except Exception as error:
                told = " ".join(f"{type(error).__name__}: {error}".split())
                checks.late.append(f"{what} ({told})")
            longest = max(longest, time.monotonic() - started)
    return folders


def _random_model(folder: Path, preset: str) -> Path:
    from ..export.random_model import write_random_model

    model = folder / f"random_{preset}"
    if not (model / "unet").is_dir():
        _say(f"writing a random {preset} model")
        write_random_model(model, preset=preset, dtype="float16")
    return model


def _machine_name() -> str:
    """Of the GPU, or else of the processor, as a file may be called."""
    machine = describe_machine()
    gpu: Any = machine["gpu"]
    name = str(machine["cpu"]) if gpu is None else str(gpu["name"])
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--folder", type=Path, default=Path("build/gpu"), help="model and engines")
    parser.add_argument("--model", type=Path, help="a model folder, in place of random weights")
    parser.add_argument("--preset", default="full", choices=("small", "tiny", "parity", "full"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--minutes", type=float, default=8.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
