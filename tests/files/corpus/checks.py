"""Checks what is read of a file and what is made of it, with a line for each fault.

Expected is what the recipe says, in the units of the file that ffprobe reports. Nothing is taken
from the code under test but what is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from .containers import CONTAINERS
from .making import SKIPPED_FRAMES
from .pictures import LAST_NUMBER, Pixels, number_in, shown
from .reader import Seen, SoundSeen
from .recipes import Recipe

MOST_LEVELS = 2  # between two right conversions of one picture
_MOST_MEAN_LOSS = 6.0  # levels, of what an encoder with losses makes of flat cells
_HD_LINES = 720  # what has no tag is of BT.709 from there on
_SAME = {"bt470bg": "smpte170m"}  # as a matrix


@dataclass(frozen=True)
class Expected:
    """The frames that must be read.

    Attributes:
        numbers: Which picture each frame is.
        times: When each is shown, in seconds of the file.
        tick: Of the file's clock, in seconds.
        end: When the last one ends; None where nothing says so.
        size: (h, w) as shown.
        aspect: Width : height of a pixel as shown.
        pixels: Of each frame, as shown; None where they are made of fields.
        sounds: As in the file.
    """

    numbers: list[int | None]
    times: list[Fraction]
    tick: Fraction
    end: Fraction | None
    size: tuple[int, int]
    aspect: Fraction
    pixels: list[Pixels] | None
    sounds: list[SoundSeen]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where it shows ("read", "made", "file"), what, and how."""

    stage: str
    kind: str
    told: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.kind}: {self.told}"


def expected(made: Recipe, seen: Seen, stored: Sequence[Pixels]) -> Expected:
    """Returns what a correct reader reads of a recipe's file, by what ffprobe and ffmpeg saw."""
    step = 2 if made.fields else 1
    first = SKIPPED_FRAMES if made.variant == "edit list" else 0
    numbers: list[int | None]
    numbers = [number * step % LAST_NUMBER for number in range(len(made.timing.pts))][first:]
    if made.fields:  # some a right filter cannot make out
        seen_numbers = [number_in(one) for one in stored]
        pairs = zip(numbers, seen_numbers, strict=False)
        numbers = [right if number is not None else None for right, number in pairs]
    turned = not made.matrix[0]
    return Expected(
        numbers=numbers,
        times=_times(made, seen, first),
        tick=seen.time_base,
        end=_end(made, seen),
        size=made.size,
        aspect=1 / seen.aspect if turned else seen.aspect,
        pixels=None
        if made.fields or made.suffix == "dv"
        else [shown(one, made.matrix) for one in stored],
        sounds=seen.sounds,
    )


def _times(made: Recipe, seen: Seen, first: int) -> list[Fraction]:
    """Those of ffprobe where they are the recipe's, but for the container's clock; else these."""
    wanted = made.timing.seconds[first:]
    start = seen.times[0] if seen.times else Fraction(0)
    if made.variant == "edit list":
        start = Fraction(0)
    wanted = [start + at - wanted[0] for at in wanted]
    tick = _tick(made, seen)
    if made.suffix == "gxf":  # libav puts the last one a field behind the one before
        return wanted[:-1]
    near = len(seen.times) == len(wanted) and all(
        abs(a - b) <= tick for a, b in zip(seen.times, wanted, strict=True)
    )
    return list(seen.times) if near else wanted


def _tick(made: Recipe, seen: Seen) -> Fraction:
    """Returns how far the clock of the container may be off, in seconds."""
    kind = CONTAINERS.get(made.suffix)
    return kind.tick if kind and kind.tick else seen.time_base


def moved_apart(times: Sequence[Fraction], tick: Fraction) -> list[Fraction]:
    """Times that advance: of two at one time the later one is a tick later."""
    apart = list(times)
    for place in range(1, len(apart)):
        if apart[place] <= apart[place - 1]:
            apart[place] = apart[place - 1] + tick
    return apart


def _end(made: Recipe, seen: Seen) -> Fraction | None:
    if made.timing.kind == "held at the end" or (seen.times and made.suffix in ("mp4", "mov")):
        return seen.times[0] + made.timing.end - made.timing.seconds[0]
    return None


