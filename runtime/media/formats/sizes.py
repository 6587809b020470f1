"""How large and how small the frames of each codec may be, by what the encoders here take.

Data and the check of it; images have no limits of their own.
"""

from __future__ import annotations

from ....errors import StreamDiffVSRError

LARGEST = {  # (H, W)
    "h264": (16384, 16384),
    "h265": (16384, 16384),
    "av1": (8704, 16384),
    "prores": (16384, 16384),
    "ffv1": (32768, 32768),
}
SMALLEST = {"h265": 16}  # of a side, for those that are not encoded at any size


def check_size(size: tuple[int, int], codec: str, failure: str) -> None:
    """Refuse frames of (H, W) that the codec cannot be made of; ``failure`` begins the message.

    Raises:
        StreamDiffVSRError: They are too large or too small, or odd where colours are halved.
    """
    height, width = size
    tallest, widest = LARGEST[codec]
    if height > tallest or width > widest:
        raise StreamDiffVSRError(
            failure,
            f"its frames would be {width}x{height}, and {codec} goes up to {widest}x{tallest}",
            "scale the input down first, or write a folder of images",
        )
    smallest = SMALLEST.get(codec, 1)
    if min(size) < smallest:
        raise StreamDiffVSRError(
            failure,
            f"its frames would be {width}x{height}, and {codec} is encoded from {smallest} a side",
            "use h264",
        )
    if codec != "ffv1" and (height % 2 or width % 2):
        raise StreamDiffVSRError(
            failure, f"frames of {width}x{height} cannot be {codec}: both must be even"
        )
