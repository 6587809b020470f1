"""Checks one backend on one device: it works, and its frames equal the CPU's in every mode.

    python -m streamdiffvsr.research.gpu.check torch cuda --folder build/gpu

It runs in a process of its own, so that a backend that crashes or hangs affects nothing else:
`research.gpu` runs it and reads the row that it prints as its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ... import build
from ...benchmarks.observed import ObservedDevice
from ...benchmarks.statistics import endless
from ...engines.manifest import EngineKey, read_manifest
from ...engines.registry import default_precision, why_not
from ...graphs.spec import GRAPH_VERSION, Size, format_size
from ...runtime.frame_slot import CAPTURE
from ...runtime.state import StreamState
from ...runtime.upscaler import FRAMES_AHEAD, Image, Mode, Upscaler, load
from .reference import (
    MODEL,
    SEED,
    SMALL,
    TOLERANCE,
    Reference,
    read_reference,
    set_name,
    stepped,
    why_not_of,
)

MODULE = "streamdiffvsr.research.gpu.check"
COMPARED = 24  # frames, to compare overlapped and captured with plain
Row = dict[str, Any]


def check_backend(
    backend: str, device: str, folder: Path, reference: Path, ahead: Path | None = None
) -> Row:
    """Opens the built-in model, and compares its frames; a failure is reported in the row.

    Args:
        folder: Where engines are built.
        reference: The file that `make_reference` writes.
        ahead: Engine sets that were built elsewhere, used if they open here.
    """
    row: Row = {"backend": backend, "device": device, "works": False}
    row["said"] = why_not(backend, device)
    row["tried"] = not row["said"]
    if row["said"]:
        return row
    started = time.monotonic()
    try:
        expected = read_reference(reference)
        engines, upscaler = _opened(row, folder, ahead)
        row["said"] = why_not_of(expected, engines)
        if not row["said"]:
            _compare(row, upscaler, expected)
    except Exception as error:  # libraries raise anything: the message is the result
        row["said"] = one_line(error)
    row["seconds"] = round(time.monotonic() - started, 2)
    return row


def _opened(row: Row, folder: Path, ahead: Path | None) -> tuple[Path, Upscaler]:
    """Opens the engines built ahead if possible, else builds some; the row says which and why."""
    backend, device = row["backend"], row["device"]
    name = set_name(MODEL, SMALL, backend, device)
    row["engines"] = "built"
    if ahead is not None:
        row["ahead"] = why_not_ahead(ahead / name, backend, device, SMALL)
        try:
            if not row["ahead"]:
                upscaler = load(ahead / name)
                row |= {"engines": "built ahead", "gate": "passed"}
                return ahead / name, upscaler
        except Exception as error:
            row["ahead"] = one_line(error)
    out, precision = folder / name, default_precision(device)
    build(MODEL, size=SMALL, backend=backend, device=device, precision=precision, out=out)
    row["gate"] = read_manifest(out).gate
    return out, load(out)


def _compare(row: Row, upscaler: Upscaler, expected: Reference) -> None:
    precision = upscaler.manifest.graphs.precision
    most, mean = TOLERANCE[precision]
    row["levels_max"], found = expected.differences(upscaler)
    row["levels_mean"] = round(found, 5)
    row["close"] = row["levels_max"] <= most and found <= mean
    frames = list(islice(endless(upscaler.size), COMPARED))
    plain = _plainly(upscaler, frames)
    row["step_equal"] = _equal(stepped(upscaler, frames), plain)
    row["not_captured"] = {} if upscaler.in_slots else None
    for mode in FRAMES_AHEAD:
        streamed = upscaler.stream(frames, StreamState(seed=SEED), overlap=True, mode=mode)
        row[f"{mode}_equal"] = _equal(list(streamed), plain)
        if upscaler.in_slots:
            row["not_captured"] |= _not_captured(upscaler, frames, mode)
    wanted = ("close", "step_equal", *(f"{mode}_equal" for mode in FRAMES_AHEAD))
    failed = [name for name in wanted if not row[name]]
    row["works"] = not failed
    row["said"] = f"wrong frames: not {', '.join(failed)}" if failed else ""


def _plainly(upscaler: Upscaler, frames: list[Image]) -> list[Image]:
    """Returns the frames of a plain run; on a GPU, stages in order on one stream, uncaptured."""
    if not upscaler.in_slots:
        return stepped(upscaler, frames)
    device = ObservedDevice(upscaler.device, one_stream=True)
    variant = Upscaler(upscaler.manifest, upscaler.engines, device)
    return list(variant.stream(frames, StreamState(seed=SEED), mode="latency"))


def _not_captured(upscaler: Upscaler, frames: list[Image], mode: Mode) -> dict[str, str]:
    """Returns the parts of a frame that are put on the streams uncaptured, and why."""
    run = upscaler.run(StreamState(seed=SEED), mode)
    for frame in frames:
        run.begin(frame)
        run.finish()
    return run.plain


def _equal(got: list[Image], expected: list[Image]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def why_not_ahead(engines: Path, backend: str, device: str, size: Size) -> str:
    """Returns why a set that was built ahead is not the requested one, or an empty string."""
    if not engines.is_dir():
        return f"no {engines.name} was brought along"
    key: EngineKey = read_manifest(engines).key
    wanted = {
        "backend": backend,
        "device": device,
        "size": format_size(size),
        "precision": default_precision(device),
        "graph_version": GRAPH_VERSION,
    }
    differ = [name for name, value in wanted.items() if getattr(key, name) != value]
    return f"it differs in {', '.join(differ)}" if differ else ""


def one_line(error: BaseException) -> str:
    """Returns an error's type and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def check_in_child(
    backend: str, device: str, folder: Path, reference: Path, ahead: Path | None, limit_s: float
) -> Row:
    """Runs `check_backend` in a process of its own, which is stopped when its time is over."""
    command = [sys.executable, "-m", MODULE, backend, device, "--folder", str(folder)]
    command += ["--reference", str(reference)]
    command += [] if ahead is None else ["--engines", str(ahead)]
    row: Row = {"backend": backend, "device": device, "works": False, "tried": True}
    said: list[str] = []
    # A library can crash its process in a capture: then it runs again without one.
    for capture in ({}, {CAPTURE: "0"}):
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                text=True,
                timeout=limit_s,
                env=os.environ | capture,
            )
        except subprocess.TimeoutExpired:
            return row | {
                "said": "; ".join([*said, f"it did not end within {limit_s:.0f} seconds"])
            }
        try:
            result: Row = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            how = ", and with nothing captured" if capture else ""
            said.append(f"its process ended with exit code {done.returncode}{how}")
            continue
        if capture:
            works = "it works with nothing captured" if result["works"] else str(result["said"])
            result |= {"works": False, "said": "; ".join([*said, works])}
        return result
    return row | {"said": "; ".join(said)}


def main() -> None:
    """Checks one backend and prints its row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("backend")
    parser.add_argument("device", choices=("cuda", "cpu"))
    parser.add_argument("--folder", type=Path, default=Path("build/gpu"), help="for engines")
    parser.add_argument("--reference", type=Path, required=True, help="the CPU's frames")
    parser.add_argument("--engines", type=Path, help="engine sets that were built ahead")
    given = parser.parse_args()
    row = check_backend(given.backend, given.device, given.folder, given.reference, given.engines)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
