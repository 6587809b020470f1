"""Everything to ask of an NVIDIA GPU, in one command of eight minutes.

    python -m streamdiffvsr.benchmarks.gpu

Correctness first: each backend, torch before those that a bare machine lacks, is opened in a
process of its own; its frames are held against a CPU's, and overlapped and captured ones against
plain ones, bit for bit. Then the full-size model with random weights is timed at 320x180, 128x128
and 480x270 on each backend that works, in fp16. What a backend that refuses has said is in the
result, and what was not reached in time is told. The result is on disk after every step; the model
and the engines are kept in a folder, and used again by the next run. Ends with exit code 1 if no
backend works, or if anything that was tried failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import build
from ..engines.choice import ORDER, default_precision
from ..engines.gpu import why_no_gpu
from ..errors import StreamDiffVSRError
from ..spec import Size, format_size, parse_size
from .gpu_check import check_in_child, one_line, why_not_ahead
from .gpu_reference import FILE, make_reference, read_reference, set_name
from .gpu_report import Report
from .latency.run import Benchmark, Settings
from .machine import describe_machine
from .report.read import read_result

# What a bare machine has comes first.
BACKENDS = ("torch", "onnxruntime", "tensorrt", "tensorrt-rtx")
SIZES: tuple[Size, ...] = ((180, 320), (128, 128), (270, 480))
TIMED = 60
CHECKING_S = 240.0  # of a backend at most: TensorRT builds a small model in less
MEASURING_S = 45.0  # of a size, with all of its backends, as a guess of what is left
FULL = "full"
RANDOM = "random_"  # before the preset, in the names of folders


@dataclass(frozen=True, slots=True)
class Clock:
    """Time that runs out."""

    deadline: float

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()


def main() -> None:
    """Check, measure, write the result and print where it is."""
    options = _parse()
    if options.device == "cuda" and (obstacle := why_no_gpu()):
        sys.exit(f"there is no GPU to measure: {obstacle}; see streamdiffvsr doctor")
    clock = Clock(time.monotonic() + 60 * options.minutes)
    report = Report(options.json or _usual_path(), sys.argv[1:], options.minutes)
    if options.checked is not None:
        for row in read_result(options.checked).get("checks", []):
            report.add_row(row)
    else:
        _check(report, clock, options)
    if not any(row["works"] for row in report.rows):
        report.fail("no backend works")
    elif not options.no_figures:
        _measure(report, clock, options)
    result = report.save(ended=True)
    told = {name: result[name] for name in ("complete", "stopped", "checks")}
    print(json.dumps({"benchmark": "gpu", "result": str(report.path), **told}))
    sys.exit(1 if report.failed or report.measuring_failed else 0)


def _check(report: Report, clock: Clock, options: argparse.Namespace) -> None:
    """A row of each backend."""
    backends = _backends(options)
    if clock.left() <= 0:
        report.late += [f"the check of {backend}" for backend in backends]
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        reference = _reference(options)
    except Exception as error:
        report.fail(f"no frames of a CPU to compare with: {one_line(error)}")
        return
    for backend in backends:
        limit = min(CHECKING_S, clock.left())
        if limit <= 0:
            report.late.append(f"the check of {backend}")
            continue
        _say(f"checking {backend}")
        row = check_in_child(
            backend, options.device, options.folder, reference, options.engines, limit
        )
        report.add_row(row)
        _say(json.dumps(row))


def _backends(options: argparse.Namespace) -> list[str]:
    """Those that were asked for and exist on the device, in the order they are asked."""
    on_device = {name for name, device in ORDER if device == options.device}
    return [b for b in BACKENDS if b in on_device and b in (options.backend or BACKENDS)]


def _reference(options: argparse.Namespace) -> Path:
    """Where the CPU's frames are: given, brought along, left by an earlier run, or made now."""
    if options.reference is not None:
        read_reference(options.reference)
        return Path(options.reference)
    for folder in (options.engines, options.folder):
        if folder is not None and (folder / FILE).is_file():
            try:
                read_reference(folder / FILE)
                return Path(folder / FILE)
            except StreamDiffVSRError as error:
                _say(str(error))
    return make_reference(options.folder, _say)


