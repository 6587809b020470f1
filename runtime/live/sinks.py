"""The sinks of a live session: opened by target, each with an encoder process of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

from ...errors import StreamDiffVSRError
from .addresses import AUTO, rtsp_transports
from .frame import OutputFrame, Sink
from .sink_process import LOCAL, NETWORK, Deadlines, LastingError, RefusedError, SinkProcess
from .sink_targets import InProcess, Target, parse_target
from .sound import Sound, SoundPacket
from .sound_queue import HOLD_S, SoundQueue
from .sound_targets import takes_of
from .source import REFUSED, Backoff

RING = 2
TICKS = 90000  # per second
_KILL_S = 0.4  # of a deadline, kept for ending what did not finish in it
_RELISTEN_S = 1.0
_PATIENCE_S = 0.5  # for streams of sound that the source has, and of which nothing has come yet
_TAIL_S = 0.25  # of sound after the last picture


Outlet: TypeAlias = SinkProcess | InProcess


class EncodedSink:
    """A `Sink` that encodes for one target, or gives its frames to what a registered kind opens.

    Args:
        target: The place to write to.
        fps: Frames per second, roughly: sets the rate of hardware encoders, not times.
        encoder: The H.264 encoder; None for the best that works here.
        tell: Receives one line for each event that a user should know of.
        deadlines: The longest that opening, a frame and finishing may take.
        backoff: How long to wait before opening again.
    """

    def __init__(
        self,
        target: Target,
        *,
        fps: float | None = None,
        encoder: str | None = None,
        tell: Callable[[str], None] = lambda _: None,
        deadlines: Deadlines | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = target.shown
        self._target, self._tell, self._encoder = target, tell, encoder
        self._rate = Fraction(fps or 30).limit_denominator(1001)
        self._deadlines = deadlines or (NETWORK if target.traits.remote else LOCAL)
        self._backoff = backoff or Backoff()
        self._state, self._error, self._codec = "waiting", "", ""
        self._written = self._dropped = self._opened = 0
        self._tried = False
        self._opened_at: float | None = None  # by the clock; None unless it is open
        self._origin = 0.0  # the time of the stream that is 0 in the file
        self._outlet: Outlet | None = None
        self._ring: deque[OutputFrame] = deque()
        takes = takes_of(target.kind, target.format)
        self._sound = SoundQueue() if takes and target.traits.open is None else None
        self._sound_from = 0.0  # the last picture's time
        self._changed = threading.Condition()
        self._closing = self._killed = False
        self._thread = threading.Thread(target=self._run, name=f"sink {self.name}", daemon=True)
        self._thread.start()

    def offer(self, frame: OutputFrame) -> None:
        """See `Sink`."""
        with self._changed:
            if self._closing or self._state == "failed":
                self._dropped += 1
                return
            if len(self._ring) == RING:
                self._ring.popleft()
                self._dropped += 1
            self._ring.append(frame)
            self._changed.notify()

    def hear(self, sound: Sound) -> None:
        """See `SoundSink`."""
        if self._sound and not self._closing and self._state != "failed":
            self._sound.put(sound)

    def status(self) -> dict[str, Any]:
        """See `Sink`; also has the `encoder` in use, the `file` being written, and its sound."""
        outlet = self._outlet
        return {
            "name": self.name,
            "state": self._state,
            "written": self._written,
            "dropped": self._dropped,
            "reopened": max(0, self._opened - 1),
            "error": self._error,
            "encoder": self._codec,
            "file": outlet.path.name if outlet and self._target.traits.one_file else "",
            **(self._sound.status() if self._sound else {}),
        }

    def close(self, deadline_s: float) -> None:
        """See `Sink`."""
        due = time.monotonic() + deadline_s
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(0.0, deadline_s - min(_KILL_S, deadline_s / 2)))
        if self._thread.is_alive():
            with self._changed:
                self._killed, outlet = True, self._outlet
            if outlet:
                outlet.kill()
            self._thread.join(max(0.0, due - time.monotonic()))
        if self._state != "failed":
            self._state = "closed"

    def _run(self) -> None:
        try:
            while self._state != "failed" and (taken := self._next()) is not None:
                if isinstance(taken, OutputFrame):
                    self._take(taken)
                else:
                    self._write_sound(taken)
            self._finish(None)
        except Exception as error:  # a frame may end its own sink, but nothing else
            self._give_up(f"{type(error).__name__}: {error}")

    def _next(self) -> OutputFrame | list[SoundPacket] | None:
        """Waits for the oldest frame of the ring, or for sound that no picture follows.

        Returns None when there will be no more.
        """
        with self._changed:
            while not (self._ring or self._closing):
                self._changed.wait(HOLD_S / 5 if self._sound and self._outlet else None)
                if self._sound and self._outlet and (overdue := self._sound.overdue()):
                    return overdue
            return self._ring.popleft() if self._ring and not self._killed else None

    def _take(self, frame: OutputFrame) -> None:
        try:
            size, seconds = (frame.image.shape[0], frame.image.shape[1]), frame.source.seconds
            if self._outlet and self._outlet.size != size:
                self._finish(size)
            outlet = self._outlet or self._open(size, seconds)
            outlet.write(frame, round((seconds - self._origin) * TICKS))
        except StreamDiffVSRError as error:
            self._dropped += 1
            self._failed(error)
        else:
            self._written += 1
            if self._sound:
                self._sound_from = seconds
                self._write_sound(self._sound.due(seconds))

    def _write_sound(self, packets: list[SoundPacket]) -> None:
        """Writes sound next to the picture; what is of another kind needs another opening."""
        outlet, queue = self._outlet, self._sound
        if queue is None or not isinstance(outlet, SinkProcess):
            return
        try:
            outlet.hear(packets, self._origin)
        except StreamDiffVSRError as error:
            self._failed(error)
            return
        for line in queue.report.take_lines():
            self._say(f"{self.name}: {line}")
        if any(one.stream not in outlet.sounds for one in packets):
            self._finish(None)
            if self._target.traits.one_file:
                name = self._path().name
                self._say(f"{self.name}: the sound is of another kind now: going on in {name!r}")

    def _open(self, size: tuple[int, int], seconds: float) -> Outlet:
        outlet = self._new_outlet(size)
        if self._sound:
            self._sound.begin(seconds, again=self._opened > 0)
        with self._changed:
            self._outlet, self._tried = outlet, True
            if self._killed:
                outlet.kill()
        self._codec = outlet.open()
        self._keep_to(outlet.transport)
        self._opened += 1
        self._origin = seconds if self._target.traits.one_file else 0.0
        if self._state == "retrying":
            renamed = self._target.traits.one_file and str(outlet.path) != self._target.where
            where = f"going on in {outlet.path.name!r}" if renamed else "open again"
            self._say(f"{self.name}: {where}")
        self._state = "open"
        self._opened_at = time.monotonic()
        return outlet

    def _keep_to(self, transport: str) -> None:
        """Begins with that transport of RTSP from now on; says so if it is another than before."""
        first, *others = self._target.transports
        if transport in others:
            self._target = replace(self._target, transports=(transport, first))
            other = transport.upper()
            self._say(f"{self.name}: sent over {other}, as its server refuses {first.upper()}")

    def _new_outlet(self, size: tuple[int, int]) -> Outlet:
        if self._target.traits.open is not None:
            return InProcess(self._target, size)
        return SinkProcess(
            self._target,
            size,
            path=self._path(),
            rate=self._rate,
            encoder=self._encoder,
            first=self._written,
            resumed=self._opened > 0,
            deadlines=self._deadlines,
            sounds=self._sound.streams(_PATIENCE_S) if self._sound else (),
            report=self._sound.report if self._sound else None,
        )

    def _path(self) -> Path:
        """Returns the file to write: a new name if this sink has written one already."""
        path = Path(self._target.where)
        taken = self._target.traits.one_file and self._tried and path.exists()
        return self._target.next_file() if taken else path

    def _finish(self, new_size: tuple[int, int] | None) -> None:
        """Finishes what is open: at the end, or because frames have another size now."""
        outlet = self._outlet
        if outlet is None:
            return
        try:
            if self._sound and self._closing and isinstance(outlet, SinkProcess):
                outlet.hear(self._sound.due(self._sound_from + _TAIL_S), self._origin)
            outlet.finish()
        except StreamDiffVSRError as error:
            late = self._killed
            why = "it did not finish in time" if late else self._target.clean(error.why)
            self._error = why
            self._say(f"{self._target.failure}: {why}")
        with self._changed:
            self._outlet = None
        if new_size and self._target.traits.one_file:
            size = f"{new_size[1]}x{new_size[0]}"
            self._say(f"{self.name}: frames are {size} now: going on in {self._path().name!r}")

    def _failed(self, error: StreamDiffVSRError) -> None:
        """Drops what is open; gives up, or waits until it is time to open again."""
        with self._changed:
            outlet, self._outlet = self._outlet, None
        if outlet:
            outlet.kill()
        why = self._target.clean(error.why or error.what)
        if isinstance(error, LastingError) or self._closing:
            self._give_up("it did not finish in time" if self._killed else why)
            return
        cause = REFUSED if isinstance(error, RefusedError) else ""
        open_s = time.monotonic() - self._opened_at if self._opened_at is not None else 0.0
        self._opened_at = None
        wait_s = self._backoff.after(cause, open_s)
        if self._target.listens:
            wait_s = min(wait_s, _RELISTEN_S)
        if why != self._error or self._state == "open":
            self._say(f"{self._target.failure}: {why}; trying again in {wait_s:.1f} s")
        self._error, self._state = why, "retrying"
        with self._changed:
            closing = self._changed.wait_for(lambda: self._closing, wait_s)
            while len(self._ring) > (0 if closing else 1):  # begin with the newest, if at all
                self._ring.popleft()
                self._dropped += 1

    def _give_up(self, why: str) -> None:
        with self._changed:
            outlet, self._outlet = self._outlet, None
            self._dropped += len(self._ring)
            self._ring.clear()
            self._error, self._state = why, "failed"
        if outlet:
            outlet.kill()
        self._say(f"{self._target.failure}: {why}")

    def _say(self, line: str) -> None:
        with contextlib.suppress(Exception):  # a closed terminal must not end a recording
            self._tell(line)


def open_sink(
    target: str,
    *,
    overwrite: bool = False,
    fps: float | None = None,
    encoder: str | None = None,
    rtsp_transport: str = AUTO,
    tell: Callable[[str], None] = lambda _: None,
) -> Sink:
    """Opens a sink; it waits for its first frame before it encodes or connects.

    Args:
        target: FILE.mp4, .mov, .mkv or .ts; FILE.m3u8 (HLS); FOLDER/ or FOLDER/%06d.png, .jpg;
            rtsp, rtsps, rtmp, rtmps, udp, tcp, srt, whip or whips://...; v4l2:/dev/video9;
            "null"; or of a registered kind.
        overwrite: Replace existing files.
        fps: Frames per second, roughly: limits the bit rate; times are the frames' own.
        encoder: The H.264 encoder; None for one in hardware if it works here, else x264.
        rtsp_transport: See `rtsp_transports`.
        tell: Receives one line, without credentials, for each event that a user should know of.

    Raises:
        UsageError: The target is no known kind of output.
        StreamDiffVSRError: Its folder is missing or not writable, or it exists and may not be
            overwritten.
    """
    transports = rtsp_transports(rtsp_transport)
    parsed = replace(parse_target(target, overwrite=overwrite), transports=transports)
    if (own_sink := parsed.traits.sink) is not None:
        return own_sink(parsed)
    return EncodedSink(parsed, fps=fps, encoder=encoder, tell=tell)
