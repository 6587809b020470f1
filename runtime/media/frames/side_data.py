"""What libav attaches to a frame beside its pixels, read so that no entry can do harm.

Runs in the child. PyAV wraps all entries at once: it frees the metadata of one twice, which kills
the process, and gives up at a kind that it does not know. So it sees only those that are asked for:
a filter takes the others off a second reference to the frame, whose pixels are not copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import av
from av.filter import Graph
from av.sidedata.sidedata import SideDataContainer

DISPLAY_MATRIX = 6  # libav's number
_KINDS = 64  # twice as many as libav has


class SideData:
    """Reads entries of those kinds, by libav's numbers; set up anew where the format changes.

    Colour profiles cannot be asked for: they are what has metadata.
    """

    def __init__(self, kinds: Iterable[int]) -> None:
        self._others = sorted(set(range(_KINDS)) - set(kinds))
        self._graph: Any = None
        self._form: tuple[Any, ...] = ()

    def read(self, frame: Any) -> dict[int, bytes]:
        """The entries of a frame by their kind; none where they cannot be read."""
        form = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        try:
            if form != self._form:
                self._graph, self._form = self._made(form), form
            self._graph.push(frame)
            # Not by `frame.side_data`: the two would hold each other, and the pixels with them.
            wrap: Any = SideDataContainer
            return {data.type.value: bytes(data) for data in wrap(self._graph.pull())}
        except (ValueError, av.error.FFmpegError):  # no such filter, or none for that format
            self._form = ()
            return {}

    def _made(self, form: tuple[Any, ...]) -> Any:
        width, height, name, matrix, colour_range = form
        graph = Graph()
        last = graph.add(
            "buffer",
            video_size=f"{width}x{height}",
            pix_fmt=name,
            time_base="1/1000",  # not used
            pixel_aspect="1/1",
            colorspace=str(matrix),
            range=str(colour_range),
        )
        chain = [graph.add("sidedata", mode="delete", type=str(kind)) for kind in self._others]
        for part in [*chain, graph.add("buffersink")]:
            last.link_to(part)
            last = part
        graph.configure()
        return graph