def unfit(made: Recipe, wanted: Expected, seen: Seen, stored: Sequence[Pixels]) -> str:
    """Returns why the file is of no use (the encoder or ffmpeg did not do as asked), or ""."""
    if len(stored) != len(wanted.numbers):
        return f"ffmpeg decodes {len(stored)} frames of {len(wanted.numbers)}"
    if wanted.pixels is None:
        return ""
    pairs = zip(seen.times, wanted.times, strict=False)
    off = any(abs(at - due) > _tick(made, seen) for at, due in pairs)
    if off and made.suffix in CONTAINERS and CONTAINERS[made.suffix].times == "any":
        return f"ffprobe sees other times: {_some(seen.times)} of {_some(wanted.times)}"
    numbers = [number_in(one) for one in wanted.pixels]
    return "" if numbers == wanted.numbers else f"ffmpeg sees the pictures {numbers}"


def same_count(stage: str, count: int, wanted: Expected) -> list[Fault]:
    """Returns a fault if there are more or fewer frames than expected."""
    if count == len(wanted.numbers):
        return []
    return [Fault(stage, "count", f"{count} frames instead of {len(wanted.numbers)}")]


def same_numbers(stage: str, images: Sequence[Pixels], wanted: Expected) -> list[Fault]:
    """Each picture is there once, whole, upright and in its place."""
    numbers = [number_in(one) for one in images]
    if numbers == wanted.numbers:
        return []
    return [Fault(stage, "pictures", f"{numbers} instead of {wanted.numbers}")]


def same_size(
    stage: str, size: tuple[int, int], aspect: Fraction, wanted: Expected, scale: int = 1
) -> list[Fault]:
    """Frames as large as they are shown, and as wide."""
    faults = []
    if size != (scale * wanted.size[0], scale * wanted.size[1]):
        faults.append(Fault(stage, "size", f"{size} of {wanted.size}, times {scale}"))
    if aspect != wanted.aspect:
        faults.append(Fault(stage, "aspect", f"{aspect} instead of {wanted.aspect}"))
    return faults


def same_times(
    stage: str,
    times: Sequence[Fraction],
    wanted: Sequence[Fraction],
    tick: Fraction = Fraction(0),
    kind: str = "times",
) -> list[Fault]:
    """Each frame at its time: to the tick, and where ticks are coarser to the nearest one."""
    if stage == "made" and any(later <= earlier for earlier, later in pairwise(times)):
        return [Fault(stage, kind, f"they do not advance: {_some(times)}")]
    for place, (at, due) in enumerate(zip(times, wanted, strict=False)):
        exact = not tick or due % tick == 0
        if at != due if exact else abs(at - due) > tick / 2:
            told = f"number {place} at {_s(at)} instead of {_s(due)} s"
            return [Fault(stage, kind, f"{told} ({_some(times)} of {_some(wanted)})")]
    return []


def same_end(
    stage: str, end: Fraction | None, wanted: Fraction | None, tick: Fraction
) -> list[Fault]:
    """The last frame is shown as long as it was."""
    if wanted is None or end is None or abs(end - wanted) <= tick:
        return []
    return [Fault(stage, "end", f"the picture ends at {_s(end)} instead of {_s(wanted)} s")]


def honest_length(stage: str, seen: Seen, end: Fraction) -> list[Fault]:
    """A file claims to be no longer than what is in it, whose picture ends then."""
    longest = max([end, *(sound.end for sound in seen.sounds)])
    if seen.length is None or seen.length <= longest + 2 * seen.time_base + Fraction(2, 1000):
        return []
    return [Fault(stage, "length", f"{seen.length:.6f} s claimed of {_s(longest)}")]


def same_pixels(
    stage: str, images: Sequence[Pixels], wanted: Sequence[Pixels], most: int = MOST_LEVELS
) -> list[Fault]:
    """Pictures like those of a plain decoder."""
    for place, (image, right) in enumerate(zip(images, wanted, strict=False)):
        if image.shape != right.shape:
            return [Fault(stage, "pixels", f"frame {place} is {image.shape}, not {right.shape}")]
        off = np.abs(image.astype(int) - right)
        if off.max() > most:
            y, x = np.argwhere(off.max(2) == off.max())[0]
            told = f"{image[y, x].tolist()} instead of {right[y, x].tolist()} at ({x}, {y})"
            return [Fault(stage, "pixels", f"frame {place} is off by {off.max()}: {told}")]
    return []


def near_pixels(stage: str, images: Sequence[Pixels], wanted: Sequence[Pixels]) -> list[Fault]:
    """Pictures of four times the size that an encoder with losses has had, on the whole."""
    for place, (image, right) in enumerate(zip(images, wanted, strict=False)):
        if image.shape[:2] != (4 * right.shape[0], 4 * right.shape[1]):
            return [Fault(stage, "pixels", f"frame {place} is {image.shape} of {right.shape}")]
        off = np.abs(image[1::4, 1::4].astype(int) - right)
        if off.mean() > _MOST_MEAN_LOSS:
            return [
                Fault(stage, "pixels", f"frame {place} is off by {off.mean():.1f} on the whole")
            ]
    return []


