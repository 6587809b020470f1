"""Draws the recipe of file number N of a seed, the same on every run and for any other N.

Of everything there is to choose, that is taken which files of smaller numbers have had least, so
that a few dozen files have met every container, and 200 every encoder.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import TypeVar

from .containers import CONTAINERS, encoders_in, pixel_formats_of, sounds_in
from .limits import fields_told_in, keeps_its_size, reorders, sizes_for
from .pictures import ORIENTATIONS, UPRIGHT, Matrix
from .sounds import ONE_SOUND, shape_of
from .stills import STILLS
from .times import Timing, kinds_for, timing

# Each as often as people have it; a round of these is gone through in an order of its own.
_SHARES = {"mkv": 5, "mov": 5, "mp4": 4, "avi": 5, "ts": 3, "nut": 3, "wmv": 2, "flv": 2}
_STILL_SHARE = 8
T = TypeVar("T")
_OUTPUTS = (".mkv", ".mp4", ".mov", ".ts", ".mkv ffv1", "png", ".mov prores", ".webm")
_KEPT = {"mp4", "m4v", "mov", "mkv", "ts"}  # the endings an output may have too
_COLOURS = (None, (1, 1, 1, 1), (1, 2, 1, 1), (6, 1, 6, 6), (5, 2, 5, 6), (9, 1, 9, 14))
_SHAPES = (None, Fraction(16, 15), Fraction(64, 45), Fraction(3, 4))


@dataclass(frozen=True)
class Sound:
    """A stream of sound.

    Attributes:
        codec: libav's name of the encoder; one that begins with "+" is ffmpeg's.
        rate, channels: Of its samples.
        start: Seconds behind the picture's start.
        empty: It is declared, and there is no packet of it.
    """

    codec: str
    rate: int
    channels: int
    start: Fraction = Fraction(0)
    empty: bool = False


@dataclass(frozen=True)
class Recipe:
    """All that there is to know about one file.

    Attributes:
        still: What kind of image or animation it is; "" for a video.
        suffix: The ending of its name, and its container.
        encoder, pixels: How pictures are stored; an encoder that begins with "+" is ffmpeg's.
        size: (h, w) as shown.
        timing: When pictures are shown.
        matrix: How they must be turned to be upright, and ``told_in`` says where that is said:
            "tkhd", "sei" or "exif".
        fields: "tff" or "bff" where each frame is two half pictures; ``fields_in`` says where
            that is said: "container" or "frame".
        aspect: Width : height of a pixel as stored; None if nothing is said.
        colour: Matrix, range, primaries and transfer as they are tagged; None if nothing is said.
        variant: Of what else there is to choose: "fragments", "edit list", "priming", or "".
        output: What is made of it: an ending and a codec, or "png" for a folder of images.
    """

    seed: int
    number: int
    suffix: str
    encoder: str
    pixels: str
    size: tuple[int, int]
    timing: Timing
    still: str = ""
    matrix: Matrix = UPRIGHT
    told_in: str = ""
    fields: str = ""
    fields_in: str = ""
    aspect: Fraction | None = None
    colour: tuple[int, int, int, int] | None = None
    sounds: tuple[Sound, ...] = ()
    reorder: int = 0
    variant: str = ""
    title: str = ""
    output: str = ".mkv"

    def __str__(self) -> str:
        height, width = self.size
        told = [f"#{self.number}", self.still or f".{self.suffix} {self.encoder} {self.pixels}"]
        told += [f"{width}x{height}", f"{len(self.timing.pts)} frames, {self.timing.kind}"]
        if self.told_in:
            told.append(f"matrix {self.matrix} in {self.told_in}")
        if self.fields:
            told.append(f"{self.fields} in {self.fields_in}")
        told += [f"aspect {self.aspect}"] if self.aspect else []
        told += [f"colour {self.colour}"] if self.colour else []
        told += [f"{self.reorder} B-frames"] if self.reorder else []
        told += [self.variant] if self.variant else []
        for sound in self.sounds:
            late = f" at {float(sound.start):g} s" if sound.start else ""
            packets = " without packets" if sound.empty else late
            told.append(f"{sound.codec} {sound.rate} Hz {sound.channels} ch{packets}")
        return ", ".join(told) + f" -> {self.output}"


def recipe(seed: int, number: int) -> Recipe:
    """The recipe of that file."""
    return recipes(seed, number + 1)[number]


@cache
def recipes(seed: int, count: int) -> tuple[Recipe, ...]:
    """The recipes of the files 0 to count - 1."""
    chooser = _Chooser(seed)
    return tuple(chooser.made(number) for number in range(count))


class _Chooser:
    """Makes one recipe after the other, and remembers what there was."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._had: Counter[object] = Counter()
        self._round: list[str] = []
        self._random = random.Random()

    def made(self, number: int) -> Recipe:
        self._random = random.Random(f"{self._seed}:{number}")
        suffix = self._next_kind()
        return self._still(number) if suffix == "still" else self._video(number, suffix)

    def _next_kind(self) -> str:
        if not self._round:
            shares = {name: _SHARES.get(name, 1) for name in CONTAINERS if encoders_in(name)}
            shares["still"] = _STILL_SHARE
            self._round = [name for name, share in shares.items() for _ in range(share)]
            # Seldom ones first, so that a few dozen files have met each of them.
            self._random.shuffle(self._round)
            self._round.sort(key=lambda name: shares[name] > 1 and self._random.random())
        return self._round.pop(0)

    def _least(self, axis: str, choices: Sequence[T]) -> T:
        """The choice that there was least of, by chance among equals."""
        least = min(self._had[axis, choice] for choice in choices)
        chosen = self._random.choice([c for c in choices if self._had[axis, c] == least])
        self._had[axis, chosen] += 1
        return chosen

    def _video(self, number: int, suffix: str) -> Recipe:
        encoder = self._least("encoder", encoders_in(suffix))
        pixels = self._least(f"pixels of {encoder}", pixel_formats_of(encoder, suffix))
        fields, fields_in = self._fields(suffix, encoder)
        size = self._least("size", sizes_for(suffix, encoder, pixels))
        size = (48, 64) if fields and size[0] < 400 else size  # fields are of 4 lines, and more
        few = size[1] > 400
        kind = self._least("times", kinds_for(suffix, encoder))
        time = timing(kind, suffix, encoder, self._random, few=few)
        matrix, told_in = self._matrix(suffix, encoder, pixels) if not fields else (UPRIGHT, "")
        reorder = self._random.choice((0, 2, 2, 3)) if reorders(encoder) and not fields else 0
        return Recipe(
            seed=self._seed,
            number=number,
            suffix=suffix,
            encoder=encoder,
            pixels=pixels,
            size=size,
            timing=time,
            matrix=matrix,
            told_in=told_in,
            fields=fields,
            fields_in=fields_in,
            aspect=self._least("aspect", _SHAPES) if self._random.random() < 0.4 else None,
            colour=self._colour(pixels),
            sounds=self._sounds(suffix, time),
            reorder=reorder,
            variant=self._variant(suffix, encoder, time),
            title=f"Film {number}",
            output=self._output(suffix, few),
        )

    def _still(self, number: int) -> Recipe:
        kind = self._least("still", tuple(STILLS))
        animated = kind.endswith("animation") or kind.startswith("folder")
        exif = kind.split()[0] in ("jpg", "png", "webp", "tif") and not animated
        orientation = self._least("orientation", tuple(ORIENTATIONS)) if exif else 1
        steps = [self._random.choice((30, 40, 100, 500)) for _ in range(12 if animated else 1)]
        if kind.startswith("folder") or not animated:
            time = Timing("steady", Fraction(1, 24), tuple(range(len(steps))), 1, Fraction(24))
        else:
            pts = tuple(sum(steps[:place]) for place in range(len(steps)))
            time = Timing("variable", Fraction(1, 1000), pts, steps[-1], Fraction(25))
        return Recipe(
            seed=self._seed,
            number=number,
            suffix=kind.split()[0],
            encoder="",
            pixels="",
            size=self._least("size", ((48, 64), (50, 66), (35, 53), (17, 19))),
            timing=time,
            still=kind,
            matrix=ORIENTATIONS[orientation],
            told_in="exif" if orientation > 1 else "",
            output=self._output("", False),
        )

    def _fields(self, suffix: str, encoder: str) -> tuple[str, str]:
        told_in = fields_told_in(suffix, encoder)
        if not told_in or self._random.random() < 0.5:
            return "", ""
        return self._least("fields", ("tff", "bff")), told_in

    def _matrix(self, suffix: str, encoder: str, pixels: str) -> tuple[Matrix, str]:
        told_in = {"mp4": "tkhd", "mov": "tkhd", "m4v": "tkhd", "3gp": "tkhd"}.get(suffix, "")
        if encoder == "libx264" and "gray" not in pixels and self._random.random() < 0.4:
            told_in = "sei"
        if not told_in or self._random.random() < 0.3:
            return UPRIGHT, ""
        turned = (2, 3, 4) if keeps_its_size(encoder) else tuple(ORIENTATIONS)[1:]
        return ORIENTATIONS[self._least("orientation", turned)], told_in

    def _colour(self, pixels: str) -> tuple[int, int, int, int] | None:
        if not pixels.startswith(("yuv", "nv12", "uyvy")):
            return None
        full = pixels.startswith("yuvj")
        return self._least("colour", [c for c in _COLOURS if not full or c is None or c[1] == 2])

    def _sounds(self, suffix: str, time: Timing) -> tuple[Sound, ...]:
        """None, one, or several; few are long, as a gap of seconds is of sound too."""
        can, sounds = sounds_in(suffix), []
        several = ("none", "one", "an empty one beside", "two")
        choice = self._least("sounds", several) if suffix not in ONE_SOUND else "one"
        for _ in range(min(several.index(choice), 2) if can else 0):
            codec = self._least("sound", can)
            rate, channels = shape_of(codec, suffix, self._random)
            late = self._random.choice((0, 0, 0, Fraction(1, 3), Fraction(7, 10)))
            late = 0 if suffix in ("dv", "gxf", "mxf", "swf", "roq", "avi", "smjpeg") else late
            sounds.append(Sound(codec, rate, channels, Fraction(late)))
        if choice == "an empty one beside" and suffix in ("mkv", "ts", "nut"):
            sounds[1] = replace(sounds[1], codec="aac", rate=48000, channels=2, empty=True)
        return tuple(sounds)

    def _variant(self, suffix: str, encoder: str, time: Timing) -> str:
        if suffix not in ("mp4", "mov"):
            return ""
        choices = ["", "fragments", "priming"]
        if encoder in ("libx264", "libx265", "mpeg4") and time.kind in ("steady", "ntsc"):
            choices.append("edit list")
        return self._least("variant", choices)

    def _output(self, suffix: str, few: bool) -> str:
        """The ending of the input where a batch would keep it, or another one."""
        if suffix in _KEPT and self._random.random() < 0.6:
            return f".{suffix}"
        return self._least("output", _OUTPUTS[:4] if few else _OUTPUTS)
