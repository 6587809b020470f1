"""Measures one engine set: its modes, its stages, and what frames cost the host."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..engines.interface import kind_of, timed
from ..engines.manifest import Manifest, read_manifest
from ..graphs.spec import DEFAULT_STEPS, SCALE, format_size
from ..runtime.frame_stream import MarkedImage, OverlappedFrames
from ..runtime.state import StreamState
from ..runtime.upscaler import FRAMES_AHEAD, Image, Mode, Upscaler, load
from .observed import ObservedDevice, Recorder, Span
from .statistics import endless, median, quantiles, ratios

ORDER = ("upload", "prepare", "features", "flow", "guide", "temporal", "denoise", "decode")


def stage_table(spans: Sequence[Span], frame_ms: Sequence[float], steps: int) -> dict[str, Any]:
    """Returns the time of each stage in the plain loop, and the share of the frame they explain.

    Args:
        spans: The spans of as many whole frames as there are times.
        frame_ms: The times of the same frames in ms, measured by the host around each.
        steps: The number of denoising steps.
    """
    by_frame: dict[int, dict[str, float]] = defaultdict(dict)
    for span in numbered(spans, steps):
        stages = by_frame[span.frame]
        stages[span.name] = stages.get(span.name, 0.0) + span.ms  # a tile's share
    names = sorted({name for stages in by_frame.values() for name in stages}, key=_place)
    sums = [sum(stages.values()) for stages in by_frame.values()]
    # The median of the frames' shares: medians of stages need not add up to that of frames.
    shares = [s / whole for s, whole in zip(sums, frame_ms, strict=True)]
    return {
        "order": names,
        "ms": {
            name: quantiles([s[name] for s in by_frame.values() if name in s]) for name in names
        },
        "sum_p50": round(median(sums), 4),
        "frame_p50": round(median(frame_ms), 4),
        "accounted": round(median(shares), 4),
    }


def numbered(spans: Sequence[Span], steps: int) -> list[Span]:
    """Returns the spans with numbered denoising steps, which the host runs under one name."""
    calls = Counter((span.frame, span.name) for span in spans)
    seen: Counter[int] = Counter()
    named = []
    for span in spans:
        if span.name == "denoise":
            each = calls[span.frame, "denoise"] // steps  # the tiles of a frame
            named.append(replace(span, name=f"denoise {1 + seen[span.frame] // each}"))
            seen[span.frame] += 1
        else:
            named.append(span)
    return named


def _place(name: str) -> tuple[int, str]:
    stage = name.split()[0]
    return (ORDER.index(stage) if stage in ORDER else len(ORDER), name)


@dataclass(slots=True)
class Times:
    """The times of frames, in ms.

    Attributes:
        frame: The time from asking for a frame to having it: in a loop, the time between two.
        latency: The time from handing in a frame to having it upscaled.
    """

    frame: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)


class Lane:
    """Upscales an endless clip in one mode, and times its frames.

    Args:
        upscaler: The upscaler; lanes may share its engines, as they do not run at the same time.
        mode: See `Upscaler.stream`.
        overlap: See `Upscaler.stream`.
        recorder: Receives the index of the frame whose stages come next.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        mode: Mode = "latency",
        *,
        overlap: bool,
        recorder: Recorder | None = None,
    ) -> None:
        self._handed: deque[float] = deque()
        self._recorder = recorder
        self._ahead = FRAMES_AHEAD[mode] if overlap else 0
        frames = self._frames(upscaler)
        self._stream = upscaler.stream_frames(frames, overlap=overlap, mode=mode)
        self.output: Image | None = None

    def frame(self, times: Times) -> None:
        """Runs one more frame, and adds its times."""
        started = time.perf_counter()
        self.output = next(self._stream).image
        ended = time.perf_counter()
        times.frame.append(1e3 * (ended - started))
        times.latency.append(1e3 * (ended - self._handed.popleft()))

    def frames(self, count: int) -> Times:
        """Runs frames in a loop, and leaves none unfinished on the device.

        The first ones are not counted: those begun in an earlier call, and the one that takes the
        device back from another lane.
        """
        times, uncounted = Times(), Times()
        for _ in range(self._ahead + 1):
            self.frame(uncounted)
        for _ in range(count):
            self.frame(times)
        if isinstance(self._stream, OverlappedFrames):
            self._stream.pause()
        return times

    def close(self) -> None:
        """Finishes the frames that were begun."""
        self._stream.close()

    def _frames(self, upscaler: Upscaler) -> Iterator[MarkedImage]:
        for index, frame in enumerate(endless(upscaler.size)):
            if self._recorder is not None:
                self._recorder.frame = index
            self._handed.append(time.perf_counter())
            yield MarkedImage(frame)


def plain_lane(upscaler: Upscaler, recorder: Recorder | None = None) -> Lane:
    """Returns a lane that runs stages one after another, without overlap and without capture.

    Args:
        recorder: Receives the time of each stage.
    """
    if not upscaler.in_slots:
        engines = upscaler.engines if recorder is None else timed(upscaler.engines, recorder)
        variant = Upscaler(upscaler.manifest, engines, upscaler.device)
        return Lane(variant, overlap=False, recorder=recorder)
    device = ObservedDevice(upscaler.device, recorder, one_stream=True)
    variant = Upscaler(upscaler.manifest, upscaler.engines, device)
    return Lane(variant, overlap=True, recorder=recorder)


