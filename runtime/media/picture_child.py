"""Turns decoded frames into the pictures that are sent: deinterlaced and upright."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import av
from av.filter import Graph

from .colour import mastering_of
from .info import VideoInfo
from .pixels import bits_of, colour_of, has_alpha, is_skewed, quarter_turns, upright_size


class Picture(NamedTuple):
    """A libav frame with its time.

    Attributes:
        pts, duration: When and for how long it is shown, in ticks of its description's time base.
        mirrored: It is stored upside down in a mirror, before it is turned by its rotation.
    """

    frame: Any
    pts: int
    duration: int | None
    mirrored: bool = False


def describe_picture(
    frame: Any, *, sample_aspect: Fraction = Fraction(1), alpha: bool = False, **told: Any
) -> VideoInfo:
    """The description of a file whose first frame this is.

    Args:
        frame: Undeinterlaced, as the decoder gave it.
        sample_aspect: Of the frame as it is stored.
        alpha: The container says that there is transparency.
        told: The other fields of ``VideoInfo``.
    """
    rotation = quarter_turns(frame) * 90
    height, width = upright_size(frame)
    return VideoInfo(
        width=width,
        height=height,
        pix_fmt=frame.format.name,
        colour=colour_of(frame),
        rotation=rotation,
        skewed=is_skewed(frame),
        sample_aspect=1 / sample_aspect if rotation % 180 else sample_aspect,
        depth=bits_of(frame),
        alpha=alpha or _is_transparent(frame),
        mastering=mastering_of(frame),
        **told,
    )


def _is_transparent(frame: Any) -> bool:
    """YUV has a plane for transparency only if that is wanted; RGB often has one for nothing."""
    if not has_alpha(frame):
        return False
    if not (frame.format.is_rgb or frame.format.has_palette):
        return True
    from .file_pixels import FilePixels

    return not FilePixels().opaque(frame)


# libav's numbers of a container's field order, by the field that is shown first.
_UPPER_FIRST, _LOWER_FIRST = (2, 5), (3, 4)
# Each picture of these says what it is, and containers repeat what they saw of the first few:
# films on DVD, whose frames are whole, are told to be interlaced.
_TELL_THEMSELVES = frozenset({"mpeg2video", "vc1"})


class Fields(NamedTuple):
    """Which frames of a stream are made of two fields, and which field comes first.

    Attributes:
        every: All of them; else those that say so.
        parity: "tff" or "bff" for all; "auto": as each says, else the upper one.
    """

    every: bool = False
    parity: Literal["auto", "tff", "bff"] = "auto"


def fields_told(codec: str, order: int, first: Any) -> Fields:
    """What a stream tells of its fields.

    A first frame that says that it has fields is of a codec that tells it of each, and is believed
    before the container. Many codecs have no way to tell.

    Args:
        order: libav's number for what the container tells, before a decoder has changed it.
        first: The first decoded frame.
    """
    if first.interlaced_frame or order not in (*_UPPER_FIRST, *_LOWER_FIRST):
        return Fields()
    return Fields(codec not in _TELL_THEMSELVES, "tff" if order in _UPPER_FIRST else "bff")


def fields_wanted(asked: str, told: Fields) -> Fields | None:
    """Which frames to deinterlace, by an option as of ``FileSource``; None: none at all."""
    if asked == "off":
        return None
    if asked == "on":
        return told._replace(every=True)
    if asked in ("tff", "bff"):
        return Fields(True, "tff" if asked == "tff" else "bff")
    return told if told.every else Fields()


class Deinterlacer:
    """Takes the frames of one stream in order of display; gives each back, one frame later."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._graph: Any = None
        self._kind: tuple[Any, ...] = ()
        self._before: Any = None  # the last frame that did not need the filter
        # What the filter holds; None for the frame that was only there to be a neighbour.
        self._held: deque[Any] = deque()

    def frames(self, frame: Any) -> list[Any]:
        """Take one frame; the finished ones."""
        if self._graph is None and not self._has_fields(frame):
            self._before = frame
            return [frame]
        kind = _kind(frame)
        done = self.rest() if self._graph is not None and kind != self._kind else []
        if self._graph is None:
            self._start(frame, kind)
        self._push(frame, frame)
        return done + self._pulled()

    def rest(self) -> list[Any]:
        """What is held back, at the end of the stream."""
        if self._graph is None:
            return []
        self._graph.push(None)
        done = self._pulled()
        self._graph, self._before = None, None
        return done

    def _has_fields(self, frame: Any) -> bool:
        return self._fields.every or bool(frame.interlaced_frame)

    def _start(self, frame: Any, kind: tuple[Any, ...]) -> None:
        self._kind, self._held = kind, deque()
        width, height, form, matrix, colour_range = kind
        self._graph = graph = Graph()
        source = graph.add(
            "buffer",
            video_size=f"{width}x{height}",
            pix_fmt=form,
            time_base=str(frame.time_base or Fraction(1, 90000)),  # not used: times go around it
            pixel_aspect="1/1",
            colorspace=str(matrix),
            range=str(colour_range),
        )
        # "all", as its way of passing by progressive frames leaves it in another state behind them.
        bwdif = graph.add("bwdif", mode="send_frame", parity=self._fields.parity, deint="all")
        sink = graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        graph.configure()
        before, self._before = self._before, None
        if before is not None and _kind(before) == kind:
            self._push(before, None)

    def _push(self, frame: Any, held: Any) -> None:
        self._held.append(held)
        self._graph.push(frame)

    def _pulled(self) -> list[Any]:
        done: list[Any] = []
        while True:
            try:
                made = self._graph.pull()
            except (av.error.BlockingIOError, EOFError):
                return done
            given = self._held.popleft()
            if given is not None and self._has_fields(given):
                made.pts, made.time_base = given.pts, given.time_base
                made.duration = given.duration
                done.append(made)
            elif given is not None:
                done.append(given)


def _kind(frame: Any) -> tuple[Any, ...]:
    """What a filter is set up for."""
    return frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range
