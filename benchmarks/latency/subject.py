"""One engine set and all that is timed of it, round by round."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ...engines.device import kind_of
from ...engines.manifest import Manifest, read_manifest
from ...runtime.state import StreamState
from ...runtime.upscaler import FRAMES_AHEAD, Mode, Upscaler, load
from ...spec import SCALE, format_size
from .frames import endless
from .lanes import Lane, Times, overlapped_lane, plain_lane
from .observed import ObservedDevice, Recorder, Span
from .quantiles import median, quantiles, ratios
from .stages import stage_table

HOST_FRAMES = 30


class Subject:
    """What is measured.

    Attributes:
        device: Where it runs: "cpu", "cuda", "cuda:1".
        times: Of each lane; "watched" is the plain loop with stage timing on.
        rounds: Of each mode, the p50 of each round.
        spans: Of the frames of "watched".
        warm_up: Frames of each lane that are not counted.
        warm_frame_ms: What the last of them took.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        """Open an engine set; one of a GPU on `device`, "cuda:1", or on the first."""
        self.folder = folder
        self.device = place_of(folder, device)
        self.upscaler = load(folder, self.device)
        self.manifest: Manifest = self.upscaler.manifest
        # On a GPU graphs are captured when a slot meets its second guided frame.
        self.warm_up = 8 if self.upscaler.in_slots else 2
        self._recorder = Recorder()
        self._lanes: dict[str, Lane] = {
            "plain": plain_lane(self.upscaler),
            "watched": plain_lane(self.upscaler, self._recorder),
        }
        if self.manifest.graphs.geometry.tile is None:
            for mode in FRAMES_AHEAD:
                self._lanes[mode] = overlapped_lane(self.upscaler, mode)
        self.times: dict[str, Times] = {name: Times() for name in self._lanes}
        self.rounds: dict[str, list[float]] = {name: [] for name in self.modes}
        self.spans: list[Span] = []
        self.warm_frame_ms = 0.0

    @property
    def modes(self) -> list[str]:
        """That it can be run in; tiles do not overlap."""
        return [name for name in self._lanes if name != "watched"]

    @property
    def id(self) -> str:
        """Of one among the subjects of a result."""
        key = self.manifest.key
        parts = [key.size, key.backend, key.device, key.precision]
        parts += [] if key.steps == 4 else [f"{key.steps} steps"]
        parts += [key.tile] if key.tile else []
        return " ".join(parts)

    def prepare(self) -> None:
        """Run what comes before anything is timed."""
        for lane in self._lanes.values():
            times = Times()
            for _ in range(self.warm_up):
                lane.frame(times)
            self.warm_frame_ms = times.frame[-1]
        self._recorder.take()

    def run(self, mode: str, count: int) -> None:
        """A round of a mode."""
        if mode == "plain":
            self._run_plain(count)
        else:
            self._keep(mode, self._lanes[mode].frames(count))

    def _run_plain(self, count: int) -> None:
        """Frames with and without stage timing, in turn."""
        off, on = Times(), Times()
        pair = [(self._lanes["plain"], off), (self._lanes["watched"], on)]
        for index in range(count):
            for lane, times in pair if index % 2 else reversed(pair):
                lane.frame(times)
        self._keep("plain", off)
        self.times["watched"].frame += on.frame
        self.spans += self._recorder.take()

    def close(self) -> None:
        """Give back what its lanes hold."""
        for lane in self._lanes.values():
            lane.close()

    def describe(self) -> dict[str, Any]:
        """What it is, as in a result."""
        key, geometry = self.manifest.key, self.manifest.graphs.geometry
        height, width = geometry.size
        return {
            "id": self.id,
            "model": self.manifest.model_name,
            "backend": key.backend,
            "device": key.device,
            "precision": key.precision,
            "steps": key.steps,
            "flow_scale": geometry.flow_scale,
            "tile": None if geometry.tile is None else format_size(geometry.tile),
            "input": format_size(geometry.size),
            "output": format_size((SCALE * height, SCALE * width)),
        }

    def results(self) -> dict[str, Any]:
        """All figures so far, as in a result."""
        watched = self.times["watched"].frame
        return {
            "modes": {mode: self._mode(mode) for mode in self.modes if self.times[mode].frame},
            "stages": stage_table(self.spans, watched, self.manifest.key.steps)
            if watched
            else None,
            "stage_timing_overhead": ratios(watched, self.times["plain"].frame),
        }

    def host_costs(self, mode: Mode) -> dict[str, Any]:
        """What putting a frame on the streams costs the caller; nothing where the host runs it."""
        if not self.upscaler.in_slots:
            return {"host_ms": None, "launches": None, "not_captured": None}
        device = ObservedDevice(self.upscaler.device, captures=True)
        upscaler = Upscaler(self.manifest, self.upscaler.engines, device)
        run = upscaler.run(StreamState(), mode)
        times = []
        for frame in islice(endless(self.upscaler.size), self.warm_up + HOST_FRAMES):
            before, started = device.launches, time.perf_counter()
            run.begin(frame)
            times.append(1e3 * (time.perf_counter() - started))
            launches = device.launches - before
            run.finish()
        plain = run.plain
        upscaler.close()
        return {
            "host_ms": quantiles(times[self.warm_up :]),
            "launches": launches,
            "not_captured": plain,
        }

    def _keep(self, mode: str, times: Times) -> None:
        self.times[mode].frame += times.frame
        self.times[mode].latency += times.latency
        self.rounds[mode].append(median(times.frame))

    def _mode(self, mode: str) -> dict[str, Any]:
        times = self.times[mode]
        return {
            "frame_ms": quantiles(times.frame),
            "latency_ms": quantiles(times.latency),
            "fps": round(1e3 * len(times.frame) / sum(times.frame), 6),
            "rounds_p50": [round(p50, 4) for p50 in self.rounds[mode]],
            "samples_ms": [round(ms, 4) for ms in times.frame],
        }


def place_of(folder: Path, device: str | None) -> str:
    """Where an engine set is measured: one of a GPU on the GPU that was named."""
    kind = read_manifest(folder).key.device
    return device if device is not None and kind_of(device) == kind else kind


def compared(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """`comparisons` of a result: every subject against the first of its size, round by round."""
    found = []
    for subject in subjects:
        base = next(s for s in subjects if s.upscaler.size == subject.upscaler.size)
        for mode in subject.modes if subject is not base else ():
            ours, theirs = subject.rounds[mode], base.rounds.get(mode, [])
            pairs = min(len(ours), len(theirs))
            told = ratios(ours[:pairs], theirs[:pairs])
            if told is not None:
                found.append({"what": subject.id, "to": base.id, "mode": mode, **told})
    return found
