"""The encoder process of one opening of a sink."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import StreamDiffVSRError
from ..media.encoders import HARDWARE
from ..media.formats import check_size, live_encoder
from ..processes.child import Child
from ..processes.messages import pack
from .frame import OutputFrame
from .sink_targets import Target
from .sound import SoundPacket, SoundStream
from .sound_queue import SoundReport, described, in_messages

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
        sounds: The streams of sound to write, as far as the target takes them.
        report: Is given what becomes of the sound.

    Attributes:
        transport: That of RTSP once it is open, "tcp" or "udp"; else "".
        sounds: The streams of sound that it was opened with.

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
        sounds: tuple[SoundStream, ...] = (),
        report: SoundReport | None = None,
    ) -> None:
        self.size, self.path, self.transport = size, path, ""
        self.sounds, self._report = sounds, report or SoundReport()
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
                "sounds": described(sounds),
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
        self.transport, self._report.about = answer["transport"], answer["sound"]
        encoder: str = answer["encoder"]
        return encoder

    def write(self, frame: OutputFrame, ticks: int) -> None:
        """Writes one frame, shown at that many 1/90000 s; returns when it is written.

        Raises:
            StreamDiffVSRError: It was not written; may be one of the two kinds above.
        """
        self._child.send({"kind": "frame", "ticks": ticks}, np.ascontiguousarray(frame.image).data)
        self._report.add(self._receive(self._deadlines.frame_s)["sound"])

    def hear(self, packets: list[SoundPacket], origin: float) -> None:
        """Writes sound; what became of it is known after the next frame.

        Args:
            origin: The time of the stream that is 0 in the output.

        Raises:
            StreamDiffVSRError: It was not written.
        """
        known = [packet for packet in packets if packet.stream in self.sounds]
        if not self._report.about:
            self._report.dropped += len(known)
            return
        for header, payload in in_messages(known, origin):
            self._child.send(header, payload)

    def finish(self) -> None:
        """Writes what the encoder still holds, and ends the child.

        Raises:
            StreamDiffVSRError: The output is not finished; may be one of the two kinds above.
        """
        try:
            self._child.send({"kind": "end"})
            self._report.add(self._receive(self._deadlines.close_s)["sound"])
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
