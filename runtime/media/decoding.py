"""The reader's side of a file source: demux, decode, turn upright, convert to RGB, send.

Runs in the child. Packets that cannot be decoded are counted and stepped over, and the frames the
decoder still holds at the end are sent too. It does not deinterlace, map HDR to SDR or keep alpha.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from io import RawIOBase
from pathlib import Path
from typing import Any

from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from ...errors import StreamDiffVSRError
from . import libav, wire
from .info import VideoInfo
from .pixels import colour_of, quarter_turns, upright_rgb, upright_size

MAX_SIDE = 16384
MAX_PIXELS = 1 << 26  # 67 million: 8K is 33 million
_BEAT_S = 1.0


def serve(arguments: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Send one ``info`` message, then a ``frame`` message per frame, then ``end``."""
    threading.Thread(target=_end_with_parent, args=(inbox,), daemon=True).start()
    libav.quiet()
    failure = f"could not read {arguments['shown']!r}"
    with libav.open_video(Path(arguments["path"]), failure) as container:
        reader = _Reader(container, Path(arguments["shown"]), failure, outbox)
        frames = reader.frames()
        first = next(frames, None)
        if first is None:
            raise StreamDiffVSRError(failure, f"no frame of it could be decoded{reader.last_error}")
        wire.send(outbox, {"kind": "info", "info": reader.describe(first).to_wire()})
        if not arguments["frames"]:
            return
        reader.send(first)
        for frame in frames:
            reader.send(frame)
        wire.send(outbox, {"kind": "end", "damaged": reader.damaged})


class _Reader:
    def __init__(
        self, container: InputContainer, shown: Path, failure: str, outbox: RawIOBase
    ) -> None:
        self._container, self._shown, self._outbox = container, shown, outbox
        self._failure = failure
        self._stream = libav.moving_picture(container)
        if self._stream.codec_context is None:
            raise StreamDiffVSRError(
                failure, "its video codec is unknown here, or the file is cut off"
            )
        self._time_base: Fraction = self._stream.time_base
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        self._frame_ticks = 1 / (Fraction(rate) * self._time_base)
        self._last_ticks: Fraction | None = None
        self._reformatter = VideoReformatter()
        self._sent_at = time.monotonic()
        self._busy_since = time.perf_counter()
        self._check_size(self._stream.codec_context.width, self._stream.codec_context.height)
        self.damaged = 0
        self.last_error = ""

    def frames(self) -> Iterator[Any]:
        """Decoded frames; counts in ``damaged`` each packet with any sign of damage."""
        logged = libav.logged_errors()
        for packet in libav.packets(self._container, [self._stream]):
            decoded, whole = self._decode(packet)
            seen, logged = logged, libav.logged_errors()
            self.damaged += not whole or logged > seen
            self._beat()
            yield from decoded

    def _decode(self, packet: Any) -> tuple[list[Any], bool]:
        if packet is None:
            return [], False
        try:
            frames = packet.decode()
        except Exception as error:  # AttributeError and IndexError come out of libav's depths too
            self.last_error = f" ({libav.describe(error)})"
            return [], isinstance(error, EOFError)
        return frames, not (packet.is_corrupt or any(frame.is_corrupt for frame in frames))

    def describe(self, frame: Any) -> VideoInfo:
        stream = self._stream
        rotation = quarter_turns(frame) * 90
        turned = rotation % 180 != 0
        height, width = upright_size(frame)
        aspect = Fraction(stream.sample_aspect_ratio or 0) or Fraction(1)
        seconds = _duration_seconds(self._container, stream)
        estimate = round(seconds * stream.average_rate) if seconds and stream.average_rate else None
        return VideoInfo(
            path=self._shown,
            width=width,
            height=height,
            average_rate=Fraction(stream.average_rate) if stream.average_rate else None,
            time_base=self._time_base,
            start_time=0 if frame.pts is None else frame.pts,
            duration_seconds=seconds,
            frames=stream.frames or estimate,
            audio_streams=len(self._container.streams.audio),
            codec=stream.codec_context.name,
            pix_fmt=frame.format.name,
            colour=colour_of(frame),
            rotation=rotation,
            sample_aspect=1 / aspect if turned else aspect,
        )

    def send(self, frame: Any) -> None:
        """Send one frame as (h, w, 3) uint8 RGB with its time."""
        self._check_size(frame.width, frame.height)
        height, width = upright_size(frame)
        pixels = upright_rgb(self._reformatter, frame)
        header = {
            "kind": "frame",
            "pts": self._pts(frame),
            "duration": frame.duration or None,
            "height": height,
            "width": width,
            "damaged": self.damaged,
            "busy": [self._busy_since, time.perf_counter()],
        }
        wire.send(self._outbox, header, pixels)
        self._sent_at = time.monotonic()
        self._busy_since = time.perf_counter()

    def _pts(self, frame: Any) -> int:
        """The frame's own time; one nominal frame after the last where it has none."""
        if frame.pts is not None:
            own = frame.time_base or self._time_base
            self._last_ticks = Fraction(frame.pts) * own / self._time_base
        elif self._last_ticks is None:
            self._last_ticks = Fraction(0)
        else:  # kept as a fraction, so that a long run does not drift
            self._last_ticks += self._frame_ticks
        return round(self._last_ticks)

    def _beat(self) -> None:
        """Tell the parent that a stretch without frames is not a hang."""
        if time.monotonic() - self._sent_at > _BEAT_S:
            wire.send(self._outbox, {"kind": "beat"})
            self._sent_at = time.monotonic()

    def _check_size(self, width: int, height: int) -> None:
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise StreamDiffVSRError(
                self._failure,
                f"its frames are {width}x{height}, and at most {MAX_SIDE} a side and "
                f"{MAX_PIXELS >> 20} megapixels are read",
            )


def _end_with_parent(inbox: RawIOBase) -> None:
    """The parent sends nothing more, so the end of the pipe is the end of the parent."""
    inbox.read(1)
    os._exit(1)


def _duration_seconds(container: InputContainer, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else None
