"""What an output can be written as: container, codec, encoder and its options, or a kind of image.

Data alone; `format_choice` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".ts": "mpegts",
}
CODECS = ("h264", "h265", "av1", "prores", "ffv1")
IMAGES = ("png", "jpg", "webp", "tif")
HOLDS = {
    "mp4": ("h264", "h265", "av1", "ffv1"),
    "mov": ("h264", "h265", "av1", "prores"),
    "matroska": CODECS,
    "webm": ("av1",),
    "mpegts": ("h264", "h265"),
}
H264_CONTAINERS = {ending: name for ending, name in CONTAINERS.items() if "h264" in HOLDS[name]}
DEEP_IMAGES = ("png", "tif")
_LOSSY_QUALITY = 95  # of 100, for .jpg and .webp


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """How a video file is made.

    Attributes:
        container: libav's name of the muxer, such as ``matroska``.
        codec: One of CODECS.
        encoder: libav's name of the encoder, such as ``libx264``.
        pixel_format: What the encoder is given, such as ``yuv420p10le``.
        options: What the encoder is opened with.
        deep: Whether frames are to be written as uint16.
        note: What a user should know of this choice; "" if nothing.
    """

    container: str
    codec: str
    encoder: str
    pixel_format: str
    options: dict[str, str]
    deep: bool
    note: str = ""

    @property
    def tag(self) -> str:
        """The four letters the stream must be marked with for players, or ""."""
        return "hvc1" if self.codec == "h265" and self.container in ("mp4", "mov") else ""

    @property
    def tells_aspect(self) -> bool:
        """Whether pixels can be other than square: libav's Matroska leaves it to the codec."""
        return self.container not in ("matroska", "webm") or self.codec in ("h264", "h265")


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """How each frame becomes an image.

    Attributes:
        suffix: ".png", ".jpg", ".webp" or ".tif".
        deep: Whether frames are to be written as uint16.
        quality: Of .jpg and .webp, 1 to 100; the others lose nothing.
    """

    suffix: str
    deep: bool
    quality: int = _LOSSY_QUALITY


def is_image_folder(output: Path, images: str | None = None) -> bool:
    """Whether the output is a folder of images, not a file."""
    return images is not None or output.is_dir() or not output.suffix
