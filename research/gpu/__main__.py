"""Checks and times every backend; the result is on disk after every change, even after a crash."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import build
from ...benchmarks.machine import describe_machine
from ...benchmarks.report.files import read_result, write_text
from ...benchmarks.run import Benchmark, Settings
from ...engines.backends import order
from ...engines.host import why_no_gpu
from ...engines.registry import default_precision
from ...errors import StreamDiffVSRError
from ...graphs.spec import Size, format_size, parse_size
from .check import Row, check_in_child, one_line, why_not_ahead
from .reference import FILE, make_reference, read_reference, set_name

RUNNING = "it did not end: these are the results up to then"


class Report:
    """The results so far.

    Attributes:
        rows: `checks` of the result.
        failed: What did not work, each in one line.
        late: What there was no time for.
    """

    def __init__(self, path: Path, command: Sequence[str], minutes: float) -> None:
        self.path, self._command, self._minutes = path, list(command), minutes
        self.rows: list[Row] = []
        self.failed: list[str] = []
        self.late: list[str] = []
        self._measured: list[dict[str, Any]] = []
        self._running: Benchmark | None = None
        self._empty = Benchmark(Settings(baselines=()), lambda _: None).result()
        self.save()

    def add_row(self, row: Row) -> None:
        """Adds the row of a checked backend; one that was tried and does not work has failed."""
        self.rows.append(row)
        if row["tried"] and not row["works"]:
            self.failed.append(f"{row['backend']}: {row['said']}")
        self.save()

    def fail(self, line: str) -> None:
        """Adds another failure, in one line."""
        self.failed.append(line)
        self.save()

    def begins(self, benchmark: Benchmark) -> None:
        """Includes what a running benchmark has measured in every result from now on."""
        self._running = benchmark

    def ends(self) -> None:
        """Keeps the figures of the benchmark that began, but not its engines."""
        assert self._running is not None
        self._measured.append(self._running.result())
        self._running = None
        self.save()

    def works(self, backend: str) -> bool:
        """Returns whether a backend passed every check."""
        return any(row["backend"] == backend and row["works"] for row in self.rows)

    def save(self, *, ended: bool = False) -> dict[str, Any]:
        """Writes the present result, and returns it."""
        running = [] if self._running is None else [self._running.result()]
        result = _merged([*self._measured, *running] or [self._empty])
        problems = list(self.failed)
        if result["stopped"]:
            problems.append(result["stopped"])
        if self.late:
            problems.append(f"not reached in {self._minutes:g} minutes: {', '.join(self.late)}")
        if not ended:
            problems.append(RUNNING)
        result |= {
            "command": self._command,
            "checks": self.rows,
            "complete": not problems,
            "stopped": "; ".join(problems) or None,
        }
        write_text(self.path, json.dumps(result, indent=1) + "\n")
        return result

    @property
    def measuring_failed(self) -> bool:
        """Returns whether a failure stopped a benchmark."""
        return any(result["stopped"] for result in self._measured)


def _merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Merges results of one machine; subjects of different sizes are not compared anyway."""
    merged = dict(results[0])
    for name in ("subjects", "comparisons", "baselines"):
        merged[name] = [entry for result in results for entry in result[name]]
    merged["noise"] = _noisiest([result["noise"] for result in results])
    warm_up = max(result["settings"]["warm_up"] for result in results)
    merged["settings"] = merged["settings"] | {"warm_up": warm_up}
    merged["stopped"] = "; ".join(r["stopped"] for r in results if r["stopped"]) or None
    return merged


def _noisiest(noises: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the worst value of each criterion."""
    worst = {
        name: max((noise[name] for noise in noises if noise[name] is not None), default=None)
        for name in ("p50_spread", "others_cpu", "probe_spread", "probe_ms")
    }
    why = list(dict.fromkeys(line for noise in noises for line in noise["why"]))
    return noises[0] | worst | {"noisy": bool(why), "why": why}


# Backends that a bare machine has come first.
BACKENDS = ("torch", "onnxruntime", "tensorrt", "tensorrt-rtx")
SIZES: tuple[Size, ...] = ((180, 320), (128, 128), (270, 480))
TIMED = 60
CHECKING_S = 240.0  # limit per backend: TensorRT builds a small model in less
MEASURING_S = 45.0  # estimate for a size with all of its backends
FULL = "full"
RANDOM = "random_"  # prefix of the preset in folder names


@dataclass(frozen=True, slots=True)
class Clock:
    """A time limit."""

    deadline: float

    def left(self) -> float:
        """Returns the seconds that are left."""
        return self.deadline - time.monotonic()


def main() -> None:
    """Checks, measures, writes the result and prints its path."""
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
    summary = {name: result[name] for name in ("complete", "stopped", "checks")}
    print(json.dumps({"benchmark": "gpu", "result": str(report.path), **summary}))
    sys.exit(1 if report.failed or report.measuring_failed else 0)


def _check(report: Report, clock: Clock, options: argparse.Namespace) -> None:
    """Adds a row for each backend."""
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
    """Returns the requested backends that support the device, in the order of `BACKENDS`."""
    on_device = {name for name, device in order() if device == options.device}
    return [b for b in BACKENDS if b in on_device and b in (options.backend or BACKENDS)]


def _reference(options: argparse.Namespace) -> Path:
    """Returns the file of the CPU's frames: given, built ahead, left by an earlier run, or new."""
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
    """Times the model size by size; one size is complete before the next begins."""
    sizes = [parse_size(size, "--size") for size in options.size] or SIZES
    working = [backend for backend in _backends(options) if report.works(backend)]
    longest = 0.0  # seconds of the slowest build so far: the next will not be much faster
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
    """Returns an engine set of the timed model: one built ahead, or a new one."""
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
    """Times the frames of engine sets in turn; each step's results are on disk before the next."""

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
    from ...export.random_model import write_random_model

    model = folder / f"{RANDOM}{preset}"
    if not (model / "prompt_embeds.safetensors").is_file():  # the last of its files
        _say(f"writing a random {preset} model")
        write_random_model(model, preset=preset, dtype="float16")
    return model


def _usual_path() -> Path:
    return Path("benchmarks/results") / f"{time.strftime('%Y-%m-%d')}-{_machine_name()}-gpu.json"


def _machine_name() -> str:
    """Returns the name of the GPU, or else of the processor, in a form for file names."""
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
    add("--engines", type=Path, help="output of research.gpu.ahead, used if it opens here")
    add("--reference", type=Path, help="the CPU's frames, instead of making them")
    add("--checked", type=Path, help="an earlier result, whose checks are reused")
    add("--backend", action="append", choices=BACKENDS, help="only this one; may be repeated")
    add("--no-figures", action="store_true", help="end after the checks")
    add("--frames-only", action="store_true", help="no start-up, files or roofline")
    add("--frames", type=int, default=TIMED, help="timed frames of each mode")
    add("--model", type=Path, help="a model folder, instead of random weights")
    add("--preset", default=FULL, choices=("small", "tiny", "parity", FULL))
    add("--size", action="append", default=[], metavar="WxH", help="may be repeated")
    add("--device", default="cuda", choices=("cuda", "cpu"))
    add("--minutes", type=float, default=8.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
