"""RGB frames to the packets of one encoder, in an output that somebody else has opened.

Runs in the child. It knows nothing of files, segments, sound, or where packets go.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from av.container import OutputContainer

from ...processes import wire
from ..frames.colour import RGB, Colour
from ..frames.rgb import RgbFrame
from .decoding_times import DecodingTimes

_X265_REORDER = 4  # frames; its pyramids have two levels, so it needs fewer


class VideoEncoder:
    """A fresh encoder, and its stream in ``output``.

    Args:
        output: Has no header yet.
        arguments: What :func:`encoder_arguments.encoder_arguments` made.
        rgb: Where the pixels of each frame are when :meth:`encode` is called.
    """

    def __init__(self, output: OutputContainer, arguments: wire.Header, rgb: RgbFrame) -> None:
        self._rgb = rgb
        self._colour = Colour(*arguments["colour"])
        # An RGB format is converted by no matrix; swscale wants to be told one all the same.
        self._matrix = 0 if self._colour.matrix == RGB else self._colour.swscale_matrix
        self._time_base = wire.unpack(arguments["time_base"]) or Fraction(1, 90000)
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

    def _add(self, output: OutputContainer, arguments: wire.Header) -> Any:
        height, width = arguments["size"]
        stream: Any = output.add_stream(
            arguments["encoder"],
            rate=wire.unpack(arguments["rate"]) or Fraction(25),  # a hint: times rule
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
        context.sample_aspect_ratio = wire.unpack(arguments["sample_aspect"])
        context.colorspace, context.color_range = self._colour.matrix, self._colour.range
        context.color_primaries = self._colour.primaries
        context.color_trc = self._colour.transfer
        return stream
