"""Reads the source of a live session: captures, reconnects, and keeps one timeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tenacity import RetryCallState, Retrying, wait_exponential, wait_random
from tenacity.wait import wait_base

from ...errors import StreamDiffVSRError
from ..frame_stream import CutDetector
from ..media.redact import hide
from .addresses import Address
from .connection import Connection, Disconnected, Received
from .frame import LiveFrame
from .sound import Hear, SoundMessage, SoundTimeline
from .status import SourceStatus

_TICK_S = 1e-3  # the least time from one frame to the next
_MATCHED_BY_S, _MATCHED_IN_S = 1.0, 10.0  # how far RTSP moves a clock, and until when
_MAX_DRIFT_S = 5.0  # the most by which the two clocks may differ over one step


class Timeline:
    """Places frames on one timeline; the first is at 0.

    Args:
        matched_late: Whether the clock is matched with that of sound soon after a connection
            begins, which moves it a little and is no jump.
    """

    def __init__(self, *, matched_late: bool = False) -> None:
        self._matched_late = matched_late
        self._begun = 0.0  # when the first frame since the last restart was captured
        self._placed: float | None = None
        self._own: float | None = None
        self._captured = 0.0

    def restart(self) -> None:
        """Notes that the source's times no longer relate to the last frame's."""
        self._own = None

    def place(self, own: float | None, captured: float) -> tuple[float, bool]:
        """Returns the seconds of the next frame, and whether the source's clock jumped before it.

        Args:
            own: The frame's time by the source's clock in seconds, if it has one.
            captured: When it left the decoder, in seconds of a steady clock.
        """
        waited, jumped = captured - self._captured, False
        step = waited
        if self._own is None:
            self._begun = captured
        if own is not None and self._own is not None:
            step = own - self._own
            jumped = step < 0 or step > waited + _MAX_DRIFT_S
            if jumped:
                matched = -_MATCHED_BY_S < step < 0 and captured < self._begun + _MATCHED_IN_S
                jumped, step = not (self._matched_late and matched), waited
        self._own, self._captured = own, captured
        self._placed = 0.0 if self._placed is None else self._placed + max(step, _TICK_S)
        return self._placed, jumped


REFUSED = "refused"  # the cause of an end that will not change soon: 401, 404, no video


class Backoff:
    """Waits that double from attempt to attempt, with jitter, until a source plays steadily.

    Args:
        first_s: The first wait.
        longest_s: The longest wait, except for jitter and refusals.
        refused_s: The wait after a refusal.
        steady_s: A source that has played for this long begins with the first wait again.
    """

    def __init__(
        self,
        first_s: float = 1.0,
        longest_s: float = 30.0,
        *,
        refused_s: float = 60.0,
        steady_s: float = 30.0,
    ) -> None:
        self._steady_s = steady_s
        jitter = wait_random(0, first_s / 2)
        self._lost: wait_base = wait_exponential(multiplier=first_s, max=longest_s) + jitter
        self._refused: wait_base = wait_random(refused_s, refused_s + first_s)
        self._attempt = RetryCallState(Retrying(), None, (), {})
        self._failures = 0

    def after(self, cause: str, played_s: float) -> float:
        """Returns the seconds to wait now.

        Args:
            cause: Why the last attempt ended, ``REFUSED`` or anything else.
            played_s: For how long it gave frames; 0 if it never did.
        """
        if played_s >= self._steady_s:
            self._failures = 0
        self._failures += 1
        self._attempt.attempt_number = self._failures
        return float((self._refused if cause == REFUSED else self._lost)(self._attempt))


_LEAD_S = 1.5  # a process is started this long before it is needed
_CLOSE_S = 1.8
_LISTENING = (0.3, 2.0)  # short: waiting for a sender again burdens no server


class LiveSource:
    """Reads an address in the background from the moment it is made.

    Args:
        address: The address to read.
        tell: Receives one line, without credentials, for each change that a user should see;
            called on the source's own thread.
        open_timeout_s: The longest an attempt may take to open; None for 10 s, or what its kind
            needs.
        stall_timeout_s: The longest a playing source may be silent; None for two seconds, or the
            time of four frames of a slower source.
        reconnect: Whether to try again after a failure; a file is never tried again.
        backoff: How long to wait before each attempt; None for the usual way.
        hear: Receives the sound (see ``sound``) on the source's own thread, as it comes; None if
            none is wanted.
    """

    def __init__(
        self,
        address: Address,
        *,
        tell: Callable[[str], None] = lambda line: None,
        open_timeout_s: float | None = None,
        stall_timeout_s: float | None = None,
        reconnect: bool = True,
        backoff: Backoff | None = None,
        hear: Hear | None = None,
    ) -> None:
        self._address, self._tell = address, tell
        late = address.kind == "rtsp"
        self._sound = SoundTimeline(hear, self._say, matched_late=late) if hear else None
        self._timeouts = {"open_timeout_s": open_timeout_s, "stall_timeout_s": stall_timeout_s}
        self._reconnect = reconnect and address.kind != "file"
        self._backoff = backoff or (Backoff(*_LISTENING) if address.listens else Backoff())
        self._changed = threading.Condition()
        self._frame: LiveFrame | None = None
        self._end: Callable[[], Exception] | None = None
        self._connection: Connection | None = None
        self._closed = threading.Event()
        self._status = SourceStatus()
        self._timeline = Timeline(matched_late=late and hear is not None)
        self._epoch, self._cuts, self._cut_detector = -1, 0, CutDetector()
        self._shape: tuple[int, int, str] | None = None  # of this connection
        self._played_since: float | None = None  # this connection
        self._last_said = ""
        self._thread = threading.Thread(target=self._run, name="live-source", daemon=True)
        self._thread.start()

    def newest(self, timeout_s: float) -> LiveFrame | None:
        """Returns a frame newer than the last one returned; None if none came in time.

        Raises:
            EOFError: The source has ended for good.
            StreamDiffVSRError: Going on is of no use.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frame or self._end, timeout_s)
            frame, self._frame = self._frame, None
            if frame is None and self._end:
                raise self._end()
            return frame

    def status(self) -> dict[str, Any]:
        """Returns the name and the status, for JSON."""
        with self._changed:
            sound = self._sound.to_json() if self._sound else []
            return {"name": self._address.shown, **self._status.to_json(), "sound": sound}

    def close(self) -> None:
        """Stops within two seconds, even if something is blocked. Safe twice."""
        self._closed.set()
        with self._changed:
            connection = self._connection
            self._frame, self._end = None, EOFError
            self._status.ended()
            self._changed.notify_all()
        if connection:  # waiting for a process inside a driver may take for ever
            threading.Thread(target=connection.close, daemon=True).start()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        end: Callable[[], Exception] = EOFError
        try:
            end = self._keep_playing()
        except Exception as error:
            end = self._failure(f"{type(error).__name__}: {error}")
        finally:
            with self._changed:
                self._end = self._end or end
                self._status.ended()
                self._changed.notify_all()

    def _keep_playing(self) -> Callable[[], Exception]:
        """Connects, plays and waits in a loop; returns what to raise once that is of no use."""
        delay_s = 0.0
        while not self._closed.is_set():
            self._played_since = None
            try:
                self._play(delay_s)
            except Disconnected as ended:
                ended.why = hide(ended.why, self._address.secrets)
                final = self._final(ended)
                if final:
                    return final
                since = self._played_since
                played_s = 0.0 if since is None else time.monotonic() - since
                delay_s = self._backoff.after(ended.cause, played_s)
                self._note_failure(ended, delay_s)
                if ended.cause == "silent":
                    self._prefer(self._address.transports[-1])
        return EOFError

    def _prefer(self, transport: str) -> None:
        """Makes the next attempts begin with a transport of RTSP, if it may be chosen."""
        order = sorted(self._address.transports, key=lambda other: other != transport)
        self._address = replace(self._address, transports=tuple(order))

    def _final(self, ended: Disconnected) -> Callable[[], Exception] | None:
        """Returns what to raise if trying again is of no use, else None."""
        never_played = self._status.received == 0
        if self._reconnect and not (ended.cause == "hopeless" and never_played):
            return None
        if ended.cause == "ended" or (not never_played and self._address.kind != "file"):
            return EOFError
        return self._failure(ended.why, ended.remedy)

    def _failure(self, why: str, remedy: str = "") -> Callable[[], Exception]:
        what, why = f"could not read {self._address.shown!r}", hide(why, self._address.secrets)
        with self._changed:
            self._status.error, self._status.remedy = why, remedy
        return lambda: StreamDiffVSRError(what, why, remedy)

    def _play(self, delay_s: float) -> None:
        """Connects after a wait and keeps the newest frame, until an exception ends it."""
        connection = self._started_in(delay_s)
        if connection is None:
            return
        try:
            connection.open()
            self._timeline.restart()
            if self._sound:
                self._sound.restart()
            self._shape = None
            first_index = self._status.received
            while not self._closed.is_set():
                received = connection.receive()
                if isinstance(received, SoundMessage):
                    assert self._sound is not None
                    self._sound.take(received)
                elif received:
                    self._keep(received, first_index, connection)
        finally:
            connection.close()
            connection.free()

    def _started_in(self, delay_s: float) -> Connection | None:
        """Returns a connection whose process is up after the wait; None if this was closed."""
        due = time.monotonic() + delay_s
        if self._closed.wait(max(0.0, delay_s - _LEAD_S)):
            return None
        try:
            wanted = self._sound is not None
            connection = Connection(self._address, **self._timeouts, sound=wanted)
        except StreamDiffVSRError as error:  # out of processes or memory, maybe for a moment
            raise Disconnected("lost", error.why) from error
        with self._changed:
            self._connection = connection
        if self._closed.wait(max(0.0, due - time.monotonic())):
            connection.close()
            return None
        with self._changed:
            self._status.connecting()
        return connection

    def _keep(self, received: Received, first_index: int, connection: Connection) -> None:
        image, header = received
        seconds, jumped = self._timeline.place(header["seconds"], header["captured"])
        if self._sound:
            self._sound.frame(header["seconds"], seconds, header["captured"])
        shape = (header["height"], header["width"], header["format"])
        before, self._shape = self._shape, shape
        if jumped or shape != before:
            self._epoch += 1
            self._cut_detector.reset()  # earlier frames may not even be of this size
        self._cuts += self._cut_detector.is_cut(image)
        frame = LiveFrame(
            image=image,
            seconds=seconds,
            captured=header["captured"],
            epoch=self._epoch,
            index=first_index + header["index"],
            damaged=header["damaged"],
            cuts=self._cuts,
        )
        with self._changed:
            if before is None:
                self._status.playing(connection.codec, connection.transport)
            self._status.frame(frame, replaced=self._frame is not None)
            if not self._closed.is_set():
                self._frame = frame
                self._changed.notify_all()
        if before is None:
            self._played_since = time.monotonic()
            self._last_said = ""
            self._say(f"playing, {shape[1]}x{shape[0]} {connection.codec}{self._how(connection)}")
        elif shape[:2] != before[:2]:
            self._say(f"its frames are {shape[1]}x{shape[0]} from here on")

    def _how(self, connection: Connection) -> str:
        """Returns the transport in words unless it is the usual one, and keeps to it."""
        transports, chosen = self._address.transports, connection.transport
        if not chosen or (chosen == "tcp" and transports[0] == "tcp"):
            return ""
        fell_back = chosen != transports[0]
        self._prefer(chosen)
        why = f", as its server refuses {transports[0].upper()}" if fell_back else ""
        return f" over {chosen.upper()}{why}"

    def _note_failure(self, ended: Disconnected, delay_s: float) -> None:
        if self._closed.is_set():
            return
        with self._changed:
            self._status.waiting(ended.why, ended.remedy, delay_s)
        if ended.why != self._last_said:  # one line for the same failure again and again
            self._last_said = ended.why
            advice = f"; {ended.remedy}" if ended.remedy else ""
            self._say(f"{ended.why}{advice}; trying again in {delay_s:.1f} s")

    def _say(self, change: str) -> None:
        self._tell(f"{self._address.shown}: {hide(change, self._address.secrets)}")
