"""Makes one attempt to play a live source: its child process, messages and deadlines.

It opens once and plays until the end; every way of ending is a :class:`Disconnected`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import StreamDiffVSRError
from ..media.redact import redact
from ..processes.child import Child
from ..processes.shared_frames import SharedFrames
from .addresses import Address
from .frame import Image

_START_S = 30.0  # a process on a busy machine
_LIFE_S = 10.0  # without a sign of life, which a machine with time sends twice a second
_MEMORY_BYTES = 8 << 30  # address space: 8K H.264 with its references needs 2 GiB
_PATIENCE_S = {"hls": 20.0, "file": 10.0}  # segments last seconds; a network disk must wake up


class Disconnected(Exception):
    """Raised when a source has no more frames; has a cause (see ``opening_child``) and a reason."""

    def __init__(self, cause: str, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.cause, self.why, self.remedy = cause, redact(why), remedy


@dataclass(frozen=True, slots=True)
class Received:
    """A frame from the child; ``header`` is its message."""

    image: Image
    header: dict[str, Any]


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
        return Received(image, header)

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
