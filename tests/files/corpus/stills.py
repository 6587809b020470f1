"""Images and animations of the corpus, written by Pillow."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageSequence

from .pictures import ORIENTATIONS, Pixels, picture, stored
from .reader import Seen

if TYPE_CHECKING:
    from .recipes import Recipe

_LOSSLESS = {"lossless": True}
# (mode of the pixels, options of the writer) by what it is; the first word is the ending.
STILLS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("RGB", {"quality": 95, "subsampling": 0}),
    "jpg of shared chroma": ("RGB", {"quality": 95, "subsampling": 2, "progressive": True}),
    "jpg grey": ("L", {"quality": 95}),
    "jpg cmyk": ("CMYK", {"quality": 95, "subsampling": 0}),
    "png": ("RGB", {}),
    "png grey": ("L", {}),
    "png of 16 bits": ("I;16", {}),
    "png palette": ("P", {}),
    "png black and white": ("1", {}),
    "png transparent": ("RGBA", {}),
    "png grey transparent": ("LA", {}),
    "png with profile": ("RGB", {"icc_profile": True}),
    "webp": ("RGB", _LOSSLESS),
    "webp lossy": ("RGB", {"quality": 90}),
    "webp transparent": ("RGBA", {**_LOSSLESS, "exact": True}),
    "webp animation": ("RGB", _LOSSLESS),
    "webp transparent animation": ("RGBA", _LOSSLESS),
    "tif": ("RGB", {}),
    "tif deflate": ("RGB", {"compression": "tiff_adobe_deflate"}),
    "tif lzw": ("RGB", {"compression": "tiff_lzw"}),
    "tif jpeg": ("RGB", {"compression": "jpeg", "quality": 95}),
    "tif cmyk": ("CMYK", {}),
    "tif grey of 16 bits": ("I;16", {}),
    "tif black and white": ("1", {}),
    "tif transparent": ("RGBA", {}),
    "tif big": ("RGB", {"big_tiff": True}),
    "bmp": ("RGB", {}),
    "bmp palette": ("P", {}),
    "tga": ("RGB", {}),
    "tga packed": ("RGB", {"compression": "tga_rle"}),
    "ppm": ("RGB", {}),
    "jp2": ("RGB", {}),
    "gif animation": ("P", {}),
    "png animation": ("RGB", {}),
    "png transparent animation": ("RGBA", {}),
    "avif": ("RGB", {"quality": 100, "subsampling": "4:4:4"}),
    "avif animation": ("RGB", {"quality": 95}),
    "folder of png": ("RGB", {}),
    "folder of jpg": ("RGB", {"quality": 95, "subsampling": 0}),
}


def write_still(made: Recipe, folder: Path) -> Path:
    """Write the image, the animation, or the folder of images."""
    options = dict(STILLS[made.still][1])
    if made.told_in == "exif":
        exif = Image.Exif()
        exif[0x0112] = _exif_number(made)
        options["exif"] = exif
    if options.get("icc_profile"):
        from PIL import ImageCms

        options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        options.setdefault("exif", Image.Exif())
    pictures = [image(made, number) for number in range(len(made.timing.pts))]
    suffix = made.still.split()[0]
    if suffix == "folder":
        return _folder(made, folder, pictures, options)
    path = folder / f"{made.number}.{suffix}"
    if made.still.endswith("animation"):
        pts = [*made.timing.pts, made.timing.pts[-1] + made.timing.last_duration]
        options["duration"] = [after - at for at, after in pairwise(pts)]
        options |= {"save_all": True, "append_images": pictures[1:], "loop": 0}
    pictures[0].save(path, **options)
    return path


def image(made: Recipe, number: int) -> Any:
    """One picture as Pillow knows it, before it is written."""
    mode = STILLS[made.still][0]
    pixels = np.ascontiguousarray(stored(picture(number, *made.size), made.matrix))
    if mode == "I;16":
        grey = np.array(Image.fromarray(pixels).convert("L"), np.uint16)
        return Image.fromarray(grey * 256 + 77)
    if mode in ("RGBA", "LA"):
        alpha = np.full(pixels.shape[:2], 255, np.uint8)
        alpha[::2, ::3] = 190
        return Image.fromarray(np.dstack([pixels, alpha])).convert(mode)
    if mode == "P":
        return Image.fromarray(pixels).quantize(32)
    if mode == "1":
        return Image.fromarray(pixels).convert("L").point(lambda level: 255 * (level > 128), "1")
    return Image.fromarray(pixels).convert(mode)


def seen_still(made: Recipe, path: Path) -> tuple[Seen, list[Pixels]]:
    """Returns what must be seen of it: the pixels written, or those that plain ffmpeg decodes."""
    height, width = stored(picture(0, *made.size), made.matrix).shape[:2]
    seen = Seen(
        times=made.timing.seconds,
        time_base=made.timing.time_base,
        end=None,
        length=None,
        size=(height, width),
        aspect=Fraction(1),
        pixel_format="rgba" if "transparent" in made.still else "rgb24",
        matrix=None,
        colour=("unknown",) * 4,
        title="",
        sounds=[],
        codec="",
        alpha=False,
    )
    lossy = made.still.startswith(("jpg", "webp lossy", "tif jpeg", "jp2", "avif", "folder of jpg"))
    if lossy:
        files = sorted(path.iterdir(), key=lambda file: int(file.stem)) if path.is_dir() else [path]
        return seen, [one for file in files for one in _decoded_by_pillow(file)]
    return seen, [_as_rgb(image(made, number)) for number in range(len(made.timing.pts))]


def _decoded_by_pillow(path: Path) -> list[Pixels]:
    with Image.open(path) as opened:
        return [_as_rgb(one.copy()) for one in ImageSequence.Iterator(opened)]


def _as_rgb(one: Any) -> Pixels:
    """Returns what is shown of it: transparency on black, and the upper eight of 16 bits."""
    if one.mode.startswith("I"):
        grey = np.rint(np.asarray(one, np.float64) / 257).astype(np.uint8)
        return np.dstack([grey] * 3)
    if one.mode in ("RGBA", "LA"):
        wide = np.asarray(one.convert("RGBA"), np.float64)
        return np.rint(wide[..., :3] * wide[..., 3:] / 255).astype(np.uint8)
    return np.asarray(one.convert("RGB"))


def _exif_number(made: Recipe) -> int:
    return next(number for number, matrix in ORIENTATIONS.items() if matrix == made.matrix)


def _folder(made: Recipe, folder: Path, pictures: list[Any], options: dict[str, Any]) -> Path:
    path, suffix = folder / str(made.number), made.still.split()[-1]
    path.mkdir()
    for number, one in enumerate(pictures):
        one.save(path / f"{number}.{suffix}", **options)
    return path
