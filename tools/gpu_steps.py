"""Runs the checks of a GPU machine in steps, within a time limit: correctness, then speed.

    python tools/gpu_steps.py --out build/gpu-run --minutes 12

The steps are doctor, a comparison of each backend's frames with a CPU's, the GPU tests of each
backend, and the figures. Each step is a process with a limit of its own, and one that fails, hangs
or crashes does not stop the next. OUT/steps.jsonl has a line of each step before the next begins,
OUT/steps.log their output, checks.json and figures.json what they found. Needs only Python; the
steps need the package.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = ("torch", "onnxruntime", "tensorrt", "tensorrt-rtx")
DOCTOR_S, LEAST_S = 60.0, 5.0
CHECKS, TESTS = 0.4, 0.6  # of the time that is left when they begin
TAIL = 12  # last lines of a step's output that its record has
DOCTOR = "import sys; from streamdiffvsr.cli.app import main; sys.exit(main(['doctor', '--json']))"
GPU = ("-m", "streamdiffvsr.research.gpu")
STEPS, LOG, CHECKED, FIGURES = "steps.jsonl", "steps.log", "checks.json", "figures.json"
NONE_SELECTED = 5  # pytest's exit code
REACHED = ("passed", "answered", "nothing to do")


@dataclass(frozen=True, slots=True)
class Step:
    """A process to run.

    Attributes:
        share: The most that it may take, as a share of the seconds that are left.
        answers: Whether it only reports, so that its exit code is part of the report.
    """

    name: str
    arguments: tuple[str, ...]
    share: float
    most_s: float = 3600.0
    answers: bool = False


class Run:
    """Runs steps within a time limit, and records each before the next."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out.resolve()
        self._deadline: float = time.monotonic() + 60 * options.minutes
        self.records: list[dict[str, Any]] = []

    def left(self) -> float:
        """Returns the seconds that are left."""
        return self._deadline - time.monotonic()

    def run(self, step: Step) -> None:
        """Runs a step as far as its time allows."""
        limit = min(step.most_s, self.left() * step.share)
        if limit < LEAST_S:
            self.record({"step": step.name, "ended": "not reached"})
            return
        minutes = ("--minutes", f"{limit / 60:.2f}") if step.arguments[:2] == GPU else ()
        command = [sys.executable, *step.arguments, *minutes]
        started = time.monotonic()
        code, said = _run(command, limit, self.out / LOG)
        ended = {0: "passed", None: "stopped at its limit"}.get(code, "failed")
        if step.answers and code is not None:
            ended = "answered"
        elif "pytest" in step.arguments and _ran_none(code, said):
            ended = "nothing to do"
        self.record(
            {
                "step": step.name,
                "ended": ended,
                "code": code,
                "seconds": round(time.monotonic() - started, 1),
                "limit_s": round(limit, 1),
                "command": command[1:],
                "said": said,
            }
        )

    def record(self, record: dict[str, Any]) -> None:
        """Writes a record to disk, before anything else is begun."""
        self.records.append(record)
        with (self.out / STEPS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        seconds = f" in {record['seconds']} s" if "seconds" in record else ""
        last = next((line for line in reversed(record.get("said", [])) if line.strip()), "")
        why = f": {last}" if record["ended"] == "failed" else ""
        print(f"{record['step']}: {record['ended']}{seconds}{why}", flush=True)


def main() -> None:
    """Runs the steps and prints a summary."""
    run = Run(_parse())
    run.out.mkdir(parents=True, exist_ok=True)
    for name in (STEPS, LOG, CHECKED, FIGURES):
        (run.out / name).unlink(missing_ok=True)  # left by an earlier run
    options = run.options
    run.run(Step("doctor", ("-c", DOCTOR), 1.0, DOCTOR_S, answers=True))
    checks = run.out / CHECKED
    run.run(Step("checks", (*_gpu(options), "--no-figures", "--json", str(checks)), CHECKS))
    rows = _rows(checks)
    if not rows and run.records[-1]["ended"] == "failed":
        sys.exit(f"no backend could be asked, so nothing else is run; see {run.out / LOG}")
    tests = list(_tests(options, rows))
    for index, step in enumerate(tests):
        run.run(Step(step.name, step.arguments, TESTS / (len(tests) - index)))
    figures = ("--checked", str(checks), "--json", str(run.out / FIGURES), "--frames-only")
    run.run(Step("figures", (*_gpu(options), *figures, *_figures(options)), 1.0))
    summary = {
        "steps": {record["step"]: record["ended"] for record in run.records},
        "works": [row["backend"] for row in rows if row["works"]],
        "does_not_work": {row["backend"]: row["said"] for row in rows if not row["works"]},
    }
    print(json.dumps(summary))
    sys.exit(not all(record["ended"] in REACHED for record in run.records))


def _gpu(options: argparse.Namespace) -> tuple[str, ...]:
    arguments = [*GPU, "--device", options.device, "--folder", str(options.folder.resolve())]
    for backend in options.backend or ():
        arguments += ["--backend", backend]
    if options.engines is not None:
        arguments += ["--engines", str(options.engines.resolve())]
    return tuple(arguments)


def _figures(options: argparse.Namespace) -> list[str]:
    arguments = ["--preset", options.preset] if options.preset else []
    arguments += ["--frames", str(options.frames)] if options.frames else []
    for size in options.size:
        arguments += ["--size", size]
    return arguments


def _rows(checks: Path) -> list[dict[str, Any]]:
    """Returns what each backend reported, as far as the step came."""
    try:
        rows: list[dict[str, Any]] = json.loads(checks.read_text(encoding="utf-8"))["checks"]
    except (OSError, ValueError, KeyError):
        return []
    return rows


def _tests(options: argparse.Namespace, rows: list[dict[str, Any]]) -> Iterator[Step]:
    """Yields the GPU tests of each available backend, then those of no backend."""
    files = [p for p in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in _text(p)]
    pytest = ("-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider", "--tb", "short")
    common = (*pytest, *(str(path.relative_to(ROOT)) for path in files))
    absent = {row["backend"] for row in rows if not row["tried"]}
    for backend in options.backend or BACKENDS:
        if backend not in absent:
            others = [other for other in BACKENDS if other != backend and backend in other]
            chosen = " and not ".join([backend, *others])
            yield Step(f"tests of {backend}", (*common, "-k", chosen), TESTS)
    none = " and ".join(f"not {backend}" for backend in BACKENDS)
    yield Step("other tests", (*common, "-k", none), TESTS)


def _ran_none(code: int | None, said: list[str]) -> bool:
    """Returns whether pytest had nothing to run: no test was chosen, or all were skipped."""
    return code == NONE_SELECTED or (code == 0 and " passed" not in "".join(said[-1:]))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _run(command: list[str], limit: float, log: Path) -> tuple[int | None, list[str]]:
    """Runs a command; returns its exit code, None at the limit, and its last lines."""
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    with log.open("a+b") as file:
        begin = file.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = child.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
        file.seek(begin)
        return code, file.read().decode(errors="replace").splitlines()[-TAIL:]


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends a step and all processes that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of what the steps leave")
    add("--folder", type=Path, default=Path("build/gpu"), help="model and engines")
    add("--minutes", type=float, default=12.0)
    add("--device", default="cuda", choices=("cuda", "cpu"))
    add("--backend", action="append", choices=BACKENDS, help="this one alone; may be repeated")
    add("--engines", type=Path, help="engine sets that were built ahead")
    add("--preset", help="of the model that is timed")
    add("--size", action="append", default=[], metavar="WxH", help="that is timed; repeatable")
    add("--frames", type=int, help="that are timed of each mode")
    return parser.parse_args()


if __name__ == "__main__":
    main()
