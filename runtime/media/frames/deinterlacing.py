"""Frames of two fields made into whole pictures, one for each, by libavfilter's bwdif.

Runs in the child. What comes out for a frame depends on it and its two neighbours only, wherever
the reading began. Progressive frames are left as they are, and a file of nothing else never meets
the filter. Times and durations stay those of the decoder.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any

import av
from av.filter import Graph


class Deinterlacer:
    """Takes the frames of one stream in order of display; gives each back, one frame later."""

    def __init__(self) -> None:
        self._graph: Any = None
        self._kind: tuple[Any, ...] = ()
        self._before: Any = None  # the last frame that did not need the filter
        # What the filter holds; None for the frame that was only there to be a neighbour.
        self._held: deque[Any] = deque()

    def frames(self, frame: Any) -> list[Any]:
        """Take one frame; the finished ones."""
        if self._graph is None and not frame.interlaced_frame:
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
        bwdif = graph.add("bwdif", mode="send_frame", parity="auto", deint="all")
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
            if given is not None and given.interlaced_frame:
                made.pts, made.time_base = given.pts, given.time_base
                made.duration = given.duration
                done.append(made)
            elif given is not None:
                done.append(given)


def _kind(frame: Any) -> tuple[Any, ...]:
    """What a filter is set up for."""
    return frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range
