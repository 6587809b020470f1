"""What an output takes over from the file it was made from: sound, tags, nothing of the picture.

Runs in the child, beside the encoder. Packets are copied as they are, never decoded, and stay in
the time base they came in. It does not know how the picture is encoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.container import InputContainer, OutputContainer

from ...errors import StreamDiffVSRError
from . import libav

# Written by muxers about the file they wrote, so not true of the new one.
_STALE = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "rotate")
_STALE_PREFIXES = ("_statistics", "bps", "number_of_", "vendor_id")


class Origin:
    """The source of an output, demuxed a second time for what is copied from it.

    Args:
        path: The source.
        copy_sound: Whether its audio streams are copied; its tags always are.
    """

    def __init__(self, path: Path, *, copy_sound: bool) -> None:
        self._input: InputContainer = libav.open_input(path)
        self._streams: list[Any] = list(self._input.streams.audio) if copy_sound else []
        self._copies: dict[int, Any] = {}
        self._packets = libav.packets(self._input, self._streams) if self._streams else iter(())
        self._held: Any = None  # read, but not due yet

    @property
    def audio_streams(self) -> int:
        """How many streams of sound are copied."""
        return len(self._streams)

    @property
    def time_bases(self) -> list[Fraction]:
        """Seconds per tick of each stream of sound."""
        return [stream.time_base for stream in self._streams]

    def join(self, output: OutputContainer, video: Any, suffix: str) -> None:
        """Add tags and streams of sound to an output whose video stream is there already.

        Raises:
            StreamDiffVSRError: The container cannot hold the sound.
        """
        output.metadata.update(_kept(self._input.metadata))
        picture = libav.moving_picture(self._input)
        video.metadata.update(_kept(picture.metadata) if picture else {})
        for stream in self._streams:
            try:
                copy = output.add_stream_from_template(stream)
            except ValueError as error:
                raise StreamDiffVSRError(
                    f"could not copy the sound into a {suffix} file",
                    f"it cannot hold {_codec(stream)}",
                    "give the output a name that ends in .mkv" if suffix != ".mkv" else "",
                ) from error
            copy.metadata.update(_kept(stream.metadata))
            copy.disposition = stream.disposition
            self._copies[stream.index] = copy

    def copy_until(self, output: OutputContainer, seconds: Fraction | None) -> Iterator[None]:
        """Mux what is due before that time, or all that is left; yields after each packet."""
        while True:
            if self._held is None:
                self._held = next(self._packets, None)
                if self._held is None:
                    return
            packet = self._held
            if packet.dts is not None and packet.size:  # else the mark of the stream's end
                if seconds is not None and packet.dts * packet.time_base >= seconds:
                    return
                packet.stream = self._copies[packet.stream_index]
                output.mux(packet)
                yield
            self._held = None


def _codec(stream: Any) -> str:
    context = stream.codec_context
    return f"{context.name} sound" if context else "sound of its kind, which is unknown here"


def _kept(tags: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in tags.items()
        if key.lower() not in _STALE and not key.lower().startswith(_STALE_PREFIXES)
    }
