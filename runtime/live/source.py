"""Reads the source of a live session: captures, reconnects, and keeps one timeline.

A `Connection` is one attempt: it opens once and plays until the end; every way of ending is a
`Disconnected`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tenacity import RetryCallState, Retrying, wait_exponential, wait_random
from tenacity.wait import wait_base

from ...errors import StreamDiffVSRError
from ..media.redact import hide, redact
from ..processes.child import Child
from ..processes.shared_frames import SharedFrames
from .addresses import Address
from .frame import Image, LiveFrame
from .status import SourceStatus

_START_S = 30.0  # a process on a busy machine
_LIFE_S = 10.0  # without a sign of life, which a machine with time sends twice a second
_MEMORY_BYTES = 8 << 30  # address space: 8K H.264 with its references needs 2 GiB
_PATIENCE_S = {"hls": 20.0, "file": 10.0}  # segments last seconds; a network disk must wake up


class Disconnected(Exception):
    """Raised when a source has no more frames; has a cause (see ``opening_child``) and a reason."""

    def __init__(self, cause: str, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.cause, self.why, self.remedy = cause, redact(why), remedy


Received = tuple[Image, dict[str, Any]]  # a frame from the child, and its message


class Connection:
    """A process for one attempt, started at once and opened by :meth:`open`.

    Raises:
        StreamDiffVSRError: The process cannot be started.
    """

    def __init__(self, address: Address, *, open_timeout_s: float, stall_timeout_s: float) -> None:
        patience_s = _PATIENCE_S.get(address.kind, 0.0)
        self._open_s = None if address.listens else max(open_timeout_s, patience_s)
        self._stall_s = max(stall_timeout_s, patience_s)
        self._memory: SharedFrames | None = None
        self._generation = 0
        self._opening_since: float | None = None
        self.codec = ""
        self._child = Child(
            "runtime.live.capture_child",
            {
                "kind": address.kind,
                "url": address.url,
                "format": address.format,
                "options": address.options,
                "shown": address.shown,
                "loop": address.loop,
                "decoder_threads": address.decoder_threads,
            },
            failure=f"could not read {address.shown!r}",
            memory_bytes=_MEMORY_BYTES,
        )

    @property
    def pid(self) -> int:
        """The process id of the child."""
        return self._child.pid

    def open(self) -> None:
        """Makes the child open the source.

        Raises:
            Disconnected: The child is gone.
        """
        while self._message(_START_S)["kind"] != "ready":
            pass
        try:
            self._child.send({"kind": "open"})
        except StreamDiffVSRError as error:
            raise Disconnected("lost", error.why) from error
        self._opening_since = time.monotonic()

    def receive(self) -> Received | None:
        """Returns the next frame, or None for any other message; one comes at least twice a second.

        Raises:
            Disconnected: The source ended, failed, or was silent for too long.
        """
        header = self._message(_LIFE_S)
        match header["kind"]:
            case "frame":
                return self._frame(header)
            case "memory":
                self._attach(header)
            case "opened":
                self._opening_since, self.codec = None, header["codec"]
            case "beat":
                self._check_silence(header["silent_s"])
            case "end":
                raise Disconnected(header["cause"], header["why"], header["remedy"])
        return None

    def close(self) -> None:
        """Ends the child. Safe from any thread, and twice."""
        self._child.close()

    def free(self) -> None:
        """Releases the shared memory; not to be called while :meth:`receive` runs."""
        if self._memory:
            self._memory.close()
            self._memory = None

    def _message(self, deadline_s: float) -> dict[str, Any]:
        try:
            return self._child.receive(deadline_s)[0]
        except StreamDiffVSRError as error:
            why = error.why or error.what
            if why.startswith("no answer within"):
                why = "its decoder process gave no sign of life"
            raise Disconnected("lost", why) from error

    def _frame(self, header: dict[str, Any]) -> Received:
        assert self._memory is not None
        height, width = header["height"], header["width"]
        image = np.empty((height, width, 3), np.uint8)
        slot = self._memory.slot(header["slot"])
        image.data.cast("B")[:] = slot[: image.nbytes]
        slot.release()
        try:
            self._child.send(
                {"kind": "free", "generation": self._generation, "slot": header["slot"]}
            )
        except StreamDiffVSRError as error:
            raise Disconnected("lost", error.why) from error
        return image, header

    def _attach(self, header: dict[str, Any]) -> None:
        self.free()
        self._generation = header["generation"]
        try:
            self._memory = SharedFrames.open(header["name"], header["slots"], header["slot_bytes"])
        except OSError as error:
            raise Disconnected("lost", f"shared memory: {error.strerror}") from error

    def _check_silence(self, silent_s: float) -> None:
        if self._opening_since is not None:
            waited = time.monotonic() - self._opening_since
            if self._open_s is not None and waited > self._open_s:
                raise Disconnected("lost", f"no answer within {self._open_s:g} s")
        elif silent_s > self._stall_s:
            raise Disconnected("lost", f"nothing came for {self._stall_s:g} s")


_TICK_S = 1e-3  # the least time from one frame to the next
_MAX_DRIFT_S = 5.0  # the most by which the two clocks may differ over one step


class Timeline:
    """Places frames on one timeline; the first is at 0."""

    def __init__(self) -> None:
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
        if own is not None and self._own is not None:
            step = own - self._own
            jumped = step < 0 or step > waited + _MAX_DRIFT_S
            if jumped:
                step = waited
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
        open_timeout_s: The longest an attempt may take to connect.
        stall_timeout_s: The longest a playing source may be silent.
        reconnect: Whether to try again after a failure; a file is never tried again.
        backoff: How long to wait before each attempt; None for the usual way.
    """

    def __init__(
        self,
        address: Address,
        *,
        tell: Callable[[str], None] = lambda line: None,
        open_timeout_s: float = 5.0,
        stall_timeout_s: float = 2.0,
        reconnect: bool = True,
        backoff: Backoff | None = None,
    ) -> None:
        self._address, self._tell = address, tell
        self._timeouts = {"open_timeout_s": open_timeout_s, "stall_timeout_s": stall_timeout_s}
        self._reconnect = reconnect and address.kind != "file"
        self._backoff = backoff or (Backoff(*_LISTENING) if address.listens else Backoff())
        self._changed = threading.Condition()
        self._frame: LiveFrame | None = None
        self._end: Callable[[], Exception] | None = None
        self._connection: Connection | None = None
        self._closed = threading.Event()
        self._status = SourceStatus()
        self._timeline = Timeline()
        self._epoch = -1
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
            return {"name": self._address.shown, **self._status.to_json()}

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
        return EOFError

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
            self._status.error = why
        return lambda: StreamDiffVSRError(what, why, remedy)

    def _play(self, delay_s: float) -> None:
        """Connects after a wait and keeps the newest frame, until an exception ends it."""
        connection = self._started_in(delay_s)
        if connection is None:
            return
        try:
            connection.open()
            self._timeline.restart()
            self._shape = None
            first_index = self._status.received
            while not self._closed.is_set():
                received = connection.receive()
                if received:
                    self._keep(received, first_index, connection.codec)
        finally:
            connection.close()
            connection.free()

    def _started_in(self, delay_s: float) -> Connection | None:
        """Returns a connection whose process is up after the wait; None if this was closed."""
        due = time.monotonic() + delay_s
        if self._closed.wait(max(0.0, delay_s - _LEAD_S)):
            return None
        try:
            connection = Connection(self._address, **self._timeouts)
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

    def _keep(self, received: Received, first_index: int, codec: str) -> None:
        image, header = received
        seconds, jumped = self._timeline.place(header["seconds"], header["captured"])
        shape = (header["height"], header["width"], header["format"])
        before, self._shape = self._shape, shape
        if jumped or shape != before:
            self._epoch += 1
        frame = LiveFrame(
            image=image,
            seconds=seconds,
            captured=header["captured"],
            epoch=self._epoch,
            index=first_index + header["index"],
            damaged=header["damaged"],
        )
        with self._changed:
            if before is None:
                self._status.playing(codec)
            self._status.frame(frame, replaced=self._frame is not None)
            if not self._closed.is_set():
                self._frame = frame
                self._changed.notify_all()
        if before is None:
            self._played_since = time.monotonic()
            self._last_said = ""
            self._say(f"playing, {shape[1]}x{shape[0]} {codec}")
        elif shape[:2] != before[:2]:
            self._say(f"its frames are {shape[1]}x{shape[0]} from here on")

    def _note_failure(self, ended: Disconnected, delay_s: float) -> None:
        if self._closed.is_set():
            return
        with self._changed:
            self._status.waiting(ended.why, delay_s)
        if ended.why != self._last_said:  # one line for the same failure again and again
            self._last_said = ended.why
            self._say(f"{ended.why}; trying again in {delay_s:.1f} s")

    def _say(self, change: str) -> None:
        self._tell(f"{self._address.shown}: {hide(change, self._address.secrets)}")
