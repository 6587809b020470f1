"""Inputs that were whole once, or never were: cut off, flipped, lying about themselves, no video.

Each is entered into the list of ``odd_inputs``. Nothing here uses the code under test.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from streamdiffvsr.tests.files.odd_inputs import FFV1, INPUTS, PLAIN, PTS, Odd, Outcome, odd
from streamdiffvsr.tests.media.clips import Clip

_FIRST_INDEX = {"movflags": "faststart"}


def cut(name: str, share: float, outcome: Outcome, made: Clip = PLAIN) -> None:
    """Enter a file of which the last part is missing."""

    def make(folder: Path) -> Path:
        whole = made.write(folder / f"whole_{name}").read_bytes()
        path = folder / name
        path.write_bytes(whole[: int(share * len(whole))])
        return path

    INPUTS[f"{Path(name).stem}_{name.split('.')[1]}_cut_at_{round(100 * share)}"] = Odd(
        make, outcome
    )


def flipped(name: str, bits: int, seed: int, made: Clip = PLAIN) -> None:
    """Enter a file in which some bits are wrong, anywhere."""

    def make(folder: Path) -> Path:
        data = bytearray(made.write(folder / f"whole_{name}").read_bytes())
        generator = np.random.default_rng(seed)
        for place in generator.integers(0, 8 * len(data), bits):
            data[place // 8] ^= 1 << (place % 8)
        path = folder / name
        path.write_bytes(data)
        return path

    INPUTS[f"{name.replace('.', '_')}_with_{bits}_wrong_bits_{seed}"] = Odd(make, "either")


def no_video(name: str, data: bytes) -> None:
    """Enter a file that is something else."""

    def make(folder: Path) -> Path:
        PLAIN.write(folder / "whole.ts")  # what a playlist would open if it could
        path = folder / "input.mp4"
        path.write_bytes(data)
        return path

    INPUTS[name] = Odd(make, "error")


cut("clip.ts", 0.01, "error")
cut("clip.ts", 0.7, "file")
cut("clip.mkv", 0.7, "file")
cut("clip.h264", 0.7, "file")
cut("clip.mp4", 0.7, "error")
cut("early_index.mp4", 0.7, "file", replace(PLAIN, container_options=_FIRST_INDEX))
cut("early_index.mp4", 0.2, "either", replace(PLAIN, container_options=_FIRST_INDEX))
cut("clip.avi", 0.7, "either", replace(FFV1, codec="mjpeg", pix_fmt="yuvj420p"))

for bits in (1, 8, 64):
    for seed, ending in enumerate(("mp4", "ts", "mkv")):
        flipped(f"flipped.{ending}", bits, seed)
flipped("flipped.h264", 16, 3)
flipped("flipped.avi", 16, 4, replace(FFV1, codec="mjpeg", pix_fmt="yuvj420p"))
flipped("lossless.mkv", 16, 5, FFV1)

no_video("no_bytes", b"")
no_video("one_byte", b"\0")
no_video("text", b"hello\n" * 500)
no_video("noise", np.random.default_rng(0).bytes(20_000))
no_video("archive", b"PK\x03\x04" + bytes(500))
no_video("playlist", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.ts\n#EXT-X-ENDLIST\n")
no_video("script", b"ffconcat version 1.0\nfile whole.ts\n")


@odd("error")
def header_of_8k_without_data(folder: Path) -> Path:
    """An index that promises frames of 7680x4320, and not a byte of them."""
    large = replace(PLAIN, size=(4320, 7680), pts=[0], container_options=_FIRST_INDEX)
    large.image = lambda index, h, w: np.zeros((h, w, 3), np.uint8)
    data = large.write(folder / "whole.mp4").read_bytes()
    path = folder / "header.mp4"
    path.write_bytes(data[: data.index(b"mdat") + 4])
    return path


@odd("either")
def durations_that_lie(folder: Path) -> Path:
    """An MP4 whose table of durations says 2^31 ticks for its first frames."""
    data = bytearray(PLAIN.write(folder / "whole.mp4").read_bytes())
    place = data.index(b"stts") + 16
    data[place : place + 4] = (1 << 31).to_bytes(4, "big")
    path = folder / "stts.mp4"
    path.write_bytes(data)
    return path


@odd("file")
def two_files_in_one(folder: Path) -> Path:
    """Two MP4 files, one behind the other: the first one's index rules."""
    first = PLAIN.write(folder / "1.mp4").read_bytes()
    second = replace(PLAIN, pts=PTS[:5]).write(folder / "2.mp4").read_bytes()
    path = folder / "both.mp4"
    path.write_bytes(first + second)
    return path


@odd("file")
def rubbish_behind_the_end(folder: Path) -> Path:
    path = PLAIN.write(folder / "clip.mp4")
    path.write_bytes(path.read_bytes() + np.random.default_rng(1).bytes(5000))
    return path


@odd("file")
def hole_in_the_middle(folder: Path) -> Path:
    """A stretch of zeros, as a download that was not finished has."""
    data = bytearray(PLAIN.write(folder / "whole.ts").read_bytes())
    third = len(data) // 3
    data[third : third + 188 * 8] = bytes(188 * 8)
    path = folder / "hole.ts"
    path.write_bytes(data)
    return path
