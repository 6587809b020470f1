"""The description of a video file or of a folder of images, as both sides of the pipe know it.

Only data: it does not open anything, and imports nothing that is slow to load.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from ..processes.messages import Header, pack, unpack
from .colour import HLG, PQ, Colour, Mastering

OtherKind = Literal["audio", "subtitle", "data", "attachment", "video", "cover"]


@dataclass(frozen=True, slots=True)
class OtherStream:
    """A stream beside the picture that is upscaled.

    Attributes:
        kind: What it holds; "video" is a second moving picture, "cover" a still one.
        codec: libav's name, such as ``aac``; "" if it is unknown here.
        language: As the file tags it, such as ``eng``; "" if it does not.
    """

    kind: OtherKind
    codec: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A video file or a series of images, described by its container and its first frame.

    Attributes:
        path: Where it is; the folder of a series of images.
        width, height: LR pixels of a frame as displayed: after rotation, before the pixel aspect.
        average_rate: Frames per second, measured where that can be; None if it is not known. Of no
            use for timestamps: a variable rate has one too.
        time_base: Seconds per tick of ``pts``.
        start_time: pts of the first frame, in ticks.
        duration_seconds: How long the picture is; None if it is not known.
        frames: How many, for progress only; None if there is nothing to estimate it from.
        audio_streams: How many streams of sound it has.
        codec: libav's name of the video codec, such as ``h264``.
        pix_fmt: libav's name of the pixel format, such as ``yuv420p``.
        colour: The tags of the first frame, unresolved.
        rotation: Degrees counter-clockwise that were applied to make it upright: 0, 90, 180, 270.
        skewed: It asks to be shown at another angle, which is not done.
        sample_aspect: Width : height of one pixel, as displayed; 1 if it is square or not said.
        depth: Bits of a component, 8 to 16.
        interlaced: The first frame is made of two fields, or all are, by the container.
        alpha: It has transparency, which frames show on black.
        container: libav's name of the format, such as ``mov,mp4,m4a,3gp,3g2,mj2``.
        images: It is a folder of images, or one image.
        others: Every stream but the picture, sound included, in the order of the file.
        chapters: How many there are.
        mastering: What HDR tells of the display it was mastered on; None if it does not.
        counted: ``frames`` and ``duration_seconds`` are of all packets; else they are estimates.
        least_frames: How many there are at least by the packets that were read.
    """

    path: Path
    width: int
    height: int
    average_rate: Fraction | None
    time_base: Fraction
    start_time: int
    duration_seconds: float | None
    frames: int | None
    audio_streams: int
    codec: str
    pix_fmt: str
    colour: Colour
    rotation: int
    sample_aspect: Fraction
    skewed: bool = False
    depth: int = 8
    interlaced: bool = False
    alpha: bool = False
    container: str = ""
    images: bool = False
    others: tuple[OtherStream, ...] = ()
    chapters: int = 0
    mastering: Mastering | None = None
    counted: bool = False
    least_frames: int = 0

    @property
    def has_audio(self) -> bool:
        """Whether there is sound to copy."""
        return self.audio_streams > 0

    @property
    def holds_more(self) -> bool:
        """Whether libav may find tags or streams in the file, beside what is shown."""
        return not self.images and self.container != "webp"

    @property
    def hdr(self) -> str:
        """ "PQ" or "HLG" where the transfer is one of HDR, else ""; the values are not mapped."""
        return {PQ: "PQ", HLG: "HLG"}.get(self.colour.transfer, "")

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the LR frames."""
        return self.height, self.width

    def to_wire(self) -> Header:
        """As JSON can carry it."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name in ("average_rate", "time_base", "sample_aspect"):
            fields[name] = pack(fields[name])
        colour = self.colour
        fields["colour"] = [colour.matrix, colour.range, colour.primaries, colour.transfer]
        fields["mastering"] = self.mastering and [self.mastering.display, self.mastering.light]
        fields["path"] = str(self.path)
        fields["others"] = [[other.kind, other.codec, other.language] for other in self.others]
        return fields

    @classmethod
    def from_wire(cls, fields: Header) -> VideoInfo:
        """What :meth:`to_wire` wrote."""
        fields = dict(fields)
        for name in ("average_rate", "time_base", "sample_aspect"):
            fields[name] = unpack(fields[name])
        fields["colour"] = Colour(*fields["colour"])
        if fields["mastering"] is not None:
            told = (value and tuple(value) for value in fields["mastering"])
            fields["mastering"] = Mastering(*told)
        fields["path"] = Path(fields["path"])
        fields["others"] = tuple(OtherStream(*other) for other in fields["others"])
        return cls(**fields)
