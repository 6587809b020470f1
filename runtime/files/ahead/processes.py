"""What the processes beside the engines take of memory: decoding, encoding, frames between them.

Peaks that were measured, reduced to a constant and so many bytes a pixel (docs/files.md). What they
were measured with is what files are encoded with: the encoders' own defaults and a fixed number of
threads. Knows no process.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ....spec import Size
from ...media.formats.kinds import ImageFormat, VideoFormat

MIB = 2**20
DECODER = (38 * MIB, 20)  # of H.264 with a few references; bytes a pixel of the input
# Of the output's pixels, at 8 bits: lookahead, references in several forms, what threads are at.
ENCODERS = {
    "libx264": (60 * MIB, 205),
    "libx265": (170 * MIB, 190),
    "libsvtav1": (135 * MIB, 550),
    "prores_ks": (52 * MIB, 30),
    "ffv1": (50 * MIB, 100),
}
OTHER_ENCODER = (100 * MIB, 60)  # of hardware, most of whose frames are not in this memory
IMAGE_WRITER = (50 * MIB, 12)
DEPTHLESS = ("prores_ks",)  # always encodes 10 bits
COMMAND = 30 * MIB  # the command line and what finds engines, beside what runs them
FRAMES_BETWEEN = 3  # RGB frames at full size, on their way from the engines to the encoder


@dataclass(frozen=True, slots=True)
class Processes:
    """Bytes of host memory beside the engines."""

    decode: int
    encode: int
    between: int
    command: int = COMMAND

    @property
    def total(self) -> int:
        """All of them."""
        return self.decode + self.encode + self.between + self.command

    def to_json(self) -> dict[str, int]:
        """For programs."""
        return asdict(self)


def processes(size: Size, output_size: Size, form: VideoFormat | ImageFormat) -> Processes:
    """What they will take.

    Args:
        size: (h, w) of the input.
        output_size: (H, W).
    """
    small, large = size[0] * size[1], output_size[0] * output_size[1]
    wide = 2 if form.deep else 1
    base, a_pixel = IMAGE_WRITER
    if isinstance(form, VideoFormat):
        base, a_pixel = ENCODERS.get(form.encoder, OTHER_ENCODER)
    scale = 1 if isinstance(form, VideoFormat) and form.encoder in DEPTHLESS else wide
    return Processes(
        decode=DECODER[0] + DECODER[1] * small * wide,
        encode=base + a_pixel * large * scale,
        between=FRAMES_BETWEEN * 3 * large * wide,
    )