def same_colour(
    stage: str, colour: Sequence[str], before: Sequence[str], lines: int
) -> list[Fault]:
    """Tagged as the input was; what had no tag, or was RGB, as the standard of the lines it has."""
    untagged = "bt709" if lines >= _HD_LINES else "smpte170m"
    matrix = before[0] if before[0] not in ("unknown", "gbr", "unspecified") else untagged
    wanted = {"matrix": matrix, "range": "tv" if before[1] == "unknown" else before[1]}
    if before[2] != "unknown":
        wanted["primaries"] = before[2]
    if before[3] != "unknown":
        wanted["transfer"] = before[3]
    found = dict(zip(("matrix", "range", "primaries", "transfer"), colour, strict=True))
    return [
        Fault(stage, "colour", f"{name} {found[name]} instead of {right}")
        for name, right in wanted.items()
        if _SAME.get(found[name], found[name]) != _SAME.get(right, right)
    ]


def same_sounds(
    stage: str,
    sounds: Sequence[SoundSeen],
    wanted: Sequence[SoundSeen],
    moved: Fraction,
    picture_tick: Fraction,
    same_bytes: Sequence[bool],
    exact_ends: bool,
) -> list[Fault]:
    """Every stream with packets, each packet at its time relative to the picture.

    Args:
        moved: Seconds that the picture was moved by.
        picture_tick: Of the clock of the picture where sounds are.
        same_bytes: Whether the bytes of each stream are the same on the whole.
        exact_ends: Both containers say how long a last packet is.
    """
    if len(sounds) != len(wanted):
        return [Fault(stage, "sound", f"{len(sounds)} streams instead of {len(wanted)}")]
    faults = []
    for place, (sound, right, same) in enumerate(zip(sounds, wanted, same_bytes, strict=True)):
        name = f"stream {place}, {right.codec}"
        if not same:
            faults.append(Fault(stage, "sound bytes", f"other bytes in {name}"))
        if right.language and sound.language != right.language:
            faults.append(
                Fault(stage, "tags", f"{name}: {sound.language!r}, not {right.language!r}")
            )
        tick = max(sound.time_base, picture_tick)
        times = [(sound.packets[0][0], right.packets[0][0])]
        if len(sound.packets) == len(right.packets):
            apart = _spread([one[0] for one in right.packets], right.end)
            times = list(zip([one[0] for one in sound.packets], apart, strict=True))
        elif not right.codec.startswith("pcm"):
            told = f"{len(sound.packets)} packets instead of {len(right.packets)}"
            faults.append(Fault(stage, "sound packets", f"{told} in {name}"))
        off = [(at - due - moved, due) for at, due in times]
        worst, due = max(off, key=lambda pair: abs(pair[0]))
        if abs(worst) > tick:
            faults.append(
                Fault(stage, "sound times", f"{_s(worst)} s off at {_s(due)} s in {name}")
            )
        if exact_ends and right.tells_end and abs(sound.end - right.end - moved) > tick:
            told = f"{_s(sound.end)} instead of {_s(right.end + moved)} s"
            faults.append(Fault(stage, "sound end", f"{name} ends at {told}"))
    return faults


def _spread(times: Sequence[Fraction], end: Fraction) -> list[Fraction]:
    """Packets that share a time follow one another, each as long as the last; none goes back."""
    step, due = end - times[-1], list(times[:1])
    for earlier, later in pairwise(times):
        due.append(max(due[-1], due[-1] + step if later == earlier else later))
    return due


def honest_plan(
    frames: int | None, seconds: float | None, length: Fraction, wanted: Expected
) -> list[Fault]:
    """An estimate of frames and length that is near what there is."""
    count, faults = len(wanted.numbers), []
    if frames is not None and not count / 1.5 - 2 <= frames <= 1.5 * count + 2:
        faults.append(Fault("read", "plan", f"{frames} frames planned of {count}"))
    if seconds is not None and not length / 2 - 1 <= seconds <= 1.5 * float(length) + 1:
        faults.append(Fault("read", "plan", f"{seconds:.3f} s planned of {float(length):.3f}"))
    return faults


def _s(seconds: Fraction) -> str:
    return f"{float(seconds):.6f}"


def _some(times: Sequence[Fraction]) -> str:
    return ", ".join(f"{float(at):.4f}" for at in times[:4]) + (", ..." if times[4:] else "")