def watched(upscaler: Upscaler, recorder: Recorder) -> Upscaler:
    """Returns the upscaler overlapped but not captured, so that each stage shows on its stream.

    Tiles do not overlap: the host runs and times their stages one after another.
    """
    engines, device = upscaler.engines, upscaler.device
    if upscaler.manifest.graphs.geometry.tile is not None:
        return Upscaler(upscaler.manifest, timed(engines, recorder), device)
    return Upscaler(upscaler.manifest, engines, ObservedDevice(device, recorder))


HOST_FRAMES = 30


class Subject:
    """An engine set that is measured.

    Attributes:
        device: The device that it runs on: "cpu", "cuda", "cuda:1".
        times: The times of each lane; "watched" is the plain loop with stage timing on.
        rounds: The p50 of each round in ms, by mode.
        spans: The spans of the frames of "watched".
        warm_up: The number of frames of each lane that are not counted.
        warm_frame_ms: The time of the last of them.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        """Opens an engine set; one for a GPU on `device`, "cuda:1", or on the first GPU."""
        self.folder = folder
        self.device = place_of(folder, device)
        self.upscaler = load(folder, self.device)
        self.manifest: Manifest = self.upscaler.manifest
        # On a GPU, graphs are captured at the second guided frame of a slot.
        self.warm_up = 8 if self.upscaler.in_slots else 2
        self._recorder = Recorder()
        self._lanes: dict[str, Lane] = {
            "plain": plain_lane(self.upscaler),
            "watched": plain_lane(self.upscaler, self._recorder),
        }
        if self.manifest.graphs.geometry.tile is None:
            for mode in FRAMES_AHEAD:
                self._lanes[mode] = Lane(self.upscaler, mode, overlap=True)  # as files and live run
        self.times: dict[str, Times] = {name: Times() for name in self._lanes}
        self.rounds: dict[str, list[float]] = {name: [] for name in self.modes}
        self.spans: list[Span] = []
        self.warm_frame_ms = 0.0

    @property
    def modes(self) -> list[str]:
        """The modes that it can be run in; tiles do not overlap."""
        return [name for name in self._lanes if name != "watched"]

    @property
    def id(self) -> str:
        """The identifier among the subjects of a result."""
        key = self.manifest.key
        parts = [key.size, key.backend, key.device, key.precision]
        parts += [] if key.steps == DEFAULT_STEPS else [f"{key.steps} steps"]
        parts += [key.tile] if key.tile else []
        return " ".join(parts)

    def prepare(self) -> None:
        """Runs the warm-up of all lanes."""
        for lane in self._lanes.values():
            times = Times()
            for _ in range(self.warm_up):
                lane.frame(times)
            self.warm_frame_ms = times.frame[-1]
        self._recorder.take()

    def run(self, mode: str, count: int) -> None:
        """Runs a round of a mode."""
        if mode == "plain":
            self._run_plain(count)
        else:
            self._keep(mode, self._lanes[mode].frames(count))

    def _run_plain(self, count: int) -> None:
        """Runs frames with and without stage timing, in turn."""
        off, on = Times(), Times()
        pair = [(self._lanes["plain"], off), (self._lanes["watched"], on)]
        for index in range(count):
            for lane, times in pair if index % 2 else reversed(pair):
                lane.frame(times)
        self._keep("plain", off)
        self.times["watched"].frame += on.frame
        self.spans += self._recorder.take()

    def close(self) -> None:
        """Closes all lanes."""
        for lane in self._lanes.values():
            lane.close()

    def describe(self) -> dict[str, Any]:
        """Returns the description of the subject, for a result."""
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
        """Returns all figures so far, for a result."""
        watched = self.times["watched"].frame
        return {
            "modes": {mode: self._mode(mode) for mode in self.modes if self.times[mode].frame},
            "stages": stage_table(self.spans, watched, self.manifest.key.steps)
            if watched
            else None,
            "stage_timing_overhead": ratios(watched, self.times["plain"].frame),
        }

    def host_costs(self, mode: Mode) -> dict[str, Any]:
        """Returns what putting a frame on the streams costs; Nones if the host runs it."""
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
    """Returns the device to measure a set on: `device` if it is of the set's kind."""
    kind = read_manifest(folder).key.device
    return device if device is not None and kind_of(device) == kind else kind


def compared(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """Returns a result's `comparisons`: each subject with the first of its size, by rounds."""
    found = []
    for subject in subjects:
        base = next(s for s in subjects if s.upscaler.size == subject.upscaler.size)
        for mode in subject.modes if subject is not base else ():
            ours, theirs = subject.rounds[mode], base.rounds.get(mode, [])
            pairs = min(len(ours), len(theirs))
            found_ratios = ratios(ours[:pairs], theirs[:pairs])
            if found_ratios is not None:
                found.append({"what": subject.id, "to": base.id, "mode": mode, **found_ratios})
    return found