def _measure(report: Report, clock: Clock, options: argparse.Namespace) -> None:
    """Time the model, size by size: what is measured of one is whole before the next begins."""
    sizes = [parse_size(size, "--size") for size in options.size] or SIZES
    working = [backend for backend in _backends(options) if report.works(backend)]
    longest = 0.0  # of the builds so far: the next will not be much quicker
    for size in sizes:
        folders: list[Path] = []
        for backend in working:
            what = f"{format_size(size)} on {backend}"
            if clock.left() < longest + MEASURING_S * (1 + len(folders)):
                report.late.append(what)
                continue
            started = time.monotonic()
            try:
                folders.append(_engines(backend, size, options))
            except Exception as error:
                report.fail(f"{what}: {one_line(error)}")
            longest = max(longest, time.monotonic() - started)
            report.save()
        if folders:
            _time_engines(report, folders, options)


def _engines(backend: str, size: Size, options: argparse.Namespace) -> Path:
    """An engine set of the model that is timed: brought along, or built."""
    timed = options.model.name if options.model else f"{RANDOM}{options.preset}"
    name = set_name(timed, size, backend, options.device)
    if options.engines is not None:
        obstacle = why_not_ahead(options.engines / name, backend, options.device, size)
        if not obstacle:
            return Path(options.engines / name)
        _say(f"{name} is built here: {obstacle}")
    model = options.model or _random_model(options.folder, options.preset)
    return build(
        model, size=size, backend=backend, device=options.device,
        precision=default_precision(options.device), out=options.folder / name, tile=None,
        progress=_say,
    )  # fmt: skip


def _time_engines(report: Report, folders: Sequence[Path], options: argparse.Namespace) -> None:
    """Frame times of engine sets side by side; what is known is on disk before each next step."""

    def tell(line: str) -> None:
        _say(line)
        report.save()

    settings = Settings(
        frames=options.frames, rounds=3, baselines=(), around=not options.frames_only
    )
    benchmark = Benchmark(settings, tell)
    report.begins(benchmark)
    benchmark.run(folders)
    report.ends()


def _random_model(folder: Path, preset: str) -> Path:
    from ..export.random_model import write_random_model

    model = folder / f"{RANDOM}{preset}"
    if not (model / "prompt_embeds.safetensors").is_file():  # the last of its files
        _say(f"writing a random {preset} model")
        write_random_model(model, preset=preset, dtype="float16")
    return model


def _usual_path() -> Path:
    return Path("benchmarks/results") / f"{time.strftime('%Y-%m-%d')}-{_machine_name()}-gpu.json"


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
    add = parser.add_argument
    add("--json", type=Path, help="the result; by default benchmarks/results/DATE-MACHINE-gpu.json")
    add("--folder", type=Path, default=Path("build/gpu"), help="model and engines")
    add("--engines", type=Path, help="what gpu_ahead made elsewhere: taken where it opens here")
    add("--reference", type=Path, help="the CPU's frames, in place of making them")
    add("--checked", type=Path, help="an earlier result, whose checks are taken")
    add("--backend", action="append", choices=BACKENDS, help="this one alone; may be repeated")
    add("--no-figures", action="store_true", help="end after the checks")
    add("--frames-only", action="store_true", help="no start-up, files or roofline")
    add("--frames", type=int, default=TIMED, help="that are timed of each mode")
    add("--model", type=Path, help="a model folder, in place of random weights")
    add("--preset", default=FULL, choices=("small", "tiny", "parity", FULL))
    add("--size", action="append", default=[], metavar="WxH", help="may be repeated")
    add("--device", default="cuda", choices=("cuda", "cpu"))
    add("--minutes", type=float, default=8.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
