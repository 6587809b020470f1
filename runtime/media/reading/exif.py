"""Whether an image is stored mirrored, by the orientation that its EXIF data tells.

libav tells how far an image is turned, but not that it is mirrored. Looks at bytes only; it neither
decodes nor turns anything. Images that Pillow decodes it makes upright itself.
"""

from __future__ import annotations

import re
import struct

# In JPEG and PNG, what comes before the little TIFF file that EXIF data is.
_PLACE = re.compile(rb"(?:Exif\0\0|eXIf)(?=II\*\0|MM\0\*)")
_ORIENTATION = 0x0112
MIRRORED = (2, 4, 5, 7)


def is_mirrored(data: bytes) -> bool:
    """Of a PNG or JPEG file; False where nothing says so."""
    found = _PLACE.search(data)
    return found is not None and _orientation(data[found.end() :]) in MIRRORED


def _orientation(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF file; 1, upright, if there is none."""
    order = "<" if tiff.startswith(b"II") else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, place)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:  # it ends too early
        pass
    return 1
