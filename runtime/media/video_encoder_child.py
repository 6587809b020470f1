"""Opens a video encoder and gives its packets decoding times that never go back."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from av.container import OutputContainer

from ..processes import messages
from .colour import RGB, Colour
from .rgb import RgbFrame


class DecodingTimes:
    """Gives each packet, in decoding order, its decoding time.

    The k-th packet is decoded at the time the (k - r)-th frame is shown, r the frames a decoder
    holds back to show them in order; the first r a step apart before the first frame. So decoding
    times advance whatever the times of frames are, and a constant rate stays one.

    Args:
        first: When the first frame is shown, in ticks.
        reorder: r, at least.
        step: Ticks between the first ones.
    """

    def __init__(self, first: int, reorder: int, step: int) -> None:
        self._first, self._reorder, self._step = first, reorder, step
        self._shown: list[int] = []  # pts that no packet is decoded at yet
        self._count = 0

    def of(self, pts: int) -> int:
        """The decoding time of the next packet, whose frame is shown at ``pts``."""
        heapq.heappush(self._shown, pts)
        self._count += 1
        if self._count <= self._reorder:
            return self._first - (self._reorder - self._count + 1) * self._step
        return heapq.heappop(self._shown)


_X265_REORDER = 4  # frames; its pyramids have two levels, so it needs fewer


class VideoEncoder:
    """A fresh encoder, and its stream in ``output``.

    Args:
        output: Has no header yet.
        arguments: What `encoder_arguments` returned.
        rgb: Where the pixels of each frame are when :meth:`encode` is called.
    """

    def __init__(self, output: OutputContainer, arguments: messages.Header, rgb: RgbFrame) -> None:
        self._rgb = rgb
        self._colour = Colour(*arguments["colour"])
        # An RGB format is converted by no matrix; swscale wants to be told one all the same.
        self._matrix = 0 if self._colour.matrix == RGB else self._colour.swscale_matrix
        self._time_base = messages.unpack(arguments["time_base"]) or Fraction(1, 90000)
        self._encoder: str = arguments["encoder"]
        self._pixel_format: str = arguments["pixel_format"]
        self._durations: dict[int, int] = {}  # of the frames inside the encoder, by pts
        self._decoding: DecodingTimes | None = None
        self.stream = self._add(output, arguments)

    def encode(self, pts: int, duration: int) -> Iterator[Any]:
        """Encode what is in ``rgb`` now; packets that are ready, each with its duration."""
        frame = self._rgb.converted(self._pixel_format, self._matrix, self._colour.range)
        frame.pts, frame.time_base = pts, self._time_base
        frame.color_primaries = self._colour.primaries  # some encoders believe only the frame
        frame.color_trc = self._colour.transfer
        if not self._durations and self._decoding is None:
            self._begin(pts, duration)
        self._durations[pts] = duration
        yield from map(self._timed, self.stream.encode(frame))

    def flush(self) -> Iterator[Any]:
        """The packets that were still inside."""
        yield from map(self._timed, self.stream.encode_lazy(None))

    def _begin(self, pts: int, duration: int) -> None:
        # x265 leaves the decoding times of one or two frames without a value, whatever is there.
        if self._encoder == "libx265":
            self._decoding = DecodingTimes(pts, _X265_REORDER, max(1, duration))

    def _timed(self, packet: Any) -> Any:
        packet.duration = self._durations.pop(packet.pts, 0)  # the encoder does not carry it
        if self._decoding:
            packet.dts = self._decoding.of(packet.pts)
        return packet

    def _add(self, output: OutputContainer, arguments: messages.Header) -> Any:
        height, width = arguments["size"]
        stream: Any = output.add_stream(
            arguments["encoder"],
            rate=messages.unpack(arguments["rate"]) or Fraction(25),  # a hint: times rule
            options=dict(arguments["options"]),
            width=width,
            height=height,
            time_base=self._time_base,
            pix_fmt=self._pixel_format,
        )
        stream.time_base = self._time_base
        context = stream.codec_context
        if arguments["tag"]:
            context.codec_tag = arguments["tag"]
        context.sample_aspect_ratio = messages.unpack(arguments["sample_aspect"])
        context.colorspace, context.color_range = self._colour.matrix, self._colour.range
        context.color_primaries = self._colour.primaries
        context.color_trc = self._colour.transfer
        return stream
