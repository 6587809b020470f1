"""Runs a latency benchmark: rounds of all modes, start-up times and the JSON result."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..engines.manifest import Manifest
from ..errors import StreamDiffVSRError
from ..graphs.spec import Precision
from ..runtime.upscaler import FRAMES_AHEAD
from .baselines import Baseline, BicubicBaseline, Race, ReferenceBaseline, measure_command
from .files import measure_file_rate, run_file
from .machine import describe_machine
from .report.files import SCHEMA
from .roofline.engine_work import engine_work
from .roofline.limits import Rates, measure_rates, roofline
from .statistics import NoiseWatch, median
from .subject import Subject, compared, place_of

START_UP = "streamdiffvsr.benchmarks.start_up_child"


def measure_start_up(engines: Path, device: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Returns `start_up` and `memory_mb` of a result's subject, on "cpu", "cuda" or "cuda:1".

    Raises:
        StreamDiffVSRError: The process failed; the last line that it printed is the reason.
    """
    _forget(engines)
    tell("cold start")
    cold = _start(engines, device)
    tell("warm start")
    warm = _start(engines, device)
    return {
        "start_up": {"cold_s": cold["seconds"], "warm_s": warm["seconds"]},
        "memory_mb": warm["memory_mb"],
    }


def _forget(engines: Path) -> None:
    """Asks the system, where it can be asked, to drop the files' cached pages."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in engines.rglob("*"):
        if path.is_file():
            with path.open("rb") as file, contextlib.suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _start(engines: Path, device: str) -> dict[str, Any]:
    command = [sys.executable, "-m", START_UP, str(engines), "--device", device]
    command += ["--since", str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        printed = (done.stderr or done.stdout).strip().splitlines()
        why = printed[-1] if printed else f"its process ended with {done.returncode}"
        raise StreamDiffVSRError(f"could not start {engines}", why)
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def make_result(
    *,
    timed: str,
    machine: dict[str, Any],
    noise: dict[str, Any],
    settings: dict[str, Any],
    stopped: str | None,
    **parts: Any,
) -> dict[str, Any]:
    """Returns a benchmark's result, as docs/benchmarks.md describes it.

    Args:
        timed: What was timed, in words.
        machine: The machine from `machine.describe_machine`, before anything was measured.
        noise: The noise from `NoiseWatch.report`.
        settings: `frames`, `rounds`, `warm_up` and `seed`.
        stopped: Why measuring ended early, or None.
        parts: Those of `subjects`, `comparisons`, `baselines` and `live` that there are.
    """
    return {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": [],
        "complete": stopped is None,
        "stopped": stopped,
        "timed": timed,
        "settings": settings,
        "machine": machine,
        "noise": noise,
        "subjects": [],
        "comparisons": [],
        "baselines": [],
        "live": None,
        **parts,
    }


TIMED = "a frame from uint8 RGB to uint8 RGB in host memory, without decoding and encoding"
BASELINES: dict[str, Callable[[Manifest], Baseline]] = {
    "bicubic": BicubicBaseline,
    "reference": ReferenceBaseline,
}
AIM_S = 15.0  # the time for each mode if no number of frames is given
FEWEST, MOST = 20, 400
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """The extent of a benchmark.

    Attributes:
        frames: The number of frames for each mode of each subject, over all rounds; None takes as
            many as fit in about a quarter of a minute.
        rounds: The number of rounds; in each, all subjects take turns.
        baselines: Names in `BASELINES`.
        command: The command of another baseline, from `baselines.split_command`; or empty.
        around: Whether to measure start-up, memory, files and the roofline too.
        device: The GPU for sets that need one, "cuda:1"; None is the first.
    """

    frames: int | None = None
    rounds: int = 5
    baselines: tuple[str, ...] = ("bicubic",)
    command: tuple[str, ...] = ()
    around: bool = True
    device: str | None = None


class Benchmark:
    """Measures engine sets in turn, under the same conditions.

    Args:
        tell: Receives a line when a step begins.
    """

    def __init__(self, settings: Settings, tell: Tell) -> None:
        self._settings, self._tell = settings, tell
        self._subjects: list[Subject] = []
        self._parts: dict[str, dict[str, Any]] = {}  # a subject's figures other than its times
        self._counts: dict[str, int] = {}
        self._races: list[Race] = []
        self._commands: list[dict[str, Any]] = []
        self._rates: dict[tuple[str, Precision], Rates] = {}
        self._stopped: list[str] = []
        self._machine = describe_machine(settings.device)
        self._watch = NoiseWatch()

    def run(self, folders: Sequence[Path]) -> None:
        """Measures; if a subject fails, its figures so far are kept, and the others go on.

        Raises:
            KeyboardInterrupt: `result` has what was measured until then.
        """
        try:
            for folder in folders:
                self._guarded(str(folder), partial(self._open, folder))
            self._watch = NoiseWatch()  # without the noise of loading and starting
            self._watch.probe()
            for number in range(self._settings.rounds):
                self._round(number)
            for subject in self._alive():
                self._guarded(subject.id, partial(self._finish, subject))
        except KeyboardInterrupt:
            self._stopped.append("interrupted")
            raise

    def result(self) -> dict[str, Any]:
        """Returns all figures so far, as docs/benchmarks.md describes them."""
        subjects = [self._result(subject) for subject in self._subjects]
        rounds = [p50s for s in self._subjects for p50s in s.rounds.values()]
        return make_result(
            timed=TIMED,
            machine=self._machine,
            noise=self._watch.report(rounds),
            settings={
                "frames": self._settings.frames,
                "rounds": self._settings.rounds,
                "warm_up": max((s.warm_up for s in self._subjects), default=0),
                "seed": 0,
            },
            stopped="; ".join(self._stopped) or None,
            subjects=subjects,
            comparisons=compared(self._subjects),
            baselines=[*self._race_results(), *self._commands],
        )

    def _open(self, folder: Path) -> None:
        around: dict[str, Any] = {"start_up": None, "memory_mb": None}
        if self._settings.around:
            place = place_of(folder, self._settings.device)
            tell = lambda line: self._tell(f"{folder.name}: {line}")  # noqa: E731
            around = measure_start_up(folder, place, tell)
        self._tell(f"{folder.name}: warm-up")
        subject = Subject(folder, self._settings.device)
        self._subjects.append(subject)
        self._parts[subject.id] = {
            **around,
            "media": None,
            "file_rate": None,
            "timeline": [],
            "roofline": None,
        }
        subject.prepare()
        self._counts[subject.id] = self._count(subject)
        for name in self._settings.baselines:
            try:
                self._races.append(Race(BASELINES[name](subject.manifest), subject.id))
            except StreamDiffVSRError as error:
                self._tell(f"without the baseline {name}: {error}")

    def _count(self, subject: Subject) -> int:
        """Returns the number of frames of a round."""
        rounds, asked = self._settings.rounds, self._settings.frames
        if asked is None:
            asked = min(MOST, max(FEWEST, int(1e3 * AIM_S / subject.warm_frame_ms)))
        return max(1, -(-asked // rounds))

    def _round(self, number: int) -> None:
        """Runs every subject in every mode, and begins with a different subject each time."""
        alive = self._alive()
        first = number % max(1, len(alive))
        for subject in [*alive[first:], *alive[:first]]:
            count = self._counts[subject.id]
            for mode in subject.modes:
                about = f"round {number + 1} of {self._settings.rounds}"
                self._tell(f"{about}: {subject.id}, {mode}, {count} frames")
                self._guarded(subject.id, partial(subject.run, mode, count))
            for race in self._races:
                if race.subject == subject.id:
                    self._guarded(race.baseline.id, partial(race.run, count))
        self._watch.probe()

    def _finish(self, subject: Subject) -> None:
        """Measures what need not be repeated, and would disturb the rounds."""
        parts = self._parts[subject.id]
        parts["host"] = {
            mode: subject.host_costs(mode) for mode in FRAMES_AHEAD if mode in subject.modes
        }
        for name, part in AROUND.items() if self._settings.around else ():
            self._tell(f"{subject.id}: {name}")
            try:
                parts |= part(self, subject)
            except StreamDiffVSRError as error:  # the times of frames are valid without it
                self._tell(f"without {name}: {error}")
        if self._settings.command:
            self._tell(f"{subject.id}: {self._settings.command[0]}")
            p50, command = median(subject.rounds["plain"]), list(self._settings.command)
            size = subject.manifest.graphs.geometry.size
            self._commands.append(measure_command(command, size, subject.id, p50))

    def _file_rate(self, subject: Subject) -> dict[str, Any]:
        frames = self._counts[subject.id] * self._settings.rounds
        return {"file_rate": measure_file_rate(subject.upscaler, frames)}

    def _roofline(self, subject: Subject) -> dict[str, Any]:
        """Returns `roofline` of a subject, with the machine's rates, measured on first use."""
        device = subject.device
        precision = subject.manifest.graphs.precision
        work = engine_work(subject.folder, self._tell)
        if (device, precision) not in self._rates:
            self._rates[device, precision] = measure_rates(device, precision)
        stages = subject.results()["stages"]["ms"]
        p50s = {name: values["p50"] for name, values in stages.items()}
        frame = median(subject.times["plain"].frame)
        return {"roofline": roofline(work, p50s, self._rates[device, precision], frame)}

    def _alive(self) -> list[Subject]:
        return [s for s in self._subjects if not any(x.startswith(s.id) for x in self._stopped)]

    def _guarded(self, name: str, work: Callable[[], object]) -> None:
        """Runs a step; any error, such as a lost device, is noted and does not stop the others."""
        try:
            work()
        except Exception as error:
            line = f"{name}: {' '.join(str(error).split()) or type(error).__name__}"
            self._stopped.append(line)
            self._tell(line)

    def _result(self, subject: Subject) -> dict[str, Any]:
        parts = dict(self._parts[subject.id])
        host = parts.pop("host", {})
        figures = subject.results()
        none = {"host_ms": None, "launches": None, "not_captured": None}
        for mode, values in figures["modes"].items():
            values |= host.get(mode, none)
        return subject.describe() | parts | figures

    def _race_results(self) -> list[dict[str, Any]]:
        by_id = {subject.id: subject for subject in self._subjects}
        return [race.result(by_id[race.subject].rounds["plain"]) for race in self._races]


# What need not be repeated, and would disturb the rounds.
AROUND: dict[str, Callable[[Benchmark, Subject], dict[str, Any]]] = {
    "a file, from disk to disk": lambda _, subject: run_file(subject.upscaler),
    "whole files against the engines alone": Benchmark._file_rate,
    "the limits of this machine": Benchmark._roofline,
}
