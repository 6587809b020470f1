"""Decodes a video stream in order of display, from a time on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Any

import av
from av.container import InputContainer
from av.video.frame import PictureType

from ...errors import StreamDiffVSRError
from . import diagnosis, libav
from .frame_times_child import DisplayTimes, Measured, claimed, measure
from .info import OtherKind, OtherStream, VideoInfo
from .libav import check_frame_size
from .picture_child import (
    Deinterlacer,
    Fields,
    Picture,
    Request,
    declared_fields,
    describe_picture,
    fields_wanted,
)
from .pixels import Mirrors

_KINDS = ("audio", "subtitle", "attachment", "video")  # any other stream is data


def codec_name(stream: Any) -> str:
    """Returns the codec of a stream, regardless of its decoder; "" if libav does not know it."""
    context = stream.codec_context
    return str(context.codec.canonical_name) if context else ""


def has_separate_alpha(stream: Any) -> bool:
    """Returns whether transparency is stored separately, as in VP8 and VP9 in WebM."""
    return any(
        key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items()
    )


def other_streams(container: InputContainer, picture: Any) -> tuple[OtherStream, ...]:
    """Returns all streams except the picture."""
    return tuple(
        _described(stream) for stream in container.streams if stream.index != picture.index
    )


def _described(stream: Any) -> OtherStream:
    kind: OtherKind = stream.type if stream.type in _KINDS else "data"
    if kind == "video" and stream.disposition & av.stream.Disposition.attached_pic:
        kind = "cover"
    return OtherStream(kind, codec_name(stream), stream.language or "")


# Containers with an index of key frames. Others seek by bytes, or have times that repeat.
_INDEXED = ("mov", "matroska")
_KEY_FRAMES_BACK = 2  # frames shown before the nearer one may depend on earlier frames
_MAX_SEEKS = 12


def seek_before(container: InputContainer, stream: Any, begin: float) -> bool:
    """Seeks to the second key frame before a time; returns False if that is not possible.

    After False, the container has to be opened again.

    Args:
        container: A container of which only this stream is read.
        stream: The stream of video.
        begin: The time, in seconds of the file's own times.
    """
    if not container.format.name.startswith(_INDEXED):
        return False
    target = math.floor(Fraction(begin) / stream.time_base)
    seen: set[int] = set()
    for _ in range(_MAX_SEEKS):
        key = _key_frame_at(container, stream, target)
        if key is None:
            return False
        shown, decoded = key
        if shown * stream.time_base <= begin:
            seen.add(shown)
        if len(seen) == _KEY_FRAMES_BACK:
            container.seek(target, stream=stream)
            return True
        earlier = min(shown, decoded) - 1
        if earlier >= target:
            return False  # it landed after its target: the first key frame, or a bad index
        target = earlier
    return False


def _key_frame_at(container: InputContainer, stream: Any, target: int) -> tuple[int, int] | None:
    """Returns pts and dts of the key frame that a seek to those ticks reaches; None for none."""
    try:
        container.seek(target, stream=stream)
        packet = next(iter(container.demux(stream)))
    except Exception:  # IndexError or FFmpegError: the file is read from its start
        return None
    if not packet.is_keyframe or packet.pts is None:
        return None
    return packet.pts, packet.pts if packet.dts is None else packet.dts


# libav's own decoders of these ignore transparency that is stored separately.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class VideoFrames:
    """The frames of one file, in order of display.

    Attributes:
        damaged: Number of packets with any sign of damage, from the first picture given.
    """

    def __init__(self, request: Request) -> None:
        self._path, self._shown, self._failure, self._beat = request[:4]
        self._begin, self._deinterlace, self._fps = request[4:]
        self.damaged = self._damaged_before = 0
        self._sought = False
        self._last_error = ""
        self._mirrors, self._fields, self._measured = Mirrors(), Fields(), Measured()
        self._open()
        self._decoded: Any = self._decode_all()
        self._first: Any = None

    def describe(self) -> VideoInfo:
        """Returns the description, from the container, its packets and the first frame."""
        self._first = frame = next(self._decoded, None)
        if frame is None:
            raise StreamDiffVSRError(
                self._failure, *diagnosis.why_no_frame(self._path, self._last_error)
            )
        if self.damaged and (encrypted := diagnosis.encryption(self._path)):
            raise StreamDiffVSRError(self._failure, *encrypted)
        stream, container = self._stream, self._container
        self._fields = declared_fields(codec_name(stream), self._field_order, frame)
        plain = self._path.is_file()  # a pipe can be read only once
        self._measured = found = (
            measure(self._path, container, stream) if plain else claimed(container, stream)
        )
        return describe_picture(
            frame,
            path=self._shown,
            codec=codec_name(stream),
            sample_aspect=Fraction(stream.sample_aspect_ratio or 0) or Fraction(1),
            alpha=has_separate_alpha(stream),
            interlaced=frame.interlaced_frame or self._fields.every,
            average_rate=found.rate,
            time_base=self._time_base,
            start_time=0 if frame.pts is None else frame.pts,
            duration_seconds=found.seconds,
            frames=found.frames,
            counted=found.counted,
            least_frames=found.least,
            audio_streams=len(container.streams.audio),
            container=container.format.name,
            others=other_streams(container, stream),
            chapters=len(container.chapters()),
        )

    def pictures(self) -> Iterator[Picture]:
        """Yields every frame with its time, from ``begin`` on; call :meth:`describe` before."""
        if self._begin is None:
            yield from self._timed(self._from_first())
        elif not self._path.is_file():
            yield from self._from_begin(self._timed(self._from_first()), self._begin)
        else:
            pictures = self._from_begin(self._timed(self._after_seek(self._begin)), self._begin)
            first = next(pictures, None)
            if self._sought and self._damaged_before:
                # Concealment of lost pixels depends on all frames before: decode from the start.
                self._reopen()
                pictures = self._from_begin(self._timed(self._decode_all()), self._begin)
                first = next(pictures, None)
            if first:
                yield first
            first = None
            yield from pictures

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def _open(self) -> None:
        self._container: InputContainer = libav.open_video(self._path, self._failure)
        self._stream = stream = libav.moving_picture(self._container)
        if stream.codec_context is None:
            raise StreamDiffVSRError(self._failure, *diagnosis.why_no_decoder(self._path))
        self._time_base: Fraction = stream.time_base
        self._last_ticks: Fraction | None = None
        self._field_order = getattr(stream.codec_context, "field_order", 0)  # not before PyAV 18
        self._alpha_decoder = _alpha_decoder(stream)
        if stream.codec_context.name == "h264":
            # With slice threads, lost pixels keep the content of a reused buffer.
            stream.codec_context.thread_count = 1
        check_frame_size(stream.codec_context.width, stream.codec_context.height, self._failure)

    def _from_first(self) -> Iterator[Any]:
        """Yields the described frame and all after it, and keeps none of them alive."""
        first, self._first = self._first, None
        yield first
        del first
        yield from self._decoded

    def _after_seek(self, begin: float) -> Iterator[Any]:
        """Returns frames from before ``begin``: from the start if no seek is reliable."""
        self._reopen()
        if seek_before(self._container, self._stream, begin):
            frames = self._decode_all()
            first = next(frames, None)
            if first is not None and self._is_good_start(first, begin):
                self._sought = True
                return chain(iter([first]), frames)
        self._reopen()
        return self._decode_all()

    def _is_good_start(self, frame: Any, begin: float) -> bool:
        """Returns whether decoding can start at a frame: a gradual refresh has false key frames."""
        whole = frame.pict_type == PictureType.I and frame.pts is not None
        return whole and self._seconds(frame) <= begin

    def _reopen(self) -> None:
        self._first = self._decoded = None
        self._sought, self.damaged = False, 0
        self._container.close()
        self._open()

    def _from_begin(self, pictures: Iterator[Picture], begin: float) -> Iterator[Picture]:
        """Yields the last picture at or before a time, and all after it."""
        held: Picture | None = None
        for picture in pictures:
            if float(picture.pts * self._time_base) > begin:
                self._damaged_before, self.damaged = self.damaged, 0  # damage before is not counted
                if held:
                    yield held
                held = None
                yield picture
                break
            held = picture
        if held:
            self._damaged_before, self.damaged = self.damaged, 0
            yield held
        picture = None  # type: ignore[assignment]  # frees the buffer for the decoder
        yield from pictures

    def _decode_all(self) -> Iterator[Any]:
        """Yields decoded frames, the last one with its full duration."""
        times = DisplayTimes(self._container, self._stream)
        waiting: list[Any] = []  # in the end, the last packet and the flush packet
        shown_until: Fraction | None = None
        shown = 0
        for packet in libav.packets(self._container, [self._stream]):
            before, shown = shown, shown if packet is None or packet.pts is None else packet.pts
            if packet is None or packet.size:
                times.expect(packet)
                for left in waiting:
                    yield from times.order(self._frames_of(left, times))
                waiting, shown_until = [packet], None
            elif packet.dts is None:
                waiting.append(packet)
            elif packet.pts is not None:  # an empty packet: the last picture stays longer
                shown_until = (
                    shown + (packet.duration or max(0, shown - before))
                ) * self._time_base
        frames = [one for left in waiting for one in times.order(self._frames_of(left, times))]
        frames += times.rest()
        if frames:
            self._extend(frames[-1], shown_until)
        yield from frames

    def _frames_of(self, packet: Any, times: DisplayTimes) -> list[Any]:
        """Decodes a packet, and counts it in ``damaged`` if it has any sign of damage."""
        logged = libav.logged_errors()
        decoded, whole = self._decode(packet)
        if not whole or libav.logged_errors() > logged:
            self.damaged += 1
            if not decoded:
                times.lose(packet)
        self._beat()
        return decoded

    def _extend(self, frame: Any, until: Fraction | None) -> None:
        """Extends the last frame's duration to the end that the file declares."""
        ends = [end for end in (until, self._measured.end) if end is not None]
        if frame.pts is not None and ends:
            base = frame.time_base or self._time_base
            frame.duration = max(frame.duration or 0, round(max(ends) / base) - frame.pts)

    def _decode(self, packet: Any) -> tuple[list[Any], bool]:
        if packet is None:
            return [], False
        if _is_encrypted(packet):
            raise StreamDiffVSRError(
                self._failure, *(diagnosis.encryption(self._path) or diagnosis.ENCRYPTED)
            )
        try:
            if self._alpha_decoder:
                frames = self._alpha_decoder.decode(packet if packet.size else None)
            else:
                frames = packet.decode()
        except Exception as error:  # libav also raises AttributeError and IndexError
            self._last_error = f" ({libav.describe(error)})"
            return [], isinstance(error, EOFError)
        return frames, not (packet.is_corrupt or any(frame.is_corrupt for frame in frames))

    def _timed(self, frames: Iterator[Any]) -> Iterator[Picture]:
        wanted = fields_wanted(self._deinterlace, self._fields)
        deinterlacer = Deinterlacer(wanted) if wanted else None
        for frame in frames:
            for done in deinterlacer.frames(frame) if deinterlacer else [frame]:
                yield self._picture(done)
        for done in deinterlacer.rest() if deinterlacer else []:
            yield self._picture(done)

    def _picture(self, frame: Any) -> Picture:
        mirrored = self._mirrors.mirrored(frame)
        return Picture(frame, self._pts(frame), frame.duration or None, mirrored)

    def _pts(self, frame: Any) -> int:
        """Returns the frame's own time; without one, a nominal frame after the last."""
        if frame.pts is not None:
            own = frame.time_base or self._time_base
            self._last_ticks = Fraction(frame.pts) * own / self._time_base
        elif self._last_ticks is None:
            self._last_ticks = Fraction(0)
        else:  # kept as a fraction, so that a long run does not drift
            self._last_ticks += 1 / (self._rate * self._time_base)
        return round(self._last_ticks)

    @property
    def _rate(self) -> Fraction:
        """Frames per second of frames without times."""
        return Fraction(self._fps or self._measured.rate or self._stream.guessed_rate or 25)

    def _seconds(self, frame: Any) -> float:
        return float(frame.pts * (frame.time_base or self._time_base))


def _is_encrypted(packet: Any) -> bool:
    """Returns whether the demuxer marks the packet as encrypted; PyAV reports it from 16 on."""
    return hasattr(packet, "has_sidedata") and packet.has_sidedata("encryption_info")


def _alpha_decoder(stream: Any) -> Any:
    """Returns a decoder of separately stored transparency; None if none is needed."""
    name = _ALPHA_DECODERS.get(stream.codec_context.name)
    if name is None or not has_separate_alpha(stream):
        return None
    try:
        return av.CodecContext.create(name, "r")
    except ValueError:  # not in this build of libav: the picture is treated as opaque
        return None
