"""The sinks of a live session: opened by target, each with an encoder process of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ...errors import StreamDiffVSRError
from ..media.encoders import HARDWARE
from ..media.formats import check_size, live_encoder
from ..processes.child import Child
from ..processes.messages import pack
from .addresses import AUTO, rtsp_transports
from .frame import OutputFrame, Sink
from .sink_targets import InProcess, Target, parse_target
from .source import REFUSED, Backoff

LISTEN_S = 60.0
_BASE_MEMORY_BYTES = 4 << 30
_MEMORY_FRAMES = 60  # x264 holds little more than its references without a lookahead


class LastingError(StreamDiffVSRError):
    """Raised for a failure that lasts: a full disk, a size that cannot be encoded."""


class RefusedError(StreamDiffVSRError):
    """Raised when the receiver refused (401, 403, 404), as it will for a while."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The longest that each message may take, in seconds."""

    open_s: float
    frame_s: float
    close_s: float


NETWORK = Deadlines(open_s=10, frame_s=5, close_s=5)
LOCAL = Deadlines(open_s=20, frame_s=20, close_s=20)  # a disk that slept needs ten


class SinkProcess:
    """A child that writes frames of one size to one place.

    Args:
        target: The place to write to.
        size: The size (H, W) of the frames.
        path: The file to write, where the target is one.
        rate: Frames per second, roughly.
        encoder: The H.264 encoder; None for the best that works here.
        first: The number of the first image.
        resumed: Whether this goes on with what an earlier opening wrote.

    Attributes:
        transport: That of RTSP once it is open, "tcp" or "udp"; else "".

    Raises:
        StreamDiffVSRError: No process could be started.
        LastingError: Such frames cannot be encoded.
    """

    def __init__(
        self,
        target: Target,
        size: tuple[int, int],
        *,
        path: Path,
        rate: Fraction,
        encoder: str | None,
        first: int,
        resumed: bool,
        deadlines: Deadlines,
    ) -> None:
        self.size, self.path, self.transport = size, path, ""
        self._target, self._deadlines = target, deadlines
        open_s = LISTEN_S if target.listens else deadlines.open_s
        name = self._encoder(encoder)
        self._open_s = open_s
        self._child = Child(
            "runtime.live.sink_child",
            {
                "kind": target.kind,
                "remote": target.traits.remote,
                "format": target.format,
                "where": target.where if target.traits.remote else f"file:{path}",
                "path": str(path),
                "size": list(size),
                "rate": pack(rate),
                "encoder": name,
                "crf": target.traits.crf,
                "overwrite": target.overwrite and (not resumed or target.traits.numbered),
                "first": first,
                "resumed": resumed,
                "open_s": open_s,
                "frame_s": deadlines.frame_s,
                "close_s": deadlines.close_s,
                "transports": list(target.transports),
                "relay": target.relay and target.relay.arguments(),
                "codecs": list(target.traits.codecs),
            },
            failure=target.failure,
            deadline_s=deadlines.frame_s,
            memory_bytes=self._memory_bytes(name),
        )

    def open(self) -> str:
        """Waits until the target is open; returns the encoder in use.

        Raises:
            StreamDiffVSRError: It could not be opened; may be one of the two kinds above.
        """
        answer = self._receive(self._open_s)
        self.transport = answer["transport"]
        encoder: str = answer["encoder"]
        return encoder

    def write(self, frame: OutputFrame, ticks: int) -> None:
        """Writes one frame, shown at that many 1/90000 s; returns when it is written.

        Raises:
            StreamDiffVSRError: It was not written; may be one of the two kinds above.
        """
        self._child.send({"kind": "frame", "ticks": ticks}, np.ascontiguousarray(frame.image).data)
        self._receive(self._deadlines.frame_s)

    def finish(self) -> None:
        """Writes what the encoder still holds, and ends the child.

        Raises:
            StreamDiffVSRError: The output is not finished; may be one of the two kinds above.
        """
        try:
            self._child.send({"kind": "end"})
            self._receive(self._deadlines.close_s)
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends the child at once. Safe from any thread, and twice."""
        self._child.close()

    def _receive(self, deadline_s: float) -> dict[str, Any]:
        answer, _ = self._child.receive(deadline_s)
        if answer["kind"] == "failed":
            kind = {"lasting": LastingError, "refused": RefusedError}.get(answer["cause"])
            raise (kind or StreamDiffVSRError)(self._target.failure, answer["why"])
        return answer

    def _encoder(self, asked: str | None) -> str:
        if self._target.traits.numbered or not self._target.traits.crf:
            return self._target.format
        try:
            check_size(self.size, "h264", self._target.failure)
        except StreamDiffVSRError as error:
            raise LastingError(error.what, error.why, error.remedy) from error
        return asked or live_encoder(self.size).name

    def _memory_bytes(self, encoder: str) -> int | None:
        """Returns the limit of the child's address space; None with a driver, which maps a lot."""
        if encoder in HARDWARE["h264"]:
            return None
        return _BASE_MEMORY_BYTES + _MEMORY_FRAMES * self.size[0] * self.size[1] * 3


RING = 2
TICKS = 90000  # per second
_KILL_S = 0.4  # of a deadline, kept for ending what did not finish in it
_RELISTEN_S = 1.0


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

    def status(self) -> dict[str, Any]:
        """See `Sink`; also has the `encoder` in use and the `file` that is being written."""
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
            while self._state != "failed" and (frame := self._next()) is not None:
                self._take(frame)
            self._finish(None)
        except Exception as error:  # a frame may end its own sink, but nothing else
            self._give_up(f"{type(error).__name__}: {error}")

    def _next(self) -> OutputFrame | None:
        """Waits for the oldest frame of the ring; returns None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._ring or self._closing)
            return self._ring.popleft() if self._ring and not self._killed else None

    def _take(self, frame: OutputFrame) -> None:
        try:
            size = frame.image.shape[0], frame.image.shape[1]
            if self._outlet and self._outlet.size != size:
                self._finish(size)
            outlet = self._outlet or self._open(size, frame.source.seconds)
            outlet.write(frame, round((frame.source.seconds - self._origin) * TICKS))
        except StreamDiffVSRError as error:
            self._dropped += 1
            self._failed(error)
        else:
            self._written += 1

    def _open(self, size: tuple[int, int], seconds: float) -> Outlet:
        outlet = self._new_outlet(size)
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
