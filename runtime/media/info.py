"""The descriptions that processes exchange: of a video file or folder of images, and of segments.

It imports nothing that is slow to load.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from ..processes.messages import Header, pack, unpack
from .colour import HLG, PQ, Colour, Mastering

OtherKind = Literal["audio", "subtitle", "data", "attachment", "video", "cover"]


@dataclass(frozen=True, slots=True)
class OtherStream:
    """A stream other than the picture that is upscaled.

    Attributes:
        kind: Its content; "video" is a second moving picture, "cover" a still one.
        codec: libav's name of the codec, such as ``aac``; "" if libav does not know it.
        language: The language tag, such as ``eng``; "" if there is none.
    """

    kind: OtherKind
    codec: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A video file or a series of images, described by its container and its first frame.

    Attributes:
        path: The file, or the folder of a series of images.
        width, height: LR pixels of a frame as displayed: after rotation, before the pixel aspect.
        average_rate: Frames per second, measured where possible; None if unknown. Not for
            timestamps: a variable rate has an average too.
        time_base: Seconds per tick of ``pts``.
        start_time: pts of the first frame, in ticks.
        duration_seconds: Duration of the picture; None if unknown.
        frames: Number of frames, for progress only; None if it cannot be estimated.
        audio_streams: Number of audio streams.
        codec: libav's name of the video codec, such as ``h264``.
        pix_fmt: libav's name of the pixel format, such as ``yuv420p``.
        colour: The tags of the first frame, unresolved.
        rotation: Degrees counter-clockwise that were applied to make it upright: 0, 90, 180, 270.
        skewed: Whether it asks for any other rotation, which is not applied.
        sample_aspect: Width : height of one pixel, as displayed; 1 if square or not stated.
        depth: Bits of a component, 8 to 16.
        interlaced: Whether the first frame, or by the container every frame, has two fields.
        alpha: Whether it has transparency, which frames show on black.
        container: libav's name of the format, such as ``mov,mp4,m4a,3gp,3g2,mj2``.
        images: Whether it is a folder of images, or one image.
        others: Every stream but the picture, including sound, in the order of the file.
        chapters: Number of chapters.
        mastering: The HDR mastering metadata; None if there is none.
        counted: Whether ``frames`` and ``duration_seconds`` come from all packets, not estimates.
        least_frames: The least number of frames, by the packets that were read.
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
    def holds_more(self) -> bool:
        """Returns whether libav may find tags or streams in the file in addition to the picture."""
        return not self.images and self.container != "webp"

    @property
    def hdr(self) -> str:
        """The HDR transfer, "PQ" or "HLG"; "" for any other. Values are not mapped."""
        return {PQ: "PQ", HLG: "HLG"}.get(self.colour.transfer, "")

    @property
    def size(self) -> tuple[int, int]:
        """The (h, w) of the LR frames."""
        return self.height, self.width

    def to_wire(self) -> Header:
        """Returns the description as JSON types."""
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
        """Returns the description that :meth:`to_wire` wrote."""
        fields = dict(fields)
        for name in ("average_rate", "time_base", "sample_aspect"):
            fields[name] = unpack(fields[name])
        fields["colour"] = Colour(*fields["colour"])
        if fields["mastering"] is not None:
            fields["mastering"] = Mastering(
                *(value and tuple(value) for value in fields["mastering"])
            )
        fields["path"] = Path(fields["path"])
        fields["others"] = tuple(OtherStream(*other) for other in fields["others"])
        return cls(**fields)


LONGEST_TICKS = 1 << 28  # between frames in a segment's file: MP4 stores this in 32 bits


@dataclass(frozen=True, slots=True)
class Segment:
    """Frames that are completely on the disk.

    Attributes:
        name: The name given to ``begin``.
        files: Paths in the folder, with forward slashes: one for video, one per frame for images.
        frames: Number of frames.
        bytes: Size of all files.
        first_pts: When the first frame is shown, in ticks.
        end_pts: When the last frame is no longer shown, in ticks.
        time_base: Seconds per tick.
        reorder: Number of frames a decoder must hold back to show them in order; 0 for images.
        shortest: The shortest time that any frame is shown, in ticks.
        retimed: Number of frames that were moved after the previous one.
        gaps: Spans too long for the file, which leaves them out: pairs of the first tick of the
            file that is affected, and the ticks to add from there on.
    """

    name: str
    files: tuple[str, ...]
    frames: int
    bytes: int
    first_pts: int
    end_pts: int
    time_base: Fraction
    reorder: int = 0
    shortest: int = 1
    retimed: int = 0
    gaps: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the segment as JSON types."""
        lists = {"files": list(self.files), "gaps": [list(gap) for gap in self.gaps]}
        return {**asdict(self), **lists, "time_base": pack(self.time_base)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Segment:
        """Returns the segment that :meth:`to_json` described.

        Raises:
            ValueError, TypeError: The fields are not those of a segment.
        """
        base = unpack(fields["time_base"])
        gaps = tuple((at, ticks) for at, ticks in fields.get("gaps", ()))
        return cls(**{**fields, "files": tuple(fields["files"]), "time_base": base, "gaps": gaps})
