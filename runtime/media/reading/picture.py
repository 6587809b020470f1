"""One decoded picture with its time, and the part of a description that its pixels tell.

Runs in the child. It does not know where pictures come from.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from ..frames.mastering import mastering_of
from ..frames.orientation import is_skewed, quarter_turns
from ..frames.pixels import bits_of, colour_of, has_alpha, upright_size
from ..info import VideoInfo


class Picture(NamedTuple):
    """A libav frame with its time.

    Attributes:
        pts, duration: When and for how long it is shown, in ticks of its description's time base.
        mirrored: It is stored upside down in a mirror, before it is turned by its rotation.
    """

    frame: Any
    pts: int
    duration: int | None
    mirrored: bool = False


def describe_picture(
    frame: Any, *, sample_aspect: Fraction = Fraction(1), alpha: bool = False, **told: Any
) -> VideoInfo:
    """The description of a file whose first frame this is.

    Args:
        frame: Undeinterlaced, as the decoder gave it.
        sample_aspect: Of the frame as it is stored.
        alpha: The container says that there is transparency.
        told: The other fields of ``VideoInfo``.
    """
    rotation = quarter_turns(frame) * 90
    height, width = upright_size(frame)
    return VideoInfo(
        width=width,
        height=height,
        pix_fmt=frame.format.name,
        colour=colour_of(frame),
        rotation=rotation,
        skewed=is_skewed(frame),
        sample_aspect=1 / sample_aspect if rotation % 180 else sample_aspect,
        depth=bits_of(frame),
        alpha=alpha or _is_transparent(frame),
        mastering=mastering_of(frame),
        **told,
    )


def _is_transparent(frame: Any) -> bool:
    """YUV has a plane for transparency only if that is wanted; RGB often has one for nothing."""
    if not has_alpha(frame):
        return False
    if not (frame.format.is_rgb or frame.format.has_palette):
        return True
    from ..frames.file_pixels import (
        FilePixels,  # needs numpy, which a probe of most files does without
    )

    return not FilePixels().opaque(frame)
