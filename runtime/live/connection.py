"""Runs the process of one attempt at a live source: opened once, and played until the end.

Every way of ending is a `Disconnected`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ...errors import StreamDiffVSRError
from ..media.redact import redact
from ..processes.child import Child
from ..processes.shared_frames import SharedFrames
from .addresses import Address
from .frame import Image
from .sound import SoundMessage

_START_S = 30.0  # a process on a busy machine
_LIFE_S = 10.0  # without a sign of life, which a machine with time sends twice a second
_MEMORY_BYTES = 8 << 30  # address space: 8K H.264 with its references needs 2 GiB
_OPEN_S = 10.0
_STALL_S = 2.0  # or, where that is longer, the time of this many frames
_STALL_FRAMES = 4
_UNMEASURED_S = 10.0  # before the rate of a source is known
_PATIENCE_S = {"hls": 20.0, "file": 10.0}  # segments last seconds; a network disk must wake up


class Disconnected(Exception):
    """Raised when a source has no more frames; has a cause (see ``ending_child``) and a reason."""

    def __init__(self, cause: str, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.cause, self.why, self.remedy = cause, redact(why), remedy


Received = tuple[Image, dict[str, Any]]  # a frame from the child, and its message


class Connection:
    """A process for one attempt, started at once and opened by :meth:`open`.

    Args:
        address: The address to read.
        open_timeout_s: The longest that opening may take; None for the usual time.
        stall_timeout_s: The longest silence; None for one that follows from the source's rate.
        sound: Whether sound is wanted, too.

    Attributes:
        codec: libav's name of the codec.
        transport: "tcp" or "udp" if the source is RTSP and open, else "".

    Raises:
        StreamDiffVSRError: The process cannot be started.
    """

    def __init__(
        self,
        address: Address,
        *,
        open_timeout_s: float | None,
        stall_timeout_s: float | None,
        sound: bool = False,
    ) -> None:
        patience_s = _PATIENCE_S.get(address.kind, 0.0)
        open_s = max(open_timeout_s or _OPEN_S, patience_s)
        self._open_s = None if address.listens else open_s
        self._patience_s, self._stall_s = patience_s, stall_timeout_s
        self._transports = address.transports
        self._described = False  # the server has answered, and only pictures are missing
        self._memory: SharedFrames | None = None
        self._generation = 0
        self._opening_since: float | None = None
        self.codec = self.transport = ""
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
                "transports": list(address.transports),
                "sound": sound,
                "relay": address.relay and address.relay.arguments(),
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
        while self._message(_START_S)[0]["kind"] != "ready":
            pass
        try:
            self._child.send({"kind": "open"})
        except StreamDiffVSRError as error:
            raise Disconnected("lost", error.why) from error
        self._opening_since = time.monotonic()

    def receive(self) -> Received | SoundMessage | None:
        """Returns the next frame or what was said of sound, or None for any other message.

        A message comes at least twice a second.

        Raises:
            Disconnected: The source ended, failed, or was silent for too long.
        """
        header, payload = self._message(_LIFE_S)
        match header["kind"]:
            case "frame":
                return self._frame(header)
            case "sound" | "sounds" | "sound_stream" | "sound_lost":
                return SoundMessage(header, bytes(payload))
            case "memory":
                self._attach(header)
            case "opened":
                self._opening_since, self.codec = None, header["codec"]
                self.transport = header["transport"]
            case "described":
                self._described = True
            case "beat":
                self._check_silence(header["silent_s"], header["period_s"])
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

    def _message(self, deadline_s: float) -> tuple[dict[str, Any], memoryview]:
        try:
            return self._child.receive(deadline_s)
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

    def _check_silence(self, silent_s: float, period_s: float | None) -> None:
        if self._opening_since is not None:
            waited = time.monotonic() - self._opening_since
            if self._open_s is not None and waited > self._open_s:
                self._give_up_opening(self._open_s)
        elif silent_s > (limit_s := self._longest_silence(period_s)):
            raise Disconnected("lost", f"nothing came for {limit_s:.3g} s")

    def _give_up_opening(self, waited_s: float) -> None:
        if not self._described:
            raise Disconnected("lost", f"no answer within {waited_s:g} s")
        over = self._transports[0].upper()
        why = f"its server answers, but no picture came over {over} within {waited_s:g} s"
        raise Disconnected("silent", why)

    def _longest_silence(self, period_s: float | None) -> float:
        if self._stall_s is not None:
            return max(self._stall_s, self._patience_s)
        usual_s = _UNMEASURED_S if period_s is None else max(_STALL_S, _STALL_FRAMES * period_s)
        return max(usual_s, self._patience_s)
