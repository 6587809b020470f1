"""Turns decoded frames into the pictures that are sent: deinterlaced and upright."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
from av.filter import Graph

from .colour import mastering_of
from .info import VideoInfo
from .pixels import (
    add_source,
    bits_of,
    colour_of,
    filter_input,
    has_alpha,
    is_skewed,
    quarter_turns,
    upright_size,
)


class Request(NamedTuple):
    """The request that a reader carries out.

    Attributes:
        path: The file, the folder or the pattern.
        shown: The path as the user wrote it.
        failure: The beginning of error messages.
        beat: Called after each packet, or before each picture.
        begin, deinterlace, fps: As in ``FileSource``.
    """

    path: Path
    shown: Path
    failure: str
    beat: Callable[[], None]
    begin: float | None
    deinterlace: str
    fps: Fraction | None


class Picture(NamedTuple):
    """A libav frame with its time.

    Attributes:
        pts, duration: When and for how long it is shown, in ticks of its description's time base.
        mirrored: Whether to flip it vertically, before it is turned by its rotation.
    """

    frame: Any
    pts: int
    duration: int | None
    mirrored: bool = False


def describe_picture(
    frame: Any, *, sample_aspect: Fraction = Fraction(1), alpha: bool = False, **fields: Any
) -> VideoInfo:
    """Returns the description of a file with this first frame.

    Args:
        frame: The frame from the decoder, not deinterlaced.
        sample_aspect: Width : height of a pixel of the frame as stored.
        alpha: Whether the container declares transparency.
        fields: The other fields of ``VideoInfo``.
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
        **fields,
    )


def _is_transparent(frame: Any) -> bool:
    """Returns whether any pixel is transparent; YUV with an alpha plane counts as such."""
    if not has_alpha(frame):
        return False
    if not (frame.format.is_rgb or frame.format.has_palette):
        return True
    from .file_pixels import FilePixels

    return not FilePixels().opaque(frame)


# libav's numbers of a container's field order, by the field that is shown first.
_UPPER_FIRST, _LOWER_FIRST = (2, 5), (3, 4)
# Codecs that mark each picture. Containers repeat what they saw of the first few: films on DVD,
# whose frames are progressive, are declared as interlaced.
_MARK_EACH_PICTURE = frozenset({"mpeg2video", "vc1"})


class Fields(NamedTuple):
    """The frames of a stream that are made of two fields, and the field that comes first.

    Attributes:
        every: Whether all are; otherwise those that are marked.
        parity: "tff" or "bff" for all; "auto" for the order each is marked with, else upper first.
    """

    every: bool = False
    parity: Literal["auto", "tff", "bff"] = "auto"


def declared_fields(codec: str, order: int, first: Any) -> Fields:
    """Returns the fields that a stream declares.

    A first frame that is marked as interlaced comes from a codec that marks every frame, which
    takes precedence over the container. Many codecs cannot mark frames.

    Args:
        codec: libav's name of the codec.
        order: libav's number of the container's field order, before a decoder has changed it.
        first: The first decoded frame.
    """
    if first.interlaced_frame or order not in (*_UPPER_FIRST, *_LOWER_FIRST):
        return Fields()
    return Fields(codec not in _MARK_EACH_PICTURE, "tff" if order in _UPPER_FIRST else "bff")


def fields_wanted(asked: str, declared: Fields) -> Fields | None:
    """Returns which frames to deinterlace, by the option of ``FileSource``; None for none."""
    if asked == "off":
        return None
    if asked == "on":
        return declared._replace(every=True)
    if asked in ("tff", "bff"):
        return Fields(True, "tff" if asked == "tff" else "bff")
    return declared if declared.every else Fields()


class Deinterlacer:
    """Deinterlaces the frames of one stream in order of display, with a delay of one frame."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._graph: Any = None
        self._kind: tuple[Any, ...] = ()
        self._before: Any = None  # the last frame that did not need the filter
        # Frames inside the filter; None for one that only serves as a neighbour.
        self._held: deque[Any] = deque()

    def frames(self, frame: Any) -> list[Any]:
        """Takes one frame; returns those that are finished."""
        if self._graph is None and not self._has_fields(frame):
            self._before = frame
            return [frame]
        kind = filter_input(frame)
        done = self.rest() if self._graph is not None and kind != self._kind else []
        if self._graph is None:
            self._start(frame, kind)
        self._push(frame, frame)
        return done + self._pulled()

    def rest(self) -> list[Any]:
        """Returns the frames held back, at the end of the stream."""
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
        self._graph = graph = Graph()
        source = add_source(graph, kind, str(frame.time_base or Fraction(1, 90000)))
        # "all": passing progressive frames through would change the filter's state after them.
        bwdif = graph.add("bwdif", mode="send_frame", parity=self._fields.parity, deint="all")
        sink = graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        graph.configure()
        before, self._before = self._before, None
        if before is not None and filter_input(before) == kind:
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
