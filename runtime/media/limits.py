"""How large a frame may be to be read at all: beyond it a few bytes could ask for gigabytes."""

from __future__ import annotations

from ...errors import StreamDiffVSRError

MAX_SIDE = 16384
MAX_PIXELS = 1 << 26  # 67 million: 8K is 33 million


def check_frame_size(width: int, height: int, failure: str) -> None:
    """Refuse what is too large; ``failure`` begins the message.

    Raises:
        StreamDiffVSRError: The frame has too many pixels, or too many on one side.
    """
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise StreamDiffVSRError(
            failure,
            f"its frames are {width}x{height}, and at most {MAX_SIDE} a side and "
            f"{MAX_PIXELS >> 20} megapixels are read",
        )
