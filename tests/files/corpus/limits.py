"""Lists what encoders and containers require of pictures: sizes, rates, and marks of fields."""

from __future__ import annotations

from fractions import Fraction

# (h, w) by encoder, or by container and encoder; "" for all others.
SIZES: dict[str | tuple[str, str], tuple[tuple[int, int], ...]] = {
    "": ((48, 64), (64, 48), (50, 66), (16, 16), (96, 32), (72, 88)),
    "h261": ((144, 176),),
    "h263": ((96, 128), (144, 176)),
    "dvvideo": ((576, 720),),
    ("gxf", "mpeg2video"): ((576, 720),),
    "dnxhd": ((144, 256),),
    "vc2": ((48, 64), (64, 96)),
    "roqvideo": ((64, 64), (64, 128)),
    "amv": ((48, 64), (64, 96)),
    "cfhd": ((48, 64), (64, 96)),
    "dxv": ((48, 64), (64, 96)),
    "+hap": ((48, 64), (64, 96)),
    "libx265": ((64, 96), (66, 98), (96, 64)),
    "libsvtav1": ((66, 98), (80, 64)),
    "rv10": ((48, 64), (64, 96)),
    "snow": ((48, 64), (64, 96)),
    "svq1": ((48, 64), (64, 96)),
    "smc": ((48, 64), (64, 48)),
    "rpza": ((48, 64), (64, 48)),
    "cinepak": ((48, 64), (64, 48)),
    "msvideo1": ((48, 64), (64, 48)),
    "asv1": ((48, 64), (64, 96)),
    "asv2": ((48, 64), (64, 96)),
    "speedhq": ((48, 64), (64, 96)),
    "+libtheora": ((48, 64), (50, 66)),
    "zlib": ((48, 64), (64, 96), (51, 64)),
    "v210": ((48, 96), (50, 66)),
}
# Any size at all goes with these where no chroma is shared, and odd ones where it is.
_ANY_SIZE = ("ffv1", "ffvhuff", "png", "libx264rgb", "apng", "gif", "zmbv")
_ODD_SIZES = ((35, 53), (17, 19), (49, 16), (51, 67))
_INTRA = """
    amv apng asv1 asv2 avrp cfhd dnxhd dpx dvvideo dxv ffv1 ffvhuff gif huffyuv jpeg2000 jpegls
    ljpeg magicyuv mjpeg png prores prores_ks r10k r210 rawvideo sgi speedhq targa tiff utvideo
    v210 v308 v408 v410 vc2 y41p yuv4 zlib +hap
"""
_REORDERING = ("libx264", "libx265", "mpeg2video", "mpeg1video", "mpeg4", "+libxvid")
_FILM = (Fraction(25), Fraction(30000, 1001), Fraction(24), Fraction(30))
_FIELDS_IN_FRAME = ("libx264", "mpeg2video", "prores_ks", "ffv1")
_FIELDS_IN_CONTAINER = {
    "mkv": ("mjpeg", "rawvideo", "jpeg2000"),
    "mov": ("mjpeg", "rawvideo", "png", "v210", "jpeg2000", "qtrle"),
}


def sizes_for(suffix: str, encoder: str, pixels: str) -> tuple[tuple[int, int], ...]:
    """The sizes (h, w) that pictures can have there."""
    sizes = SIZES.get((suffix, encoder)) or SIZES.get(encoder) or SIZES[""]
    if encoder in _ANY_SIZE and not any(shared in pixels for shared in ("420", "41", "nv12")):
        return (*sizes, *_ODD_SIZES)
    return sizes


def keeps_its_size(encoder: str) -> bool:
    """Returns whether it takes only certain sizes, and not the same ones turned on their side."""
    return encoder in ("h261", "h263", "dnxhd", "dvvideo", "cfhd", "amv", "dxv", "roqvideo")


def is_intra(encoder: str) -> bool:
    """Returns whether each picture is decoded by itself."""
    return encoder in _INTRA.split()


def reorders(encoder: str) -> bool:
    """Returns whether it has B-frames."""
    return encoder in _REORDERING


def rates_of(suffix: str, encoder: str) -> tuple[Fraction, ...]:
    """The rates that a container of films takes."""
    return _FILM[:1] if suffix in ("dv", "gxf", "roq") else _FILM


def claimed_rate(encoder: str, rate: Fraction) -> Fraction:
    """Returns the rate that the stream claims, as its encoder does not take every rate."""
    if encoder in ("mpeg1video", "mpeg2video") and rate not in _FILM:
        return _FILM[0]
    if encoder == "h263":
        return Fraction(30000, 1001)
    return rate if encoder != "mpeg4" or rate.numerator < 65536 else _FILM[0]


def fields_told_in(suffix: str, encoder: str) -> str:
    """Returns where such a file can mark frames as two fields: "frame", "container" or ""."""
    if encoder in _FIELDS_IN_CONTAINER.get(suffix, ()):
        return "container"
    return "frame" if encoder in _FIELDS_IN_FRAME and suffix not in ("obu", "avif") else ""


def kept_aspect(output: str, aspect: Fraction) -> Fraction:
    """Returns the pixel aspect that an output such as ".mkv ffv1" stores.

    libav's Matroska takes it from the codec, and only H.264 and H.265 of these store it.
    """
    suffix, _, codec = output.partition(" ")
    return Fraction(1) if suffix == ".webm" or (suffix == ".mkv" and codec) else aspect
